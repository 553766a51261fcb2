"""Learned tables of positions that each image reads as if they had been resized to its own grid: NaFlex.

SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786, section 2.4), timm's NaFlexVit. A module maps the place of each patch
and the grid of its image to a vector, as those of `layers.packed_positions`; here the whole table spans any image, so
no image is too large for it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.layers.packed_positions import check_images
from vitjax.ops.axis_weights import AxisWeights, bicubic_antialias, bilinear

__all__ = ["ResampledAxes", "ResampledGrid", "longer_side", "own_sides"]


def own_sides(grids: Int[Array, "B N 2"]) -> Int[Array, "B N 2"]:
    """The table is stretched over the image, whatever its aspect ratio."""
    return jnp.asarray(grids)


def longer_side(grids: Int[Array, "B N 2"]) -> Int[Array, "B N 2"]:
    """The table is resized to the square of the longer side, of which the image is the upper left part."""
    return jnp.broadcast_to(jnp.max(jnp.asarray(grids), axis=-1, keepdims=True), grids.shape)


class ResampledGrid(nn.Module):
    """One table over rows and columns.

    Attributes:
        weights: how an axis is resized, one of `vitjax.ops.axis_weights`.
        sides: `own_sides` or `longer_side`.
        std: of the initial values.
    """

    weights: AxisWeights = bicubic_antialias
    sides: Callable[[Array], Array] = own_sides
    std: float = 0.02

    @nn.compact
    def __call__(
        self, positions: Int[Array, "B N axes"], grids: Int[Array, "B N axes"], table_grid: tuple[int, ...], width: int
    ) -> Float[Array, "B N D"]:
        """Vectors of all patches; `grids` holds each token's own grid, `table_grid` the table's rows and columns."""
        table = self.param("table", nn.initializers.normal(self.std), (*table_grid, width), jnp.float32)
        rows, columns = _axis_weights(self, positions, grids, table_grid)
        # Of rows and columns together, so that the table is met by one product, and its gradient is one.
        both = (rows[..., :, None] * columns[..., None, :]).reshape(*rows.shape[:2], -1)
        return jnp.einsum("bnl,ld->bnd", both, table.reshape(-1, width), precision="highest")


class ResampledAxes(nn.Module):
    """A table for rows and one for columns, added: timm's "factorized".

    Attributes:
        weights: how an axis is resized, one of `vitjax.ops.axis_weights`.
        sides: `own_sides` or `longer_side`.
        std: of the initial values.
    """

    weights: AxisWeights = bilinear
    sides: Callable[[Array], Array] = own_sides
    std: float = 0.02

    @nn.compact
    def __call__(
        self, positions: Int[Array, "B N axes"], grids: Int[Array, "B N axes"], table_grid: tuple[int, ...], width: int
    ) -> Float[Array, "B N D"]:
        """As `ResampledGrid`; `table_grid` holds the lengths of both tables."""
        vectors = []
        for name, weights in zip(
            ("row_table", "column_table"), _axis_weights(self, positions, grids, table_grid), strict=True
        ):
            shape = (weights.shape[-1], width)
            table = self.param(name, nn.initializers.normal(self.std), shape, jnp.float32)
            vectors.append(jnp.einsum("bnl,ld->bnd", weights, table, precision="highest"))
        return vectors[0] + vectors[1]


def _axis_weights(
    module: ResampledGrid | ResampledAxes, positions: Array, grids: Array, table_grid: tuple[int, ...]
) -> list[Array]:
    check_images(table_grid, type(module).__name__)
    sides, places = module.sides(grids), jnp.asarray(positions)
    return [module.weights(places[..., axis], sides[..., axis], size) for axis, size in enumerate(table_grid)]
