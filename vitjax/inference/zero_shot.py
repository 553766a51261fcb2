"""What a model trained on image-text pairs can do: vectors of texts and pictures, and a classifier out of words."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vitjax.arrays import Batch, Float, Tree
from vitjax.data.pair_rows import stack_texts
from vitjax.data.rows import Piece
from vitjax.data.sources import ImageList
from vitjax.data.text import encode_text
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.predict import Pictures, list_pictures, score_pictures
from vitjax.models.navit_contrastive import ZeroShotNaViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification

__all__ = ["image_vectors", "text_vectors", "zero_shot"]

_logger = logging.getLogger("vitjax")


def zero_shot(
    bundle: Bundle, labels: Sequence[str], templates: Sequence[str] = ("{}",), *, words: Sequence[str] | None = None
) -> Bundle:
    """A classifier for classes that were never trained as such, out of their names.

        classifier = zero_shot(vitjax.load("runs/navit_contrastive"), ("cat", "dog"), ("a photo of a {}.", "a {}"))
        print(classifier.predict("pictures/")[0])

    A class's vector is the mean of the unit vectors of its prompts (Radford et al., 2021, arXiv:2103.00020, section
    3.1.4). It can be saved, and evaluated on any source with these labels.

    Args:
        bundle: of a contrastive model.
        labels: class names.
        templates: prompts, in each of which `{}` stands for the class.
        words: what to call each class in the prompts; its label if not given.

    Raises:
        UserError: the model has no text tower, there are fewer than two classes, or a template has no `{}`.
    """
    _check_contrastive(bundle)
    words = tuple(labels) if words is None else tuple(words)
    if len(labels) < 2 or len(set(labels)) < len(labels) or len(words) != len(labels):
        raise UserError(
            f"zero_shot: {len(labels)} labels and {len(words)} words; expected as many, 2 or more, all different"
        )
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise UserError(
            f"zero_shot: `templates` (={tuple(templates)}): expected texts with one {{}} for the class in each"
        )
    prompts = [template.replace("{}", word) for word in words for template in templates]
    vectors = text_vectors(bundle, prompts).reshape(len(words), len(templates), -1).mean(axis=1)
    module: Any = bundle.module
    return Bundle(
        module=ZeroShotNaViT(
            num_classes=len(words), image=module.image, width=module.width, max_scale=module.max_scale
        ),
        task=PackedClassification(bundle.task.mean, bundle.task.std, SoftmaxCrossEntropy()),
        batches=bundle.batches.images.without_source(),
        labels=tuple(labels),
        make_variables=functools.partial(_classifier_variables, bundle, vectors),
        step=bundle.step,
    )


def _classifier_variables(bundle: Bundle, vectors: np.ndarray) -> Tree:
    kept = ("image_tower", "image_projection", "log_scale")
    params = {name: bundle.variables["params"][name] for name in kept}
    return {"params": params | {"class_vectors": vectors}}


def text_vectors(bundle: Bundle, texts: Sequence[str]) -> Float[np.ndarray, "texts D"]:
    """Unit vectors of texts, packed into rows as in training; texts that are too long are cut, which is logged.

    Raises:
        UserError: the model has no text tower, or something is no text.
    """
    _check_contrastive(bundle)
    batches = bundle.batches
    encoded = [encode_text(batches.tokenizer, text, batches.max_tokens) for text in texts]
    if cut := [text for text, (_, is_cut) in zip(texts, encoded, strict=True) if is_cut]:
        _logger.warning(
            "%d of %d texts are cut to %d tokens, first %r", len(cut), len(texts), batches.max_tokens, cut[0]
        )
    packer = batches.images.policy.packer(
        length=batches.text_length, max_images=batches.max_texts, window=len(texts) + 1
    )
    for number, (text, _) in enumerate(encoded):
        packer.add(Piece(len(text), number))
    packer.flush()
    rows = [[piece.item for piece in row] for row in packer.closed]
    encode = _method(bundle, "encode_texts")
    found = np.zeros((len(texts), bundle.module.width), np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    for start in range(0, len(rows), batches.text_rows):
        part = rows[start : start + batches.text_rows]
        part += [[]] * (batches.text_rows - len(part))  # one shape, one compilation
        held = [[encoded[number][0] for number in row] for row in part]
        arrays = stack_texts(held, length=batches.text_length, max_texts=batches.max_texts)
        vectors = np.asarray(encode(arrays))
        for row, numbers in enumerate(part):
            found[numbers] = vectors[row, : len(numbers)]
    return found


def image_vectors(bundle: Bundle, images: Any) -> Float[np.ndarray, "images D"]:
    """Unit vectors of pictures, to be compared with those of texts or of one another by inner products.

    Args:
        bundle: of a contrastive model.
        images: what `Bundle.predict` takes.

    Returns:
        A row per picture in the order given; NaN for one that cannot be read, which is logged.

    Raises:
        UserError: the model has no text tower, a path does not exist, or something is no picture at all.
    """
    _check_contrastive(bundle)
    pictures = Pictures(ImageList(list_pictures(images)), ())
    inputs = PackedClassification(bundle.task.mean, bundle.task.std).inputs
    encode = _method(bundle, "encode_images")

    def forward(batch: Batch) -> Tree:
        return encode(inputs(batch))

    found = np.full((len(pictures), bundle.module.width), np.nan, np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    for number, vector in score_pictures(pictures, bundle.batches.images, forward):
        found[number] = vector
    if pictures.errors:
        number, reason = next(iter(pictures.errors.items()))
        _logger.warning(
            "%d of %d pictures have no vector, first %s: %s",
            len(pictures.errors), len(pictures), pictures.images.names[number], reason,
        )  # fmt: skip
    return found


def _check_contrastive(bundle: Bundle) -> None:
    if not hasattr(bundle.module, "encode_texts"):
        raise UserError(
            f"{type(bundle.module).__name__} has no text tower; load a model trained on image-text pairs, such as by "
            "configs/navit_contrastive.py"
        )


def _method(bundle: Bundle, name: str) -> Callable[[dict[str, Any]], Any]:
    """A method of the module, compiled, from its keywords."""
    run = jax.jit(lambda variables, inputs: bundle.module.apply(variables, **inputs, method=name))
    return functools.partial(run, bundle.variables)
