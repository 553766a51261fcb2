"""Scene transforms: boxes, masks and class map stay with the image; what leaves it goes with its label and mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.data.augmentation import GaussianNoise, PhotometricDistortion
from vitjax.data.scene_geometry import fitting_size
from vitjax.data.scene_transforms import (
    OnImage,
    PadTo,
    SceneCrop,
    SceneHorizontalFlip,
    SceneRandomSizeCrop,
    SceneResize,
    SceneResizeShorterSide,
    SceneRotate,
    SceneScaleJitter,
    SceneSometimes,
    SSDCrop,
    planned_size,
)
from vitjax.data.transforms import Resize
from vitjax.errors import UserError

seeds = st.integers(0, 2**32)
IGNORED = 255


def make_scene(seed, *, full=True):
    """Some rectangles on black; masks, class map and the image's red say where: object n has red and class n + 1."""
    generator = np.random.default_rng(seed)
    rows, columns, count = generator.integers(9, 60), generator.integers(9, 60), generator.integers(0, 5)
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, rows, columns), bool)
    class_map = np.zeros((rows, columns), np.uint8)
    for number in range(count):
        height, width = generator.integers(3, rows + 1), generator.integers(3, columns + 1)
        top, left = generator.integers(0, rows - height + 1), generator.integers(0, columns - width + 1)
        boxes[number] = left, top, left + width, top + height
        masks[number, top : top + height, left : left + width] = True
        class_map[masks[number]] = number + 1
    scene = {"image": np.repeat(class_map[:, :, None], 3, axis=2), "class_map": class_map, "index": 7}
    if full:
        crowd = generator.random(count) < 0.5
        labels = np.arange(count, dtype=np.int32)
        area = masks.sum(axis=(1, 2)).astype(np.float32)
        scene |= {"labels": labels, "boxes_xyxy_pixels": boxes, "masks": masks, "crowd": crowd, "area": area}
    return scene


def tight(mask):
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])


def assert_consistent(scene, before, slack):
    """Everything has the image's size; boxes lie in it, `slack` pixels at most from their masks' edges."""
    size = scene["image"].shape[:2]
    assert scene["class_map"].shape == size
    assert scene["image"].dtype == scene["class_map"].dtype == np.uint8
    labels, boxes, masks = scene["labels"], scene["boxes_xyxy_pixels"], scene["masks"]
    assert boxes.dtype == np.float32
    assert masks.dtype == bool
    assert masks.shape == (len(labels), *size)
    assert boxes.shape == (len(labels), 4)
    assert scene["crowd"].tolist() == before["crowd"][labels].tolist()  # labels number the objects
    assert scene["area"].tolist() == before["area"][labels].tolist()  # in pixels of the original
    for box, mask in zip(boxes, masks, strict=True):
        assert 0 <= box[0] < box[2] <= size[1]
        assert 0 <= box[1] < box[3] <= size[0]
        if mask.any():  # a thin one may fall between the pixels of a smaller image
            assert np.abs(box - tight(mask)).max() <= slack
        else:
            assert min(box[2] - box[0], box[3] - box[1]) < 1


def assert_map_follows_image(scene):
    """Where nothing was blended, the image says the same as the map."""
    counts = scene["class_map"] != IGNORED
    np.testing.assert_array_equal(scene["image"][counts], np.repeat(scene["class_map"][counts][:, None], 3, axis=1))


EXACT = {
    "flip": (SceneHorizontalFlip(1.0), 0),
    "crop": (SceneCrop((20, 25), keep_partial=True), 0),
    "crop by centres": (SceneCrop(30), 0),
    "pad": (PadTo((60, 70)), 0),
    "SSD crop": (SSDCrop(), 0),
    "crop of any size": (SceneRandomSizeCrop(12, 30), 0),
    "sometimes": (SceneSometimes((SceneHorizontalFlip(1.0), SceneRandomSizeCrop(5, 9))), 0),
}
SCALED = {
    "resize": (SceneResize((33, 21), "nearest"), 0.5),
    "shorter side": (SceneResizeShorterSide((20, 40, 50), 90, "nearest"), 0.5),
    "jitter": (SceneScaleJitter((10, 80), None, "nearest"), 0.5),
}


