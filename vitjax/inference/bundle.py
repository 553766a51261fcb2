"""A model with all that is needed to use it: weights, preprocessing, labels. Opened, made, used and written here."""

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Batch, Tree
from vitjax.config import build, describe
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import TokenBudget
from vitjax.data.sources import ImageList
from vitjax.data.transforms import Resize, evaluation_transforms
from vitjax.errors import UserError
from vitjax.inference.predict import Pictures, list_pictures, score_pictures, small_batches
from vitjax.inference.results import Result
from vitjax.models import create_model as create_module
from vitjax.tasks.classification import Classification
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.weights.bundle_io import read_bundle, save_bundle

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
    def _forward(self) -> Callable[[Tree, Batch], Array]:
        # One jitted function per bundle: later calls of `predict` find the programs that earlier ones compiled.
        @jax.jit
        def forward(variables: Tree, batch: Batch) -> Array:
            outputs = self.module.apply(variables, **self.task.inputs(batch), train=False)
            return self.task.predict(outputs, batch)

        return forward

    def predict(self, images: Any, top_k: int = 5) -> list[Result]:
        """Classifies pictures of any size.

        Args:
            images: a path, folder, pattern, http(s) address, file's bytes, PIL image or array (uint8 0 to 255, or float
                0 to 1), or a list of any of these; see `inference.predict.list_pictures`.
            top_k: how many classes `result.top()` returns and `print(result)` shows.

        Returns:
            One Result per picture in the order given, a folder's pictures by name. One that cannot be read has
            `error` set instead of scores, and is logged.

        Raises:
            UserError: a path does not exist, something given is no picture at all, or `top_k` is not positive.
        """
        if top_k < 1:
            raise UserError(f"`top_k` (={top_k}) must be 1 or more")
        pictures = Pictures(ImageList(list_pictures(images)), self.labels)
        scores = dict(score_pictures(pictures, self.batches, lambda batch: self._forward(self.variables, batch)))
        results = []
        for number, name in enumerate(pictures.images.names):
            if number in scores:
                self._check_labels(len(scores[number]))
                results.append(Result(name, self.labels, scores[number], top_k=top_k))
            else:
                reason = pictures.errors.get(number, "the preparation of the batches left it out")
                results.append(Result(name, self.labels, error=reason, top_k=top_k))
        failed = [result for result in results if result.error is not None]
        if failed:
            _logger.warning("predict: %d of %d pictures have no scores, first %s", len(failed), len(results), failed[0])
        return results

    def _check_labels(self, num_outputs: int) -> None:
        if num_outputs != len(self.labels):
            raise UserError(f"the model has {num_outputs} outputs, but the bundle holds {len(self.labels)} labels")

    def evaluate(self, source: Any) -> dict[str, float]:
        """Scores over all examples of a source whose labels are the bundle's.

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
        for batch in self.batches.with_source(source).epoch(Shards()):
            metrics, predictions = jax.device_get(self._scored(self.variables, batch))
            meter.add(metrics, predictions, batch)
        return meter.scores()

    @cached_property
    def _scored(self) -> Callable[[Tree, Batch], tuple[Any, Array]]:
        @jax.jit
        def scored(variables: Tree, batch: Batch) -> tuple[Any, Array]:
            outputs = self.module.apply(variables, **self.task.inputs(batch), train=False)
            return self.task.loss(outputs, batch)[1], self.task.predict(outputs, batch)

        return scored

    def save(self, folder: str | Path, format: str = "vitjax") -> None:
        """Writes a folder that `load` opens.

        Args:
            folder: replaced if it exists.
            format: "vitjax", our own, is the only one so far.

        Raises:
            UserError: an unknown format, a folder that holds something else, or a setting that cannot be written down.
        """
        writers = {"vitjax": self._save}
        if format not in writers:
            raise UserError(f"`format` (={format!r}) must be one of {', '.join(writers)}")
        writers[format](Path(folder))

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


def load(path: str | Path, *, packages: Sequence[str] = ("vitjax",)) -> Bundle:
    """Opens a trained model.

    Args:
        path: a run's folder, of which `best/` is taken, or a folder that `Bundle.save` wrote.
        packages: top-level packages whose classes may be built. Opening a file never runs other people's code.

    Raises:
        UserError: there is no complete bundle at `path`, or it names something that cannot be built.
    """
    folder = _find_bundle(path)
    try:
        files = read_bundle(folder)
    except UserError:
        raise
    except Exception as error:  # orbax raises a dozen types for a file cut short
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{folder}: the bundle cannot be read, {type(error).__name__}: {first_line}") from error
    try:
        module, task, batches = (build(node, packages=packages) for node in (files.model, files.task, files.batches))
    except UserError as error:
        raise UserError(f"{folder}: {error} (written by vitjax {files.version})") from error
    return Bundle(
        module=module,
        task=task,
        batches=batches,
        labels=files.labels,
        make_variables=lambda: files.variables,
        step=files.step,
        score=files.score,
        metric=files.metric,
    )


def _find_bundle(path: str | Path) -> Path:
    """The folder with `bundle.json`: `path`, or `best` in it."""
    if "://" in str(path) or str(path).startswith("hf-hub:"):
        raise UserError(f"{path}: only folders on this machine can be opened so far; download it and give its path")
    folder = Path(path)
    for candidate in (folder, folder / "best"):
        if (candidate / "bundle.json").is_file() or candidate.with_name(f".{candidate.name}.old").exists():
            return candidate
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; expected a run's folder or its best/, such as runs/navit/best")
    if (folder / "config.json").is_file():
        raise UserError(f"{folder}: the run has no best/ yet; it is written by the run's first evaluation")
    raise UserError(f"{folder}: expected a run's folder or its best/, with bundle.json and variables/ in it")


def create_model(name: str, **overrides: Any) -> Bundle:
    """A model of a known size with random weights, made when they are first needed.

    Args:
        name: one of `vitjax.list_models()`.
        **overrides: settings of the module, such as `num_classes=10`.

    Raises:
        UserError: there is no model of that name, or it has no such setting.
    """
    module: Any = create_module(name, **overrides)
    task, batches = _default_preparation(module)
    labels = tuple(f"class {number}" for number in range(module.num_classes or 0))
    if not labels:
        raise UserError(f"{name}: `num_classes` (={module.num_classes}) must be positive to predict classes")
    bundle = Bundle(module, task, batches, labels, make_variables=dict)
    return replace(bundle, make_variables=lambda: _random_variables(bundle))


def _default_preparation(module: Any) -> tuple[Any, Any]:
    """Task and batches for what the module takes: images of one shape, or patches of images of any shape."""
    takes = inspect.signature(type(module).__call__).parameters
    if "patches" in takes:
        # 256 tokens are what NaViT's inference results are quoted at (arXiv:2307.06304, section 3.6).
        tokens = 256
        resolution: Any = TokenBudget(tokens)
        batches = PackedBatches(
            source=None,
            patch_size=module.patch_size,
            length=4 * tokens,
            rows=4,
            packers=1,
            max_images=16,
            resolution=resolution,
        )
        return PackedClassification(), batches
    rows, columns = module.image_shape
    transforms = evaluation_transforms(rows) if rows == columns else (Resize((rows, columns)),)
    return Classification(), ImageBatches(source=None, transforms=transforms, batch_size=16)


def _random_variables(bundle: Bundle) -> Tree:
    """Variables of the module for a grey picture."""
    started = time.monotonic()
    grey = Pictures(ImageList(np.full((64, 64, 3), 128, np.uint8)), bundle.labels)
    (batch,) = small_batches(grey, bundle.batches)

    @jax.jit
    def initialise(key: jax.Array, batch: Batch) -> Tree:
        return bundle.module.init(key, **bundle.task.inputs(batch), train=False)

    variables = initialise(jax.random.key(0), jax.tree.map(jnp.asarray, batch))
    _logger.info("%s: random weights made in %.1f s", type(bundle.module).__name__, time.monotonic() - started)
    return variables
