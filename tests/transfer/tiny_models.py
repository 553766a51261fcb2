"""A small ViT with random weights, as a bundle, and tasks added to it."""

import jax
import numpy as np

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import Resize
from vitjax.inference.bundle import Bundle
from vitjax.models.memory_vit import MemoryTask, MemoryViT
from vitjax.models.vit import ViT
from vitjax.paths import flatten, unflatten
from vitjax.tasks.classification import Classification

SIZES = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4, "mlp_width": 48}
IMAGES = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
PICTURE = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def drawn(module, given=None):
    """Random variables, those of `given` excepted."""
    shapes = flatten(jax.eval_shape(module.init, jax.random.key(0), IMAGES))
    rng = np.random.default_rng(len(shapes))
    made = {path: (rng.standard_normal(leaf.shape) * 0.2).astype(np.float32) for path, leaf in shapes.items()}
    return unflatten(made | {path: leaf for path, leaf in flatten(given or {}).items() if path in made})


def bundle(module, labels, given=None):
    variables = drawn(module, given)
    batches = ImageBatches(source=None, batch_size=2, transforms=(Resize(16),))
    return Bundle(module, Classification(), batches, labels, make_variables=lambda: variables)


def vit(**overrides):
    return bundle(ViT(num_classes=3, **{**SIZES, **overrides}), ("a", "b", "c"))


def with_task(base, name, cells=5, labels=("x", "y"), earlier=()):
    """A bundle as training a masked task on `base` leaves it; `earlier` are such bundles whose tasks it sees."""
    tasks = tuple(task for other in earlier for task in other.module.tasks if task.name != name)
    tasks += (MemoryTask(name, cells, len(labels), sees=tuple(task.name for task in tasks)),)
    module = MemoryViT(**SIZES, num_classes=len(labels), base_classes=3, tasks=tasks)
    given = unflatten(
        {path: leaf for other in (base, *earlier) for path, leaf in flatten(jax.device_get(other.variables)).items()}
    )
    return bundle(module, labels, given)
