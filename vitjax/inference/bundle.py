"""A model with all that is needed to use it: weights, preprocessing, labels. Opened, made, used and written here."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vitjax.arrays import Batch, Tree
from vitjax.config import describe
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.inference.foreign import adapt
from vitjax.inference.foreign_types import Holding
from vitjax.inference.fusing import fused_parts, is_fused
from vitjax.inference.opening import open_any
from vitjax.inference.packed import budgeted, packed_parts
from vitjax.inference.predict import Pictures, open_pictures, score_pictures
from vitjax.inference.preparation import default_preparation, numbered_labels, random_variables
from vitjax.inference.results import Result
from vitjax.inference.writing import FORMATS, write_foreign
from vitjax.models import create_model as create_module
from vitjax.paths import flatten, unflatten
from vitjax.weights.bundle_io import save_bundle
from vitjax.weights.files import put_on_device

__all__ = ["Bundle", "create_model", "load"]

_logger = logging.getLogger("vitjax")


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A model ready for use.

    Attributes:
        module: a linen module.
        task: turns batches into the module's inputs, and its outputs into probabilities.
        batches: description of batches without a source: how images are prepared.
        labels: class names in the order of the module's outputs.
        make_variables: returns `{"params": ..., ...}`; called once, when the weights are first needed.
        step: updates made in training.
        score: of `metric` on the evaluation data, or `None`.
        metric: name of the score.
    """

    module: nn.Module
    task: Any
    batches: Any
    labels: tuple[str, ...]
    make_variables: Callable[[], Tree]
    step: int = 0
    score: float | None = None
    metric: str | None = None

    def __repr__(self) -> str:
        score = "" if self.score is None else f", {self.metric} {self.score:.4g}"
        names = ", ".join(type(part).__name__ for part in (self.module, self.task, self.batches))
        return f"Bundle({names}, {len(self.labels)} labels, step {self.step}{score})"

    @cached_property
    def variables(self) -> Tree:
        """`{"params": ..., ...}` on the default device."""
        return jax.device_put(self.make_variables())

    @cached_property
    def _forward(self) -> Callable[[Batch], Tree]:
        # One jitted function per bundle: later calls of `predict` find the programs that earlier ones compiled.
        def forward(variables: Tree, batch: Batch) -> Tree:
            outputs = self.module.apply(variables, **self.task.inputs(batch), train=False)
            return self.task.predict(outputs, batch)

        if is_fused(self.module):
            # For inference, and mostly small: to hand over hundreds of arrays would be a tenth of its time, so its
            # weights are constants of the program.
            return jax.jit(partial(forward, self.variables))
        return partial(jax.jit(forward), self.variables)

    def predict(self, images: Any, top_k: int = 5, *, tokens: int | None = None) -> list[Any]:
        """Classifies pictures of any size, or finds what the task looks for in them.

        Args:
            images: a path, folder, pattern, http(s) address, file's bytes, PIL image or array (uint8 0 to 255, or float
                0 to 1), or a list of any of these; see `inference.predict.list_pictures`. A model of clips takes
                animated files (GIF, WebP, PNG) and arrays `[T, H, W, C]`; a picture is a clip of one frame.
            top_k: how many classes, or objects, `result.top()` returns and `print(result)` shows.
            tokens: budget of a model of packed rows: each picture is resized, aspect ratio kept, to at most as many
                patches, instead of the bundle's own size. One program is compiled per budget.

        Returns:
            One result per picture in the order given, a folder's pictures by name: a `Result`, or what the task's
            `make_result` makes. One that cannot be read has `error` set instead of scores, and is logged.

        Raises:
            UserError: a path does not exist, something given is no picture at all, `top_k` is not positive, or the
                model has one size of pictures and takes no budget.
        """
        if top_k < 1:
            raise UserError(f"`top_k` (={top_k}) must be 1 or more")
        batches = self.batches if tokens is None else budgeted(self.batches, tokens)
        pictures = open_pictures(images, batches, self.labels)
        make_result = getattr(self.task, "make_result", self._make_result)
        unpack = getattr(self.task, "unpack", lambda predictions, batch: predictions)

        def result_of(number: int, prediction: Tree | None, error: str | None) -> Any:
            name, size = pictures.images.names[number], pictures.seen_sizes.get(number)
            read = partial(_read_picture, pictures, number)
            return make_result(name, self.labels, prediction, size, top_k, error=error, picture=read)

        found = {}
        for number, prediction in score_pictures(pictures, batches, lambda batch: unpack(self._forward(batch), batch)):
            found[number] = result_of(number, prediction, None)
            del prediction  # its batch's raw predictions, such as masks of every query, go before the next one's come
        left_out = "the preparation of the batches left it out"
        results = [
            found[number] if number in found else result_of(number, None, pictures.errors.get(number, left_out))
            for number in range(len(pictures))
        ]
        failed = [result for result in results if result.error is not None]
        if failed:
            _logger.warning("predict: %d of %d pictures have no scores, first %s", len(failed), len(results), failed[0])
        return results

    def _make_result(
        self,
        name: str,
        labels: tuple[str, ...],
        prediction: np.ndarray | None,
        original_size: tuple[int, int] | None,
        top_k: int,
        *,
        error: str | None,
        picture: Callable[[], np.ndarray],
    ) -> Result:
        """That of a classifier; a task with other predictions has a method of this form, `make_result`."""
        if prediction is not None and len(prediction) != len(labels):
            raise UserError(f"the model has {len(prediction)} outputs, but the bundle holds {len(labels)} labels")
        return Result(name, labels, prediction, error=error, top_k=top_k)

    def evaluate(self, source: Any, *, tokens: int | None = None) -> dict[str, float]:
        """Scores over all examples of a source whose labels are the bundle's, at a budget of `tokens` as in `predict`.

        Raises:
            UserError: the source has other labels, or no example that can be read.
        """
        if tuple(source.labels) != self.labels:
            given, known = (", ".join((*names[:3], "...")) for names in (source.labels, self.labels))
            raise UserError(
                f"{source.name} has {len(source.labels)} labels ({given}), but the model was trained on "
                f"{len(self.labels)} ({known}); both must be the same, in one order"
            )
        meter = self.task.meter()
        batches = self.batches if tokens is None else budgeted(self.batches, tokens)
        for batch in batches.with_source(source).epoch(Shards()):
            metrics, predictions = jax.device_get(self._scored(self.variables, batch))
            meter.add(metrics, predictions, batch)
        return meter.scores()

    @cached_property
    def _scored(self) -> Callable[[Tree, Batch], tuple[Any, Tree]]:
        @jax.jit
        def scored(variables: Tree, batch: Batch) -> tuple[Any, Tree]:
            outputs = self.module.apply(variables, **self.task.inputs(batch), train=False)
            return self.task.loss(outputs, batch)[1], self.task.predict(outputs, batch)

        return scored

    def fuse(self) -> "Bundle":
        """The same model for inference, its batch norms folded into the convolutions in front of them.

        The log says how many parameters go, and how far the outputs for random pictures differ.

        Returns:
            A bundle that predicts the same up to rounding, and can no longer be trained.

        Raises:
            UserError: the model has nothing to fold, or is fused already.
        """
        module, variables = fused_parts(self.module, self.variables, self.task)
        return replace(self, module=module, make_variables=lambda: variables)

    def packed(self, tokens: int | None = None) -> "Bundle":
        """A plain ViT with the same weights on packed rows: several pictures a row, the same answers.

        Args:
            tokens: budget of patches for each picture, which keeps its aspect ratio and is not cropped, its positions
                read from the table at its own grid; `predict(..., tokens=)` changes it. By default pictures are
                prepared as before.

        Raises:
            UserError: the model cannot run packed; the message says why.
        """
        arrays = flatten(jax.device_get(self.variables))
        module, arrays, task, batches = packed_parts(self.module, arrays, self.task, self.batches, tokens)
        return replace(self, module=module, task=task, batches=batches, make_variables=_placed_once(arrays))

    def save(self, folder: str | Path, format: str = "vitjax") -> None:
        """Writes a folder that `load` opens, and whose other readers are named by the format.

        Args:
            folder: replaced if it exists.
            format: "vitjax", our own; "timm" for `timm.create_model("local-dir:FOLDER", pretrained=True)`;
                "huggingface" for `AutoModelForImageClassification.from_pretrained(FOLDER)`, or that of detection or
                segmentation; "huggingface_timm" for a DETR there on timm's ResNet; "authors" for a DETR's weights
                alone, by the names of facebookresearch/detr.

        Raises:
            UserError: an unknown format, one that cannot hold the model, a folder that holds something else, or a
                setting that cannot be written down.
        """
        if format == "vitjax":
            self._save(Path(folder))
        elif format in FORMATS:
            holding = Holding(
                self.module, lambda: flatten(jax.device_get(self.variables)), self.task, self.batches, self.labels
            )
            write_foreign(Path(folder), format, holding)
        else:
            raise UserError(f"`format` (={format!r}) must be one of vitjax, {', '.join(FORMATS)}")

    def _save(self, folder: Path) -> None:
        if folder.exists() and not (folder / "bundle.json").is_file() and (folder.is_file() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is no bundle; it would be overwritten, give another folder")
        save_bundle(
            folder,
            model=describe(self.module),
            task=describe(self.task),
            batches=describe(self.batches.without_source()),
            labels=self.labels,
            variables=jax.device_get(self.variables),
            step=self.step,
            score=self.score,
            metric=self.metric,
        )


def _read_picture(pictures: Pictures, number: int) -> np.ndarray:
    return pictures.images[number]["image"]


def load(
    path: str | Path,
    *,
    name: str | None = None,
    layout: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    channel_order: str | None = None,
    packages: Sequence[str] = ("vitjax",),
    **settings: Any,
) -> Bundle:
    """Opens a trained model, whoever trained it.

        vitjax.load("runs/navit/best")                                       # our own
        vitjax.load("downloads/vit_tiny")                                    # a folder of timm or of Hugging Face
        vitjax.load("hf-hub:google/vit-base-patch16-224")                    # their hub; `@REVISION` may follow
        vitjax.load("vit_base_patch16_224.augreg_in21k_ft_in1k")             # a published name
        vitjax.load("B_16.npz", name="vit_base_patch16_224", num_classes=10) # a file, with a new head

    Labels, preparation and numerics come from the files.

    Args:
        path: a run's folder, of which `best/` is taken; a folder that `Bundle.save`, timm or transformers wrote; a file
            of weights (`.safetensors`, `.pth`, `.bin`, `.npz`); `hf-hub:organisation/name[@revision]`; or a name of
            `vitjax.weights.pretrained.PUBLISHED`.
        name: of the model that a file of weights holds, one of `vitjax.list_models()`.
        layout: whose keys a file of weights has ("timm", "huggingface", "vit_jax", "big_vision", ...); which of several
            sources a published name is taken from.
        num_classes: another number than the file's gets a new head, which is said in the log.
        image_size: side, or (rows, columns); positions are resampled by the layout's rule, which is said in the log.
        labels: class names, instead of the file's.
        channel_order: "rgb" or "bgr", of the pictures that the weights expect, where a file does not say it, or instead
            of what it says. The bundle's preparation turns pictures round by itself.
        packages: top-level packages whose classes may be built. Opening a file never runs other people's code.
        **settings: of the module, instead of the file's: `dtype="bfloat16"`, `norm_epsilon=1e-6`; for a file of weights
            also what it has otherwise than the named model: `use_class_token=False`, `pool=AveragePooling`.

    Raises:
        UserError: there is no complete model at `path`, it does not fit together, or it names something that cannot be
            built.
    """
    opened = open_any(
        path, name=name, layout=layout, packages=packages, settings=settings, any_size=image_size is not None,
        channel_order=channel_order,
    )  # fmt: skip
    opened = adapt(opened, num_classes=num_classes, image_size=image_size, labels=labels, settings=settings)
    return Bundle(
        module=opened.module,
        task=opened.task,
        batches=opened.batches,
        labels=opened.labels,
        make_variables=_placed_once(opened.arrays),
        **opened.facts,
    )


def _placed_once(arrays: dict[str, np.ndarray]) -> Callable[[], Tree]:
    """Puts the arrays on the device when first called; the host's copies are gone then."""
    placed: list[Tree] = []

    def make() -> Tree:
        if not placed:
            placed.append(unflatten(put_on_device(arrays)))
        return placed[0]

    return make


def create_model(name: str, **overrides: Any) -> Bundle:
    """A model of a known size with random weights, made when they are first needed.

    Args:
        name: one of `vitjax.list_models()`.
        **overrides: settings of the module, such as `num_classes=10`.

    Raises:
        UserError: there is no model of that name, or it has no such setting.
    """
    module: Any = create_module(name, **overrides)
    task, batches = default_preparation(module)
    labels = numbered_labels(module.num_classes or 0)
    if not labels:
        raise UserError(f"{name}: `num_classes` (={module.num_classes}) must be positive to predict classes")
    bundle = Bundle(module, task, batches, labels, make_variables=dict)
    return replace(bundle, make_variables=lambda: random_variables(module, task, batches))