@pytest.mark.parametrize("name", [*EXACT, *SCALED])
@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_everything_moves_together(name, seed):
    transform, slack = (EXACT | SCALED)[name]
    before = make_scene(seed)
    kept = {key: np.copy(value) for key, value in before.items()}
    after = transform(before, np.random.default_rng(seed))
    # Nearest pixels lie within half a pixel of where they come from; the rest is rounding of float32.
    assert_consistent(after, before, slack + 1e-3)
    assert_map_follows_image(after)
    assert after["index"] == 7
    for key, value in kept.items():
        np.testing.assert_array_equal(value, before[key], err_msg=f"{key} of the scene given was changed")


@pytest.mark.parametrize("name", [*EXACT, *SCALED])
def test_a_map_alone_and_a_picture_alone_pass(name):
    transform, _ = (EXACT | SCALED)[name]
    scene = make_scene(3, full=False)
    after = transform(scene, np.random.default_rng(0))
    assert set(after) == {"image", "class_map", "index"}
    alone = transform({"image": scene["image"]}, np.random.default_rng(0))
    np.testing.assert_array_equal(alone["image"], after["image"])


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_flipping_twice_is_the_identity(seed):
    scene, flip = make_scene(seed), SceneHorizontalFlip(1.0)
    once = flip(scene, np.random.default_rng(0))
    again = flip(once, np.random.default_rng(0))
    for key, value in scene.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
    assert SceneHorizontalFlip(0.0)(scene, np.random.default_rng(0)) is scene


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_crops_keep_what_has_its_centre_in_them(seed):
    """With the place of the crop read off the image, whose pixels are numbered."""
    scene = make_scene(seed)
    rows, columns = scene["image"].shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.uint8)
    scene["image"] = np.stack([y, x, np.full_like(y, 1)], axis=-1)
    for keep_partial in (False, True):
        after = SceneCrop((12, 12), keep_partial)(scene, np.random.default_rng(seed))
        assert after["image"].shape == (12, 12, 3)
        top, left, _ = after["image"][0, 0].astype(int)
        bottom, right = top + min(12, rows), left + min(12, columns)
        expected = []
        for number, box in enumerate(scene["boxes_xyxy_pixels"]):
            across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            centred = left <= across < right and top <= down < bottom
            meets = min(box[2], right) > max(box[0], left) and min(box[3], bottom) > max(box[1], top)
            expected += [number] if (meets if keep_partial else centred) else []
        assert after["labels"].tolist() == expected
        outside = after["image"][:, :, 2] == 0  # padded: black in the image, 255 in the map
        assert (after["class_map"][outside] == IGNORED).all()
        assert not (after["class_map"][~outside] == IGNORED).any()


def test_ssd_crops_overlap_as_asked():
    scene = make_scene(0) | {"image": np.zeros((100, 100, 3), np.uint8)}
    box = np.array([[20, 30, 70, 80]], np.float32)
    scene |= {"boxes_xyxy_pixels": box, "labels": np.zeros(1, np.int32), "crowd": np.zeros(1, bool)}
    scene |= {"masks": np.zeros((1, 100, 100), bool), "class_map": np.zeros((100, 100), np.uint8)}
    generator, sizes = np.random.default_rng(0), set()
    for _ in range(60):
        after = SSDCrop((0.5,))(scene, generator)
        rows, columns = after["image"].shape[:2]
        sizes.add((rows, columns))
        assert rows >= 30
        assert columns >= 30
        if (rows, columns) != (100, 100):
            left, top, right, bottom = after["boxes_xyxy_pixels"][0]
            shared = (right - left) * (bottom - top)
            assert shared / (50 * 50 + rows * columns - shared) >= 0.5
            assert 0.5 <= columns / rows <= 2
    assert len(sizes) > 20
    assert SSDCrop((1.0,))(scene, generator) is scene
    assert SSDCrop()(scene | {"boxes_xyxy_pixels": box[:0]}, generator)["image"].shape == (100, 100, 3)


