"""What stands between a picture and a module: the preparation to assume or to resize, and fresh variables."""

import inspect
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Batch, Tree
from vitjax.data.batching import ImageBatches
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import TokenBudget
from vitjax.data.sources import ImageList
from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide, ReverseChannels
from vitjax.errors import UserError
from vitjax.inference.assumed import assumed_of
from vitjax.inference.predict import Pictures, small_batches
from vitjax.paths import flatten
from vitjax.tasks.packed_classification import PackedClassification

__all__ = [
    "default_preparation",
    "fresh_variables",
    "image_shape_of",
    "numbered_labels",
    "random_variables",
    "resized_batches",
    "variable_shapes",
]

_logger = logging.getLogger("vitjax")


def default_preparation(module: Any) -> tuple[Any, Any]:
    """Task and batches for what the module takes: images of one shape, or patches of images of any shape."""
    takes = inspect.signature(type(module).__call__).parameters
    if "patches" in takes:
        # 256 tokens are what NaViT's inference results are quoted at (arXiv:2307.06304, section 3.6).
        tokens = 256
        if (packed := assumed_of(module).packed) is not None:
            return packed(tokens, module.patch_size)
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
    assumed = assumed_of(module)
    task = assumed.task(mean=assumed.mean, std=assumed.std)
    if assumed.batches is not None:
        return task, assumed.batches(image_shape_of(module))
    transforms = assumed.transforms(image_shape_of(module))
    return task, ImageBatches(source=None, transforms=transforms, batch_size=16)


def image_shape_of(module: Any) -> tuple[int, int]:
    """Rows and columns of the images that a module is made for."""
    size = getattr(module, "image_shape", None) or getattr(module, "image_size", 224)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def resized_batches(batches: Any, old: tuple[int, int], new: tuple[int, int]) -> Any:
    """The same preparation for images of another size: every resize and crop grows by the same factor.

    Raises:
        UserError: the preparation is not one of images of one size.
    """
    if not isinstance(batches, ImageBatches):
        raise UserError(f"`image_size`: {type(batches).__name__} takes images of any size; leave it out")

    def grow(transform: Any) -> Any:
        size = getattr(transform, "size", None)
        if size is None:
            return transform
        if isinstance(size, int):
            return replace(transform, size=math.floor(size * new[0] / old[0] + 1e-9))
        rows, columns = size
        return replace(transform, size=(math.floor(rows * new[0] / old[0]), math.floor(columns * new[1] / old[1])))

    if new[0] * old[1] == new[1] * old[0]:
        return replace(batches, transforms=tuple(grow(transform) for transform in batches.transforms))
    kinds = [transform.interpolation for transform in batches.transforms if hasattr(transform, "interpolation")]
    turned = tuple(transform for transform in batches.transforms if isinstance(transform, ReverseChannels))
    known = Resize | ResizeShorterSide | CentreCrop | ReverseChannels
    if not all(isinstance(transform, known) for transform in batches.transforms):
        raise UserError(f"`image_size` (={new}): the preparation {batches.transforms} cannot take another aspect ratio")
    return replace(batches, transforms=(Resize(new, next(iter(kinds), "bicubic")), *turned))


def numbered_labels(count: int) -> tuple[str, ...]:
    """Names for classes of which only the number is known."""
    return tuple(f"class {number}" for number in range(count))


def _sample_batch(batches: Any) -> Batch:
    """A grey picture."""
    grey = Pictures(ImageList(np.full((64, 64, 3), 128, np.uint8)), ("grey",))
    (batch,) = small_batches(grey, batches)
    return batch


def variable_shapes(module: Any, task: Any, batches: Any) -> dict[str, tuple[int, ...]]:
    """Path and shape of all variables of a module; nothing is computed."""
    batch = _sample_batch(batches)

    def initialise(key: jax.Array, batch: Batch) -> Tree:
        return module.init(key, **task.inputs(batch), train=False)

    shapes = jax.eval_shape(initialise, jax.random.key(0), batch)
    return {path: tuple(leaf.shape) for path, leaf in flatten(shapes).items()}


def fresh_variables(module: Any, task: Any, batches: Any, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Random values for some of the variables, as the module starts them."""
    batch = jax.tree.map(jnp.asarray, _sample_batch(batches))

    @jax.jit
    def initialise(key: jax.Array, batch: Batch) -> Tree:
        variables = flatten(module.init(key, **task.inputs(batch), train=False))
        return {path: variables[path] for path in paths}

    return {path: np.asarray(array) for path, array in initialise(jax.random.key(0), batch).items()}


def random_variables(module: Any, task: Any, batches: Any) -> Tree:
    """Variables of the module for a grey picture."""
    started = time.monotonic()

    @jax.jit
    def initialise(key: jax.Array, batch: Batch) -> Tree:
        return module.init(key, **task.inputs(batch), train=False)

    variables = initialise(jax.random.key(0), jax.tree.map(jnp.asarray, _sample_batch(batches)))
    _logger.info("%s: random weights made in %.1f s", type(module).__name__, time.monotonic() - started)
    return variables
