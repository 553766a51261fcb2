"""Transforms: shapes, ranges, that nothing is random but the generator, and that bad settings are refused at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitjax.data.augmentation import RandAugment, RandomErasing
from vitjax.data.transforms import (
    CentreCrop,
    HorizontalFlip,
    InceptionCrop,
    Normalise,
    Resize,
    ResizeShorterSide,
    apply_transforms,
    evaluation_transforms,
    resize_image,
)
from vitjax.errors import UserError

sides = st.integers(1, 70)


def noise(rows: int, columns: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), dtype=np.uint8)


def smooth(rows: int, columns: int) -> np.ndarray:
    """A picture with edges and slopes in all three channels."""
    y, x = np.mgrid[:rows, :columns]
    channels = [255 * y / max(rows - 1, 1), 255 * x / max(columns - 1, 1), 255 * ((x // 8 + y // 8) % 2)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@given(sides, sides, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_inception_crop_boxes_lie_in_the_image_and_in_range(rows, columns, seed):
    crop = InceptionCrop(8, area=(0.2, 0.9), aspect=(0.5, 2.0))
    top, left, height, width = crop.draw_box(rows, columns, np.random.default_rng(seed))
    assert 0 <= top <= top + height <= rows
    assert 0 <= left <= left + width <= columns
    assert height > 0
    assert width > 0
    if min(rows, columns) >= 30 and max(rows, columns) <= 2 * min(rows, columns):
        # Rounding to whole pixels moves both by a little.
        assert 0.5 * 0.9 <= width / height <= 2.0 * 1.1
        assert 0.2 * 0.9 <= height * width / (rows * columns) <= 0.9 * 1.1
    assert crop(noise(rows, columns), np.random.default_rng(seed)).shape == (8, 8, 3)


def test_inception_crop_draws_area_uniformly_and_aspect_log_uniformly():
    crop = InceptionCrop(8, area=(0.1, 0.3), aspect=(0.5, 2.0))
    generator = np.random.default_rng(0)
    boxes = np.array([crop.draw_box(1000, 1000, generator) for _ in range(4000)])
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 1e6, np.log(boxes[:, 3] / boxes[:, 2])
    # Means of 4000 uniform draws, four standard errors wide.
    assert abs(areas.mean() - 0.2) < 4 * 0.2 / np.sqrt(12 * 4000)
    assert abs(ratios.mean()) < 4 * 2 * np.log(2) / np.sqrt(12 * 4000)
    assert abs(np.quantile(ratios, 0.25) + np.log(2) / 2) < 0.06
    assert boxes[:, 0].min() < 50
    assert (boxes[:, 0] + boxes[:, 2]).max() > 950


def test_inception_crop_falls_back_to_the_centre():
    strip = smooth(10, 1000)
    top, left, height, width = InceptionCrop(8, area=(0.9, 1.0)).draw_box(10, 1000, np.random.default_rng(0))
    assert (top, height) == (0, 10)
    assert width == 13  # 10 rows at the widest ratio allowed, 4 to 3
    assert abs((left + width / 2) - 500) <= 1
    tall = InceptionCrop(8, area=(0.9, 1.0))(strip.transpose(1, 0, 2), np.random.default_rng(0))
    assert tall.shape == (8, 8, 3)


def test_inception_crop_takes_the_pixels_it_says():
    image = noise(40, 30)
    crop = InceptionCrop((20, 10), area=(0.3, 0.6))
    top, left, height, width = crop.draw_box(40, 30, np.random.default_rng(5))
    part = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(part.resize((10, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(crop(image, np.random.default_rng(5)), expected)


@given(sides, sides, st.sampled_from([1, 3, 4]), st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))
@settings(max_examples=40, deadline=None)
def test_resizing_to_the_same_size_is_the_identity(rows, columns, channels, interpolation):
    image = noise(rows, columns, channels)
    assert resize_image(image, (rows, columns), interpolation) is image
    assert Resize((rows, columns), interpolation)(image, np.random.default_rng(0)) is image
    assert Resize((5, 9), interpolation)(image, np.random.default_rng(0)).shape == (5, 9, channels)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_is_antialiased(interpolation):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    # Without a low-pass filter, every eighth column of stripes is black, or every one white.
    shrunk = Resize(8, interpolation)(stripes, np.random.default_rng(0))
    assert np.abs(shrunk.astype(int) - 127).max() <= 12


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_shorter_side(rows, columns, size):
    resized = ResizeShorterSide(size)(np.zeros((rows, columns, 1), np.uint8), np.random.default_rng(0))
    assert min(resized.shape[:2]) == size
    exact = size * max(rows, columns) / min(rows, columns)
    assert exact - 1 < max(resized.shape[:2]) <= exact


@given(sides, sides, sides, sides)
@settings(max_examples=60, deadline=None)
def test_centre_crop_keeps_the_middle_and_pads_with_black(rows, columns, height, width):
    image = np.maximum(noise(rows, columns), 1)  # no black of its own
    crop = CentreCrop((height, width))(image, np.random.default_rng(0))
    assert crop.shape == (height, width, 3)
    kept = crop[crop.any(axis=(1, 2))][:, crop.any(axis=(0, 2))]
    assert kept.shape[:2] == (min(rows, height), min(columns, width))
    top, left = max(rows - height, 0) / 2, max(columns - width, 0) / 2
    matches = [
        np.array_equal(image[y : y + kept.shape[0], x : x + kept.shape[1]], kept)
        for y in {int(np.floor(top)), int(np.ceil(top))}
        for x in {int(np.floor(left)), int(np.ceil(left))}
    ]
    assert any(matches)


def test_flip():
    image = noise(5, 4)
    assert HorizontalFlip(0.0)(image, np.random.default_rng(0)) is image
    flipped = HorizontalFlip(1.0)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped[:, 0], image[:, -1])
    generator = np.random.default_rng(0)
    count = sum(HorizontalFlip(0.25)(image, generator) is not image for _ in range(1000))
    assert 190 < count < 310  # four standard deviations of a binomial


def test_normalise():
    image = np.array([[[0, 51, 255]]], np.uint8)
    out = Normalise(mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2 / 4))(image, np.random.default_rng(0))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[[-1, 0, 2]]], atol=1e-6)
    with pytest.raises(UserError, match="3 channels"):
        Normalise()(noise(4, 4, 1), np.random.default_rng(0))


def test_apply_in_order_and_replay():
    chain = (InceptionCrop(16), HorizontalFlip(), RandAugment(2, 15), RandomErasing(1.0))
    image = smooth(50, 40)
    before = image.copy()
    first = apply_transforms(chain, image, np.random.default_rng((0, 1, 2)))
    np.testing.assert_array_equal(first, apply_transforms(chain, image, np.random.default_rng((0, 1, 2))))
    assert not np.array_equal(first, apply_transforms(chain, image, np.random.default_rng((0, 1, 3))))
    np.testing.assert_array_equal(image, before)
    assert apply_transforms((Resize(8), CentreCrop(12)), image, np.random.default_rng(0)).shape == (12, 12, 3)
    assert apply_transforms((), image, np.random.default_rng(0)) is image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 5, 10, 17.5, 30])
def test_rand_augment_keeps_shape_and_type(channels, magnitude):
    image = smooth(24, 33)[:, :, :channels]
    for seed in range(40):
        out = RandAugment(2, magnitude)(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8


def test_rand_augment_reaches_every_operation_and_grows_with_magnitude():
    image = smooth(32, 32)
    outcomes = {RandAugment(1, 10)(image, np.random.default_rng(seed)).tobytes() for seed in range(300)}
    # 10 of the 14 operations have a sign. Some of the 24 outcomes coincide: this picture has full contrast already.
    assert len(outcomes) >= 18
    assert image.tobytes() in outcomes
    change = [
        np.mean(
            [np.abs(RandAugment(1, m)(image, np.random.default_rng(s)).astype(int) - image).mean() for s in range(100)]
        )
        for m in (0, 3, 8, 15)
    ]
    assert change == sorted(change)
    assert change[0] < 0.25 * change[2]
    assert RandAugment(0, 10)(image, np.random.default_rng(0)) is image


@pytest.mark.parametrize("mode", ["noise", "colour", "black"])
def test_random_erasing_covers_one_rectangle(mode):
    image = np.full((40, 60, 3), 7, np.uint8)
    shares = []
    for seed in range(60):
        out = RandomErasing(1.0, area=(0.1, 0.4), mode=mode)(image, np.random.default_rng(seed))
        changed = (out != image).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.95  # noise may meet the old value by chance
        shares.append(box.size / changed.size)
    assert 0.08 < min(shares) < max(shares) < 0.45
    assert (image == 7).all()
    assert RandomErasing(0.0)(image, np.random.default_rng(0)) is image


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InceptionCrop(0), "`size`=0 of InceptionCrop"),
        (lambda: InceptionCrop(8, area=(0.5, 1.5)), "`area`"),
        (lambda: InceptionCrop(8, aspect=(2.0, 0.5)), "`aspect`"),
        (lambda: Resize(8, "area"), "`interpolation`='area' of Resize, expected one of nearest, bilinear"),
        (lambda: ResizeShorterSide(-1), "`size`=-1"),
        (lambda: CentreCrop((0, 3)), "`size`"),
        (lambda: HorizontalFlip(1.5), "`rate`=1.5"),
        (lambda: Normalise((0.5,), (0.5, 0.5)), "per channel"),
        (lambda: Normalise((0.5,), (0.0,)), "above 0"),
        (lambda: Normalise((127.0,), (58.0,)), "divide by 255"),
        (lambda: RandAugment(2, 31), "`magnitude`=31"),
        (lambda: RandAugment(-1), "`layers`=-1"),
        (lambda: RandomErasing(2.0), "`rate`=2.0"),
        (lambda: RandomErasing(area=(0.0, 0.3)), "`area`"),
        (lambda: RandomErasing(mode="white"), "noise, colour, black"),
        (lambda: evaluation_transforms(224, 87.5), "`crop_share`=87.5"),
    ],
)
def test_bad_settings_are_refused_when_they_are_written(make, message):
    with pytest.raises(UserError, match=message):
        make()
