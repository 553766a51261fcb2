"""Attention maps of any model of the library that attends, and rollout.

Attention is linear in its values, whatever else it does (masks, packing, re-attention). With the unit vectors as values
it returns its own map. So the map of a `layers.attention.SelfAttention` is read from outside, by the very function that
the model attends with. Layers that attend in another way (memory, cascaded groups) sow theirs into the collection
`layers.attention.MAPS`. Nothing is paid where maps are not asked for.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, Tree
from vitjax.data.sources import ImageList
from vitjax.errors import UserError
from vitjax.inference.predict import Pictures, list_pictures, small_batches
from vitjax.layers.attention import MAPS, SelfAttention
from vitjax.ops.attention import Attend
from vitjax.paths import flatten

__all__ = ["PictureMaps", "attention_maps", "attention_of_pictures", "rollout"]


def attention_maps(module: nn.Module, variables: Tree, **inputs: Any) -> dict[str, Float[Array, "B A N M"]]:
    """The attention map of every layer, as it averages the values: behind masks, norms and re-attention.

    Element `[b, a, n, m]` is what query token n takes from key token m. Token 0 is the class token where there is one;
    keys beyond the queries are memory.
    In a packed row, tokens of different images have 0 between them, and padding takes nothing.

    Args:
        module: a linen module of this library.
        variables: `{"params": ..., ...}`.
        **inputs: of the module's call; the first of them has the batch axis, which is images or packed rows, in front.

    Returns:
        By path of the attention module, such as `block_0/attention`, in the order of the layers; in the module's
        compute type.

    Raises:
        UserError: no layer of the module attends.
    """
    first = next(iter(inputs.values()))
    return _natural_order(_read_all(module, len(first))(variables, inputs), module)


def _read_all(module: nn.Module, batch: int) -> Any:
    """The jitted program `(variables, inputs) -> {path: map}`."""

    def record(call: Any, arguments: tuple, keywords: dict, context: Any) -> Any:
        layer = context.module
        if not isinstance(layer, SelfAttention) or context.method_name != "__call__":
            return call(*arguments, **keywords)
        tokens, attend = arguments

        def attend_and_tell(query: Array, key: Array, value: Array, scale: float) -> Array:
            layer.sow(MAPS, "map", _read_map(attend, query, key, value, scale, batch))
            return attend(query, key, value, scale)

        return call(tokens, attend_and_tell, **keywords)

    @jax.jit
    def read(variables: Tree, inputs: Mapping[str, Any]) -> dict[str, Array]:
        with nn.intercept_methods(record):
            _, state = module.apply(variables, **inputs, train=False, mutable=[MAPS])
        found = flatten(state.get(MAPS, {}))
        return {path.removesuffix("/map/0"): value for path, value in found.items()}

    return read


def _read_map(  # noqa: PLR0917, the signature of `Attend` and what it leaves out
    attend: Attend, query: Array, key: Array, value: Array, scale: float, batch: int
) -> Array:
    """Attends to unit vectors, as many at a time as a value has numbers: kernels insist on their shapes."""
    keys, heads, size = value.shape[0] // batch, *value.shape[1:]
    units = jnp.eye(keys, -(-keys // size) * size, dtype=value.dtype)
    columns = []
    for start in range(0, units.shape[1], size):
        probe = jnp.broadcast_to(units[None, :, None, start : start + size], (batch, keys, heads, size))
        columns.append(attend(query, key, probe.reshape(-1, heads, size), scale))
    maps = jnp.concatenate(columns, axis=-1)[..., :keys]
    return maps.reshape(batch, -1, heads, keys).swapaxes(1, 2)


def _natural_order(maps: dict[str, Array], module: nn.Module) -> dict[str, Array]:
    """Numbers in the paths in the order of numbers."""
    if not maps:
        raise UserError(f"{type(module).__name__} has no attention map: no layer of it attends")

    def key(path: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]

    return {path: maps[path] for path in sorted(maps, key=key)}


def rollout(maps: Sequence[Float[Array, "B A N M"]]) -> Float[Array, "B N N"]:
    """What each token of the last layer has taken from each token of the first (Abnar and Zuidema 2020).

    Heads are averaged, half of each token is its residual, and the layers' maps are multiplied. Rows add up to 1.
    Re-attention's maps may be negative and their rows do not add up to 1: their magnitudes count. What is taken from
    memory, keys beyond the queries, is from no token and left out.

    Args:
        maps: of the layers, first to last.

    Raises:
        UserError: a map has more queries than keys, or layers have different numbers of tokens.
    """
    if not maps:
        raise UserError("rollout: there are no maps")
    joint = None
    for layer in maps:
        queries, keys = layer.shape[-2:]
        if queries > keys or (joint is not None and queries != joint.shape[-1]):
            raise UserError(f"rollout: a map of {queries} queries and {keys} keys cannot be multiplied with the others")
        weights = jnp.abs(jnp.asarray(layer[..., :queries], jnp.float32).mean(axis=1))
        weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)
        mixed = 0.5 * weights + 0.5 * jnp.eye(queries)
        mixed = mixed / mixed.sum(axis=-1, keepdims=True)  # rows of padding had no weights
        joint = mixed if joint is None else jnp.einsum("bnm,bmk->bnk", mixed, joint)
    assert joint is not None
    return joint


@dataclass(frozen=True)
class PictureMaps:
    """The attention maps of one picture.

    Attributes:
        name: of the picture.
        image: uint8 `[H, W, C]`, as the model got it.
        maps: by layer, float32 `[A, N, M]`; keys beyond the N tokens are memory.
        grid: rows and columns of its patches, which are the last of the N tokens.
    """

    name: str
    image: np.ndarray
    maps: dict[str, np.ndarray]
    grid: tuple[int, int]

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        tokens = next(iter(self.maps.values())).shape[-2]
        return tokens - self.grid[0] * self.grid[1]

    def rollout(self) -> np.ndarray:
        """What the class token, or the average of all tokens, has taken from each patch: `[rows, columns]`."""
        joint = np.asarray(rollout([array[None] for array in self.maps.values()]))[0]
        reader = joint[0] if self.num_prefix else joint.mean(axis=0)
        return reader[self.num_prefix :].reshape(self.grid)


def attention_of_pictures(bundle: Any, images: Any, *, grid: tuple[int, int] | None = None) -> list[PictureMaps]:
    """The attention maps of pictures, prepared as the bundle prepares them.

    Args:
        bundle: what `vitjax.load` and `vitjax.create_model` return.
        images: as `Bundle.predict` takes them.
        grid: rows and columns of patches; found out from packed rows and from the module's `grid` if not given.

    Raises:
        UserError: a picture cannot be read, or the number of tokens does not fit the grid.
    """
    pictures = Pictures(ImageList(list_pictures(images)), bundle.labels)
    found: dict[int, PictureMaps] = {}
    for batch in small_batches(pictures, bundle.batches):
        maps = attention_maps(bundle.module, bundle.variables, **bundle.task.inputs(batch))
        arrays = {path: np.asarray(value, np.float32) for path, value in maps.items()}
        if "patches" in batch:
            cut = _cut_rows(batch, arrays)
        else:
            cut = _cut_images(batch, arrays, _known_grid(bundle.module) if grid is None else grid)
        for number, image, own, own_grid in cut:
            found[number] = PictureMaps(pictures.images.names[number], image, own, own_grid)
    broken = [f"{pictures.images.names[number]}: {reason}" for number, reason in pictures.errors.items()]
    if broken:
        raise UserError(f"no attention maps of {len(broken)} of {len(pictures)} pictures: {'; '.join(broken)}")
    return [found[number] for number in sorted(found)]


_Cut = Iterator[tuple[int, np.ndarray, dict[str, np.ndarray], tuple[int, int]]]


def _known_grid(module: Any) -> tuple[int, int]:
    grid = getattr(module, "grid", None)
    if grid is None:
        raise UserError(f"{type(module).__name__} does not say its grid of patches; give `grid`=(rows, columns)")
    return grid


def _cut_images(batch: Mapping[str, np.ndarray], maps: dict[str, np.ndarray], grid: tuple[int, int]) -> _Cut:
    tokens = min(array.shape[-2] for array in maps.values())
    if tokens < grid[0] * grid[1]:
        raise UserError(
            f"attention maps of {tokens} tokens do not fit a grid of {grid[0]}x{grid[1]} patches; give `grid`"
        )
    for place in np.flatnonzero(batch["image_mask"]):
        own = {path: array[place] for path, array in maps.items()}
        yield int(batch["example"][place]), batch["image"][place], own, grid


def _cut_rows(batch: Mapping[str, np.ndarray], maps: dict[str, np.ndarray]) -> _Cut:
    """Each image of each packed row alone, its tokens row by row."""
    if batch["positions"].shape[-1] != 2:
        raise UserError("attention maps are of pictures, and this model's rows hold clips")
    for row, slot in np.argwhere(batch["image_mask"]):
        at = np.flatnonzero(batch["segments"][row] == slot + 1)
        places = batch["positions"][row][at]
        at = at[np.lexsort((places[:, 1], places[:, 0]))]
        grid = int(batch["grid_sizes"][row, slot, 0]), int(batch["grid_sizes"][row, slot, 1])
        if len(at) != grid[0] * grid[1]:
            raise UserError(f"a picture has {len(at)} of its {grid[0]}x{grid[1]} patches; turn token dropping off")
        own = {path: array[row][:, at][:, :, at] for path, array in maps.items()}
        yield int(batch["example"][row, slot]), _join_patches(batch["patches"][row][at], grid), own, grid


def _join_patches(patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The image whose patches, row by row, these are; `[H, W, 3]`."""
    side = math.isqrt(patches.shape[-1] // 3)
    image = patches.reshape(*grid, side, side, 3).swapaxes(1, 2)
    return image.reshape(grid[0] * side, grid[1] * side, 3)
