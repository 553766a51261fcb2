"""NaViT on clips: what is packed beside a clip, another clip or a picture, changes nothing of it."""

import functools

import jax
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.layers import packed_positions as positions
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid
from vitjax.models.navit import NaViT

SETTINGS = {"num_classes": 5, "patch_size": 2, "max_grid": (3, 4, 4), "width": 12, "depth": 1, "num_heads": 2}
SETTINGS |= {"mlp_width": 16, "zero_init_head": False}
LENGTH, SLOTS = 40, 3
GRIDS = ((2, 3, 2), (1, 2, 4), (3, 2, 2), (2, 2, 2))  # the second is a picture's: one time


def clips(seed=0):
    """Grids with their patches of two frames, a quarter of which is dropped."""
    rng = np.random.default_rng(seed)
    found = []
    for grid in GRIDS:
        places = np.stack(np.indices(grid), -1).reshape(-1, 3)
        places = places[np.sort(rng.permutation(len(places))[: len(places) * 3 // 4])]
        found.append(
            {"patches": rng.standard_normal((len(places), 24)).astype(np.float32), "positions": places, "grid": grid}
        )
    return found


def pack(rows):
    batch = {
        "patches": np.zeros((len(rows), LENGTH, 24), np.float32),
        "segments": np.zeros((len(rows), LENGTH), np.int32),
        "positions": np.zeros((len(rows), LENGTH, 3), np.int32),
        "grid_sizes": np.ones((len(rows), SLOTS, 3), np.int32),
    }
    for number, row in enumerate(rows):
        start = 0
        for slot, clip in enumerate(row):
            at = slice(start, start := start + len(clip["patches"]))
            batch["patches"][number, at] = clip["patches"]
            batch["positions"][number, at] = clip["positions"]
            batch["segments"][number, at] = slot + 1
            batch["grid_sizes"][number, slot] = clip["grid"]
    return batch


@functools.cache
def made():
    model = NaViT(**SETTINGS)
    batch = pack([clips()[:3], clips()[3:]])
    return model, jax.jit(lambda key: model.init(key, **batch))(jax.random.key(0)), jax.jit(model.apply)


def test_a_clip_packed_with_others_is_the_clip_alone_and_their_order_does_not_matter():
    _, variables, run = made()
    found = clips()
    together = run(variables, **pack([found[:3], found[3:]]))
    for slot in range(3):
        alone = run(variables, **pack([[found[slot]], []]))
        np.testing.assert_allclose(together[0, slot], alone[0, 0], atol=1e-5)
    turned = run(variables, **pack([found[3:], [found[2], found[0], found[1]]]))
    np.testing.assert_allclose(turned[1], together[0, [2, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(turned[0, 0], together[1, 0], atol=1e-5)


def test_the_gradient_of_one_clip_by_the_pixels_of_another_is_exactly_zero():
    model, variables, _ = made()
    batch = pack([clips()[:3], clips()[3:]])

    @jax.jit
    def gradients(patches):
        def outputs(patches):
            return (model.apply(variables, **{**batch, "patches": patches}) ** 2).sum(axis=-1)[0]

        return jax.jacrev(outputs)(patches)

    by_slot = np.asarray(gradients(batch["patches"]))
    for slot in range(3):
        own = batch["segments"] == slot + 1
        own[1] = False
        assert not by_slot[slot][~own].any()
        assert np.abs(by_slot[slot][own]).max(axis=-1).min() > 0


def test_a_tubelets_place_in_time_matters():
    _, variables, run = made()
    batch = pack([clips()[:3], clips()[3:]])
    shifted = {**batch, "positions": batch["positions"].copy()}
    own = batch["segments"][0] == 1
    shifted["positions"][0, own, 0] = 1 - shifted["positions"][0, own, 0]  # played backwards
    before, after = run(variables, **batch), run(variables, **shifted)
    assert np.abs(before[0, 0] - after[0, 0]).max() > 1e-7
    np.testing.assert_array_equal(before[0, 1:], after[0, 1:])


def test_paths_of_images_stay_and_time_has_one_of_its_own():
    _, variables, _ = made()
    tables = {name: value["table"].shape for name, value in variables["params"]["position_embedding"].items()}
    assert tables == {"times": (3, 12), "rows": (4, 12), "columns": (4, 12)}


@pytest.mark.parametrize(
    ("max_grid", "axes", "message"),
    [
        ((4, 4), 3, "has 2 axes, and the patches' positions have 3"),
        ((2, 4, 4), 2, "has 3 axes, and the patches' positions have 2"),
    ],
)
def test_images_and_clips_are_not_taken_for_each_other(max_grid, axes, message):
    batch = pack([clips()[:3], clips()[3:]])
    batch |= {name: batch[name][..., -axes:] for name in ("positions", "grid_sizes")}
    with pytest.raises(UserError, match=message):
        NaViT(**{**SETTINGS, "max_grid": max_grid}).init(jax.random.key(0), **batch)


@pytest.mark.parametrize("max_grid", [(4,), (2, 2, 4, 4), (0, 4, 4)])
def test_other_numbers_of_axes_are_refused(max_grid):
    with pytest.raises(UserError, match="`max_grid`"):
        NaViT(**{**SETTINGS, "max_grid": max_grid})


def test_beyond_the_times_is_an_error_or_nan():
    model, variables, run = made()
    batch = pack([clips()[:3], clips()[3:]])
    batch["positions"][0, 0, 0] = 3
    with pytest.raises(UserError, match="at 3 of the times, but `max_grid` has 3 times"):
        model.apply(variables, **batch)
    assert np.isnan(run(variables, **batch)[0, 0]).all()


PLACES = np.concatenate([np.stack(np.indices(grid), -1).reshape(-1, 3) for grid in GRIDS])[None]
OWN = np.concatenate([np.full((np.prod(grid), 3), grid) for grid in GRIDS])[None]


@pytest.fixture(scope="module")
def vectors():
    """Vectors of all places by embedding; one program for all."""
    modules = {
        f"{axis.__name__} {coordinates.__name__} {type(combine).__name__}": positions.FactorisedPositions(
            axis=axis, coordinates=coordinates, combine=combine
        )
        for axis, coordinates, combine in [
            (positions.LearnedAxis, positions.absolute, positions.Sum()),
            (positions.LearnedAxis, positions.fractional, positions.Stack()),
            (positions.LearnedAxis, positions.fractional_of_longer, positions.Product()),
            (positions.SinusoidalAxis, positions.absolute, positions.Stack()),
        ]
    } | {"Fourier": positions.FourierPositions()}

    @jax.jit
    def run():
        arguments = PLACES, OWN, (3, 4, 4), 12
        return {
            name: module.apply(module.init(jax.random.key(number), *arguments), *arguments)
            for number, (name, module) in enumerate(modules.items())
        }

    return {name: np.asarray(value)[0] for name, value in run().items()}


def test_each_embedding_tells_the_places_of_a_clip_apart(vectors):
    assert len(vectors) == 5
    for name, value in vectors.items():
        start = 0
        for grid in GRIDS:
            own = value[start : start + np.prod(grid)]
            distances = np.abs(own[:, None] - own[None]).max(axis=-1) + np.eye(len(own))
            assert distances.min() > 1e-7, name
            start += len(own)


def test_longer_sides_are_of_the_picture_and_time_is_of_the_clip():
    share = [np.asarray(positions.fractional_of_longer(PLACES, OWN, 1000, axis)) / 1000 for axis in range(3)]
    np.testing.assert_allclose(share[0], PLACES[..., 0] / OWN[..., 0], rtol=1e-6)
    for axis in (1, 2):
        np.testing.assert_allclose(share[axis], PLACES[..., axis] / OWN[..., 1:].max(axis=-1), rtol=1e-6)


@pytest.mark.parametrize("kind", [positions.JointPositions, positions.FlatPositions, ResampledGrid, ResampledAxes])
def test_tables_of_images_refuse_clips(kind):
    with pytest.raises(UserError, match=f"{kind.__name__} has one table for rows and columns|{kind.__name__} "):
        kind().init(jax.random.key(0), PLACES, OWN, (3, 4, 4), 12)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="`width` \\(=16\\) must be divisible by 3"):
        positions.FactorisedPositions(combine=positions.Stack()).init(jax.random.key(0), PLACES, OWN, (3, 4, 4), 16)