def test_sizes_and_limits_of_resizing():
    wide = {"image": np.zeros((50, 100, 3), np.uint8)}
    generator = np.random.default_rng(0)
    assert SceneResizeShorterSide(20)(wide, generator)["image"].shape == (20, 40, 3)
    assert SceneResizeShorterSide(20, longest=30)(wide, generator)["image"].shape == (15, 30, 3)
    drawn = {SceneResizeShorterSide((20, 24), 1000)(wide, generator)["image"].shape[0] for _ in range(30)}
    assert drawn == {20, 24}
    drawn = {SceneScaleJitter((10, 12))(wide, generator)["image"].shape[0] for _ in range(60)}
    assert drawn == {10, 11, 12}


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_turned_boxes_hold_their_turned_masks(seed):
    scene = make_scene(seed)
    without = {key: value for key, value in scene.items() if key != "masks"}
    turn = SceneRotate(40)
    after, loose = (turn(one, np.random.default_rng(seed)) for one in (scene, without))
    assert_consistent(after, scene, 0)
    assert set(after["labels"].tolist()) <= set(loose["labels"].tolist())
    for label, box in zip(after["labels"], after["boxes_xyxy_pixels"], strict=True):
        outer = loose["boxes_xyxy_pixels"][loose["labels"].tolist().index(label)]
        assert (box[:2] >= outer[:2] - 1.5).all()  # a pixel is turned by its centre
        assert (box[2:] <= outer[2:] + 1.5).all()
    np.testing.assert_array_equal(SceneRotate(0)(scene, np.random.default_rng(0))["image"], scene["image"])


def test_colours_change_and_nothing_moves():
    scene = make_scene(5)
    scene["image"] = np.random.default_rng(0).integers(0, 256, scene["image"].shape, np.uint8)
    for transform in (PhotometricDistortion(rate=1.0), GaussianNoise(rate=1.0)):
        after = OnImage(transform)(scene, np.random.default_rng(1))
        assert np.any(after["image"] != scene["image"])
        assert all(after[key] is scene[key] for key in scene if key != "image")
    for transform in (PhotometricDistortion(rate=0.0), GaussianNoise(rate=0.0)):
        np.testing.assert_array_equal(transform(scene["image"], np.random.default_rng(1)), scene["image"])


