"""Position embeddings of table 3: each is what its name says, and each can be said in a config."""

import itertools

import jax
import numpy as np
import pytest

from vitjax.config import build, describe, factory, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.layers import packed_positions as positions
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side, own_sides
from vitjax.models.navit import NaViT
from vitjax.ops import axis_weights

GRIDS = ((2, 3), (4, 2), (1, 4))
MAX_GRID, WIDTH = (4, 4), 8
PLACES = np.concatenate([np.indices(grid).reshape(2, -1).T for grid in GRIDS])[None]
OWN = np.concatenate([np.full((grid[0] * grid[1], 2), grid) for grid in GRIDS])[None]

COORDINATES = (positions.absolute, positions.fractional, positions.fractional_of_longer)
COMBINATIONS = (positions.Sum, positions.Stack, positions.Product)
EMBEDDINGS = {
    f"{axis.__name__}, {coordinates.__name__}, {combine.__name__}": factory(
        positions.FactorisedPositions, axis=factory(axis), coordinates=factory(coordinates), combine=spec(combine)
    )
    for axis, coordinates, combine in itertools.product(
        (positions.LearnedAxis, positions.SinusoidalAxis), COORDINATES, COMBINATIONS
    )
}
EMBEDDINGS |= {
    f"Fourier, {coordinates.__name__}": factory(positions.FourierPositions, coordinates=factory(coordinates))
    for coordinates in COORDINATES
}
EMBEDDINGS |= {"learned 2-D": factory(positions.JointPositions), "learned 1-D": factory(positions.FlatPositions)}
EMBEDDINGS |= {
    f"{kind.__name__}, {weights.__name__}, {sides.__name__}": factory(
        kind, weights=factory(weights), sides=factory(sides)
    )
    for kind, weights, sides in itertools.product(
        (ResampledGrid, ResampledAxes),
        (axis_weights.bilinear_antialias, axis_weights.bicubic),
        (own_sides, longer_side),
    )
}
MIRRORED = {name for name in EMBEDDINGS if name.startswith("Sinusoidal") and not name.endswith("Stack")}


@pytest.fixture(scope="module")
def vectors():
    """Vectors of all places by embedding; one program for all."""
    modules = {name: build(node)() for name, node in EMBEDDINGS.items()}

    @jax.jit
    def run(places, own):
        found = {}
        for number, (name, module) in enumerate(modules.items()):
            arguments = (places, own, MAX_GRID, WIDTH)
            found[name] = module.apply(module.init(jax.random.key(number), *arguments), *arguments)
        return found

    return {name: np.asarray(value)[0] for name, value in run(PLACES, OWN).items()}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_each_can_be_said_in_a_config_and_tells_the_places_of_an_image_apart(name, vectors):
    node = spec(NaViT, num_classes=2, positions=EMBEDDINGS[name])
    model = build(from_json(to_json(node)))
    assert to_json(describe(model)) == to_json(node)
    start = 0
    for rows, columns in GRIDS:
        own = vectors[name][start : start + rows * columns]
        assert own.shape == (rows * columns, WIDTH)
        assert np.isfinite(own).all()
        distances = np.abs(own[:, None] - own[None]).max(axis=-1) + np.eye(len(own))
        assert distances.min() > 1e-6 or name in MIRRORED
        start += rows * columns


def test_what_each_coordinate_shares_between_images(vectors):
    first, second = slice(0, 6), slice(6, 14)  # 2x3 and 4x2
    same_place = [(0, 0), (1, 1), (3, 2), (4, 3)]  # (row, column) 0..1 of both
    for name in ("LearnedAxis, absolute, Sum", "SinusoidalAxis, absolute, Stack", "learned 2-D", "Fourier, absolute"):
        for one, other in same_place:
            np.testing.assert_allclose(vectors[name][first][one], vectors[name][second][other], atol=1e-6)
    # By the share of its side: row 1 of 2 is row 2 of 4.
    fractional = vectors["LearnedAxis, fractional, Stack"][:, :4]
    np.testing.assert_allclose(fractional[first][3], fractional[second][4], atol=1e-6)
    # In reading order: patch 4 is (1, 1) of three columns and (2, 0) of two.
    flat = vectors["learned 1-D"]
    np.testing.assert_array_equal(flat[first][4], flat[second][4])


def test_sinusoids_that_are_not_stacked_cannot_tell_a_place_from_its_mirror_image(vectors):
    for combination in ("Sum", "Product"):
        own = vectors[f"SinusoidalAxis, absolute, {combination}"][:6].reshape(2, 3, WIDTH)
        np.testing.assert_allclose(own[0, 1], own[1, 0], atol=1e-6)
    own = vectors["SinusoidalAxis, absolute, Stack"][:6].reshape(2, 3, WIDTH)
    assert np.abs(own[0, 1] - own[1, 0]).max() > 0.1


@pytest.mark.parametrize("kind", [positions.JointPositions, positions.FlatPositions])
def test_beyond_the_table_is_an_error_or_nan(kind):
    module, far = kind(), np.array([[[4, 3]]])
    arguments = (far, np.array([[[5, 4]]]), MAX_GRID, WIDTH)
    with pytest.raises(UserError, match="`max_grid` has"):
        module.init(jax.random.key(0), *arguments)
    table = module.init(jax.random.key(0), np.zeros((1, 1, 2), int), np.ones((1, 1, 2), int), MAX_GRID, WIDTH)
    beyond = jax.jit(lambda places, own: module.apply(table, places, own, MAX_GRID, WIDTH))(*arguments[:2])
    assert np.isnan(beyond).all()
