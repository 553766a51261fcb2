"""Where a patch is in its image: NaViT's position embeddings (Dehghani et al. 2023, section 2.2, figure 10a, table 3).

A position embedding maps the (row, column) of each patch and the grid of its image to a vector; of a clip, the (time,
row, column) of each tubelet. It is composed of
- coordinates: the index itself, or a fraction of the image's side;
- what turns a coordinate into a vector: `LearnedAxis`, `SinusoidalAxis`, or all axes at once in `FourierPositions`;
- how the vectors of the axes become one: `Sum`, `Stack`, `Product`.

What the paper compares them with: one table for both axes, `JointPositions` (Pix2Struct's), and one for the patches in
reading order, `FlatPositions` (ViT's). Tables that are resized to each image, NaFlex's, are in
`layers.resampled_positions`, with the same arguments. All of these are of images alone.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.ops.positions import sincos_1d

__all__ = [
    "AXES",
    "FactorisedPositions",
    "FlatPositions",
    "FourierPositions",
    "JointPositions",
    "LearnedAxis",
    "Product",
    "SinusoidalAxis",
    "Stack",
    "Sum",
    "absolute",
    "check_images",
    "fractional",
    "fractional_of_longer",
]


AXES = ("times", "rows", "columns")
"""Names of the axes; images have the last two."""


def absolute(
    positions: Int[Array, "B N axes"], grids: Int[Array, "B N axes"], length: int, axis: int
) -> Float[Array, "B N"]:
    """The index of the patch: how large the image is can be seen, sizes beyond the table cannot."""
    return positions[..., axis].astype(jnp.float32)


def fractional(
    positions: Int[Array, "B N axes"], grids: Int[Array, "B N axes"], length: int, axis: int
) -> Float[Array, "B N"]:
    """The index as a share of the image's own side, spread over a table of `length`: independent of size and aspect.

    An image of exactly `length` patches reads the table's own rows.
    """
    share = positions[..., axis] / grids[..., axis]
    return jnp.minimum(share * length, length - 1.0)


def fractional_of_longer(
    positions: Int[Array, "B N axes"], grids: Int[Array, "B N axes"], length: int, axis: int
) -> Float[Array, "B N"]:
    """As `fractional`, as a share of the image's longer side: keeps the aspect ratio (figure 17). Time is as there."""
    is_side = axis >= grids.shape[-1] - 2
    share = positions[..., axis] / (jnp.max(grids[..., -2:], axis=-1) if is_side else grids[..., axis])
    return jnp.minimum(share * length, length - 1.0)


@runtime_checkable
class Combination(Protocol):
    """How the vectors of all axes become one."""

    def axis_width(self, width: int, axes: int) -> int:
        """The width that each of so many axes must have for a result of `width`."""
        ...

    def __call__(self, *vectors: Array) -> Array:
        """Combines the last dimensions."""
        ...


@dataclass(frozen=True)
class Sum:
    """Row plus column: the paper's best."""

    def axis_width(self, width: int, axes: int) -> int:
        """All are as wide as the result."""
        return width

    def __call__(self, *vectors: Array) -> Array:
        """Element by element."""
        return functools.reduce(operator.add, vectors)


@dataclass(frozen=True)
class Product:
    """Row times column."""

    def axis_width(self, width: int, axes: int) -> int:
        """All are as wide as the result."""
        return width

    def __call__(self, *vectors: Array) -> Array:
        """Element by element."""
        return functools.reduce(operator.mul, vectors)


@dataclass(frozen=True)
class Stack:
    """Row in the first half, column in the second; of clips a third each, time first."""

    def axis_width(self, width: int, axes: int) -> int:
        """Each has its share of the result."""
        if width % axes:
            raise UserError(f"stacked positions: `width` (={width}) must be divisible by {axes}, the number of axes")
        return width // axes

    def __call__(self, *vectors: Array) -> Array:
        """One after another."""
        return jnp.concatenate(vectors, axis=-1)


class LearnedAxis(nn.Module):
    """A learned table over one axis, read between its rows by linear interpolation where a coordinate is a fraction.

    Attributes:
        length: rows of the table.
        width: size of a vector.
        std: of the initial values.
    """

    length: int
    width: int
    std: float = 0.02

    @nn.compact
    def __call__(self, coordinates: Float[Array, "B N"]) -> Float[Array, "B N width"]:
        """NaN where a coordinate lies outside the table, so that nothing trains on a wrong position."""
        table = self.param("table", nn.initializers.normal(self.std), (self.length, self.width), jnp.float32)
        # Hat functions: 1 at a coordinate's own row, for a whole number; two weights that sum to 1 in between. As a
        # product its gradient is a product too, not a scatter.
        weights = jnp.maximum(0.0, 1.0 - jnp.abs(coordinates[..., None] - jnp.arange(self.length)))
        outside = (coordinates < 0) | (coordinates > self.length - 1)
        weights = jnp.where(outside[..., None], jnp.nan, weights)
        return jnp.einsum("bnl,ld->bnd", weights, table, precision="highest")


class SinusoidalAxis(nn.Module):
    """Fixed sinusoids of one axis; no table, so no limit. Both axes have the same: stack them, as the paper does.

    `Sum` and `Product` give a place and its mirror image at the diagonal one vector.

    Attributes:
        length: unused by the sinusoids themselves; the scale of fractional coordinates.
        width: size of a vector, divisible by 2.
    """

    length: int
    width: int

    def __call__(self, coordinates: Float[Array, "B N"]) -> Float[Array, "B N width"]:
        """As `sincos_1d`."""
        return sincos_1d(coordinates, self.width)


