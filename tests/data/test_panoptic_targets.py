"""What a panoptic batch holds: masks where segments are, a map at the size that pictures came with."""

import numpy as np
import pytest

from vitjax.data.digit_panoptic import DigitPanoptic
from vitjax.data.loading import Shards
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
from vitjax.data.scene_batching import SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.errors import UserError

SOURCE = DigitPanoptic("validation", num_scenes=6, sides=(64, 96), digit_sides=(20, 40))
TARGETS = PanopticTargets(8, map_size=(96, 96))


def test_masks_and_maps_are_the_scenes():
    transforms = (KeepSegmentMap(), SceneResize(64))
    batches = SceneBatches(SOURCE, 3, TARGETS, transforms)
    for batch in batches.epoch(Shards()):
        assert batch["masks"].shape == (3, 8, 16, 16)
        for row, index in enumerate(batch["example"]):
            scene = SOURCE[index]
            count = len(scene["masks"])
            np.testing.assert_array_equal(batch["labels"][row, :count], scene["labels"])
            assert batch["box_mask"][row].sum() == count
            rows, columns = batch["image_size"][row]
            truth = batch["segment_map"][row]
            for number, mask in enumerate(scene["masks"], start=1):
                np.testing.assert_array_equal(truth[:rows, :columns] == number, mask)
            assert not truth[rows:].any()
            assert not truth[:, columns:].any()
            # Each pixel of a mask lies where it says, and the masks of a scene without overlaps do not overlap.
            assert (batch["masks"][row].sum(axis=0) == 1).all()
            middle = np.round((np.arange(16) + 0.5) * np.array([[rows], [columns]]) / 16 - 0.5).astype(int)
            picked = scene["masks"][:, middle[0]][:, :, middle[1]]
            assert (picked == batch["masks"][row, :count]).mean() > 0.97


def test_padding_belongs_to_no_segment():
    batches = PaddedSceneBatches(SOURCE, 2, PanopticTargets(8), shapes=((96, 96),))
    batch = next(batches.epoch(Shards()))
    for masks, (rows, columns) in zip(batch["masks"], batch["content_size"], strict=True):
        assert masks.any(axis=0)[: rows // 4, : columns // 4].all()
        assert not masks[:, -(-(rows - 2) // 4) :].any()
        assert not masks[:, :, -(-(columns - 2) // 4) :].any()


def test_every_pixel_and_no_pixel():
    scene = SOURCE[0]
    whole = PanopticTargets(8, mask_stride=1)(scene)
    np.testing.assert_array_equal(whole["masks"][: len(scene["masks"])], scene["masks"])
    bare = TARGETS({"image": scene["image"]})
    assert not bare["masks"].any()
    assert not bare["segment_map"].any()
    assert bare.keys() == TARGETS(KeepSegmentMap()(scene, np.random.default_rng(0))).keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PanopticTargets(0), "max_boxes"),
        (lambda: PanopticTargets(3, mask_stride=0), "`mask_stride` \\(=0\\)"),
        (lambda: TARGETS(SOURCE[0]), "begin the transforms with KeepSegmentMap"),
        (
            lambda: PanopticTargets(8, map_size=(9, 9))(KeepSegmentMap()(SOURCE[0], np.random.default_rng(0))),
            "more than `map_size`",
        ),
        (
            lambda: PanopticTargets(1)({**SOURCE[0], "labels": np.zeros(2), "boxes_xyxy_pixels": np.zeros((2, 4))}),
            "2 boxes",
        ),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(UserError, match=message):
        make()
