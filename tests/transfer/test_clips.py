"""A NaViT of images becomes one of clips: a clip of one still picture is classified as that picture is."""

import functools
import logging

import jax
import numpy as np
import pytest

from vitjax.data.clips import Tubelets
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.layers import packed_positions as positions
from vitjax.models.navit import NaViT
from vitjax.paths import flatten, unflatten
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.transfer.clips import central_frame_kernel, clip_weights

SIZES = {"patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16, "zero_init_head": False}
PICTURE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def bundle_of(module, variables=None, cut=None):
    batches = PackedBatches(
        source=None, patch_size=4, length=32, rows=2, packers=1, max_images=2, resolution=FixedSide(14),
        **({} if cut is None else {"cut": cut}),
    )  # fmt: skip
    bundle = Bundle(module, PackedClassification(), batches, ("a", "b", "c")[: module.num_classes], make_variables=dict)
    if variables is None:
        shapes = variable_shapes(bundle)
        rng = np.random.default_rng(1)
        variables = unflatten(
            {path: 0.3 * rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
        )
    return Bundle(module, bundle.task, batches, bundle.labels, make_variables=lambda: variables)


def variable_shapes(bundle):
    from vitjax.inference.preparation import variable_shapes

    return variable_shapes(bundle.module, bundle.task, bundle.batches)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A bundle of images and the folder it is saved in."""
    bundle = bundle_of(NaViT(num_classes=3, max_grid=(6, 6), **SIZES))
    folder = tmp_path_factory.mktemp("images") / "best"
    bundle.save(folder)
    return bundle, folder


def started(folder, cut, **settings):
    module = NaViT(**{"num_classes": 3, "max_grid": (2, 6, 6), **SIZES, **settings})
    empty = bundle_of(module, {}, cut)
    arrays = clip_weights(module, variable_shapes(empty), path=str(folder))
    return module, arrays


@pytest.mark.parametrize(("frames", "depth"), [(3, 3), (4, 4), (1, 1)])
def test_a_clip_that_stands_still_is_classified_as_its_picture(images, frames, depth):
    bundle, folder = images
    module, arrays = started(folder, Tubelets(frames, depth))
    clip_bundle = bundle_of(module, unflatten(arrays), Tubelets(frames, depth))
    (expected,) = bundle.predict(PICTURE)
    found = clip_bundle.predict([np.repeat(PICTURE[None], frames, axis=0), PICTURE])
    for result in found:
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)


def test_only_the_central_frame_is_seen_at_the_start(images):
    _, folder = images
    module, arrays = started(folder, Tubelets(4, 4))
    bundle = bundle_of(module, unflatten(arrays), Tubelets(4, 4))
    video = np.repeat(PICTURE[None], 4, axis=0)
    others = video.copy()
    others[[0, 1, 3]] = 0
    middle = video.copy()
    middle[2] = 0
    first, second, third = bundle.predict([video, others, middle])
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-6)
    assert np.abs(first.scores - third.scores).max() > 1e-3


def test_what_is_taken_over_and_what_is_not(images, caplog):
    bundle, folder = images
    with caplog.at_level(logging.INFO, logger="vitjax"):
        _, arrays = started(folder, Tubelets(4, 2), num_classes=2)
    stored = flatten(jax.device_get(bundle.variables))
    assert set(stored) - set(arrays) == {"params/head/kernel", "params/head/bias"}
    assert set(arrays) - set(stored) == {"params/position_embedding/times/table"}
    assert not arrays["params/position_embedding/times/table"].any()
    for path in set(stored) & set(arrays) - {"params/patch_embedding/projection/kernel"}:
        np.testing.assert_array_equal(arrays[path], stored[path])
    assert "frame 1 of each tubelet of 2, time starts at zero" in caplog.text
    assert "the head is left out" in caplog.text


def test_fourier_positions_start_without_time(tmp_path):
    fourier = functools.partial(positions.FourierPositions)
    bundle_of(NaViT(num_classes=3, max_grid=(6, 6), positions=fourier, **SIZES)).save(tmp_path / "best")
    _, arrays = started(tmp_path / "best", Tubelets(2, 2), positions=fourier)
    frequencies = arrays["params/position_embedding/frequencies"]
    assert frequencies.shape == (3, 8)
    assert not frequencies[0].any()
    assert frequencies[1:].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 32}, "do not fit the model of clips: .*expected"),
        ({"max_grid": (2, 6, 8)}, r"columns/table \(6, 16\), expected \(8, 16\)"),
        ({"patch_size": 2}, "its `patch_size` is 4, the model's 2"),
        (
            {"positions": functools.partial(positions.FactorisedPositions, combine=positions.Product())},
            r"only in a Sum\(\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(images, settings, message):
    _, folder = images
    module = NaViT(**{"num_classes": 3, "max_grid": (2, 6, 6), **SIZES, **settings})
    batch = {
        "patches": np.zeros((1, 2, 96), np.float32),
        "segments": np.ones((1, 2), np.int32),
        "positions": np.zeros((1, 2, 3), np.int32),
        "grid_sizes": np.ones((1, 1, 3), np.int32),
    }
    shapes = flatten(jax.eval_shape(functools.partial(module.init, **batch), jax.random.key(0)))
    with pytest.raises(UserError, match=message):
        clip_weights(module, {path: leaf.shape for path, leaf in shapes.items()}, path=str(folder))


def test_a_model_of_images_is_no_model_of_clips(images):
    bundle, folder = images
    with pytest.raises(UserError, match="expected a NaViT of images"):
        clip_weights(bundle.module, {}, path=str(folder))


def test_the_central_frame():
    kernel = np.arange(6.0).reshape(3, 2)
    for frames, central in ((1, 0), (2, 1), (3, 1), (4, 2)):
        inflated = central_frame_kernel(kernel, frames).reshape(frames, 3, 2)
        np.testing.assert_array_equal(inflated[central], kernel)
        assert inflated.sum() == kernel.sum()