def test_each_distortion_changes_what_it_says():
    image = np.random.default_rng(0).integers(60, 196, (16, 16, 3), np.uint8)
    nothing = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "rate": 1.0}
    generator = np.random.default_rng(0)
    np.testing.assert_allclose(PhotometricDistortion(**nothing)(image, generator), image, atol=6)  # HSV has 8 bits
    means = [PhotometricDistortion(**nothing | {"brightness": 0.3})(image, generator).mean() for _ in range(20)]
    assert np.ptp(means) > 30
    spread = [PhotometricDistortion(**nothing | {"contrast": 0.9})(image, generator).std() for _ in range(20)]
    assert np.ptp(spread) > 20
    grey = PhotometricDistortion(**nothing | {"hue": 0.5})(np.full((4, 4, 3), 90, np.uint8), generator)
    np.testing.assert_array_equal(grey, 90)
    noise = [GaussianNoise(20.0, 1.0)(np.full((50, 50, 3), 128, np.uint8), generator).std() for _ in range(40)]
    assert max(noise) < 20.5
    assert min(noise) < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SceneResize(0), "`size`=0 of SceneResize"),
        (lambda: SceneResize(8, "cubic"), "`interpolation`='cubic' of SceneResize"),
        (lambda: SceneResizeShorterSide(()), "expected one side or several"),
        (lambda: SceneScaleJitter((8, 4)), r"`sides`=\(8, 4\) of SceneScaleJitter"),
        (lambda: SceneHorizontalFlip(2), "`rate`=2 of SceneHorizontalFlip"),
        (lambda: SceneCrop((3, 0)), "of SceneCrop"),
        (lambda: SSDCrop(()), r"`overlaps`=\(\)"),
        (lambda: SSDCrop(share=(0.5, 2)), r"`share`=\(0.5, 2\)"),
        (lambda: SceneRotate(-1), "`degrees`=-1"),
        (lambda: PhotometricDistortion(hue=0.7), "`hue` in 0...0.5"),
        (lambda: GaussianNoise(-1), "`deviation` of 0 or more"),
        (lambda: PadTo(8)(make_scene(1), np.random.default_rng(0)), "of PadTo: example 7 is larger"),
        (lambda: OnImage(Resize(4))(make_scene(1), np.random.default_rng(0)), "boxes and masks would stay behind"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


DETR = (
    SceneHorizontalFlip(),
    SceneSometimes((SceneResizeShorterSide((40, 50, 60)), SceneRandomSizeCrop(38, 60))),
    SceneResizeShorterSide(tuple(range(48, 81, 3)), 133),
)
"""DETR's augmentation at a tenth of its size."""


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_boxes_stay_around_what_is_drawn_through_all_of_detrs_augmentation(seed):
    """A box that is drawn as pixels, and the size that was planned."""
    scene = make_scene(seed)
    scene["image"] = np.zeros_like(scene["image"])
    for mask in scene["masks"][-1:]:  # the one that no other covers
        scene["image"][mask] = 255
    planned = planned_size(DETR, scene["image"].shape[:2], np.random.default_rng(seed))
    generator, after = np.random.default_rng(seed), scene
    for transform in DETR:
        after = transform(after, generator)
    assert after["image"].shape[:2] == planned
    assert 48 <= min(planned) <= 78 or abs(max(planned) - 133) <= max(planned) / min(planned)
    last = len(scene["labels"]) - 1
    bright = after["image"][:, :, 0] > 127
    kept = np.flatnonzero(after["labels"] == last)
    if len(kept) and bright.any():
        # Interpolation blurs an edge by the pixels that one of the source became.
        slack = max(planned) / 9 + 1
        assert np.abs(after["boxes_xyxy_pixels"][kept[0]] - tight(bright)).max() <= slack
    elif not len(kept):
        assert not bright.any()


@given(seed=seeds, rows=st.integers(1, 900), columns=st.integers(1, 900))
@settings(max_examples=30, deadline=None)
def test_plans_are_what_happens(seed, rows, columns):
    """Of all transforms that tell their size; a plan draws as the transform does."""
    scene = {"image": np.zeros((rows, columns, 1), np.uint8)}
    told = [transform for transform, _ in (EXACT | SCALED).values() if hasattr(transform, "planned_size")]
    assert len(told) == len(EXACT | SCALED) - 1  # SSD's crop depends on the boxes
    for transform in told:
        if isinstance(transform, PadTo):
            continue
        planning, doing = np.random.default_rng(seed), np.random.default_rng(seed)
        planned = transform.planned_size((rows, columns), planning)
        assert transform(scene, doing)["image"].shape[:2] == planned
        assert planning.random() == doing.random()


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    side=st.sampled_from([400, 480, 800]),
    longest=st.sampled_from([None, 1333]),
)
@settings(max_examples=200, deadline=None)
def test_sizes_are_rounded_as_by_detrs_authors(size, side, longest):
    """Their rule as section 8 of the notes on DETR has it, in floats."""
    short, long = min(size), max(size)
    limited = longest is not None and long / short * side > longest
    shorter = max(1, round(longest * short / long)) if limited else side
    expected = (shorter, int(shorter * long / short))
    assert fitting_size(size, side, longest) in (expected, expected[::-1])
    assert fitting_size((427, 640), 800, 1333) == (800, 1199)
    assert fitting_size((640, 427), 800, 1333) == (1199, 800)
    assert fitting_size((300, 640), 800, 1333) == (625, 1333)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_areas_scale_with_the_picture(seed):
    scene = make_scene(seed)
    before = scene["image"].shape[0] * scene["image"].shape[1]
    after = SceneResizeShorterSide(70)(scene, np.random.default_rng(0))
    size = after["image"].shape[0] * after["image"].shape[1]
    shares = [
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / pixels
        for boxes, pixels in ((scene["boxes_xyxy_pixels"], before), (after["boxes_xyxy_pixels"], size))
    ]
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SceneRandomSizeCrop(10, 9), "`smallest`=10, `largest`=9 of SceneRandomSizeCrop"),
        (lambda: SceneSometimes((), 2.0), "SceneSometimes"),
    ],
)
def test_wrong_crops(make, message):
    with pytest.raises(UserError, match=message):
        make()