class FactorisedPositions(nn.Module):
    """One embedding per axis, combined (section 2.2); the paper's choice is learned, absolute, and summed.

    Parameters lie under `rows` and `columns`, and for clips `times`.

    Attributes:
        axis: factory of a module (length, width) such as `LearnedAxis`.
        coordinates: `absolute`, `fractional` or `fractional_of_longer`.
        combine: `Sum()`, `Stack()` or `Product()`.
    """

    axis: Callable[..., nn.Module] = LearnedAxis
    coordinates: Callable[..., Array] = absolute
    combine: Combination = Sum()

    @nn.compact
    def __call__(
        self,
        positions: Int[Array, "B N axes"],
        grids: Int[Array, "B N axes"],
        max_grid: tuple[int, ...],
        width: int,
    ) -> Float[Array, "B N D"]:
        """Vectors of all patches; `grids` holds each token's own grid, `max_grid` the tables' lengths."""
        positions, grids = jnp.asarray(positions), jnp.asarray(grids)
        vectors = []
        for number, (name, length) in enumerate(zip(AXES[-len(max_grid) :], max_grid, strict=True)):
            coordinates = self.coordinates(positions, grids, length, number)
            axis = self.axis(length=length, width=self.combine.axis_width(width, len(max_grid)), name=name)
            if isinstance(axis, LearnedAxis):
                check_inside(coordinates, length, name)
            vectors.append(axis(coordinates))
        return self.combine(*vectors)


class FourierPositions(nn.Module):
    """Learned frequencies over all axes jointly: one linear map of (row, column), then sine and cosine, stacked.

    Attributes:
        coordinates: `absolute`, `fractional` or `fractional_of_longer`.
        std: of the initial frequencies, in radians per patch.
    """

    coordinates: Callable[..., Array] = absolute
    std: float = 1.0

    @nn.compact
    def __call__(
        self,
        positions: Int[Array, "B N axes"],
        grids: Int[Array, "B N axes"],
        max_grid: tuple[int, ...],
        width: int,
    ) -> Float[Array, "B N D"]:
        """Vectors of all patches; no limit, `max_grid` is the scale of fractional coordinates."""
        if width % 2:
            raise UserError(f"Fourier positions: `width` (={width}) must be even")
        positions, grids = jnp.asarray(positions), jnp.asarray(grids)
        axes = [self.coordinates(positions, grids, length, axis) for axis, length in enumerate(max_grid)]
        kernel = self.param("frequencies", nn.initializers.normal(self.std), (len(axes), width // 2), jnp.float32)
        angles = jnp.einsum("bnc,cd->bnd", jnp.stack(axes, axis=-1), kernel, precision="highest")
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class JointPositions(nn.Module):
    """A learned vector for each (row, column): "Learned 2-D" of table 3, after Pix2Struct (Lee et al. 2023).

    The paper finds that it does not extrapolate: most of the table's places are met by few images.

    Attributes:
        std: of the initial values.
    """

    std: float = 0.02

    @nn.compact
    def __call__(
        self,
        positions: Int[Array, "B N axes"],
        grids: Int[Array, "B N axes"],
        max_grid: tuple[int, ...],
        width: int,
    ) -> Float[Array, "B N D"]:
        """Vectors of all patches; NaN beyond `max_grid`."""
        check_images(max_grid, "JointPositions")
        positions = jnp.asarray(positions)
        for axis, (name, length) in enumerate(zip(AXES[1:], max_grid, strict=True)):
            check_inside(positions[..., axis], length, name)
        table = self.param("table", nn.initializers.normal(self.std), (*max_grid, width), jnp.float32)
        return table.at[positions[..., 0], positions[..., 1]].get(mode="fill", fill_value=jnp.nan)


class FlatPositions(nn.Module):
    """A learned vector for each place in reading order of the image's own grid: "Learned 1-D" of table 3, as in ViT.

    The same number means another place in a grid of another width, which is why the paper finds it worst.

    Attributes:
        std: of the initial values.
    """

    std: float = 0.02

    @nn.compact
    def __call__(
        self,
        positions: Int[Array, "B N axes"],
        grids: Int[Array, "B N axes"],
        max_grid: tuple[int, ...],
        width: int,
    ) -> Float[Array, "B N D"]:
        """Vectors of all patches; the table has a row for each patch of `max_grid`, and beyond it is NaN."""
        check_images(max_grid, "FlatPositions")
        positions, length = jnp.asarray(positions), max_grid[0] * max_grid[1]
        number = positions[..., 0] * jnp.asarray(grids)[..., 1] + positions[..., 1]
        check_inside(number, length, "patches")
        table = self.param("table", nn.initializers.normal(self.std), (length, width), jnp.float32)
        return table.at[number].get(mode="fill", fill_value=jnp.nan)


def check_images(max_grid: tuple[int, ...], owner: str) -> None:
    """Raises `UserError` where positions have another axis than rows and columns."""
    if len(max_grid) != 2:
        raise UserError(
            f"{owner} has one table for rows and columns, and `max_grid` (={max_grid}) is of clips; use "
            "FactorisedPositions or FourierPositions"
        )


def check_inside(coordinates: Array, length: int, axis: str) -> None:
    """Raises `UserError` for a coordinate beyond the table, where coordinates are known (outside `jit`)."""
    if isinstance(coordinates, jax.core.Tracer):
        return
    largest = float(np.max(np.asarray(coordinates), initial=0.0))
    if largest > length - 1:
        raise UserError(
            f"a patch is at {int(largest)} of the {axis}, but `max_grid` has {length} {axis}; "
            "use smaller images or a model with a larger `max_grid`"
        )
