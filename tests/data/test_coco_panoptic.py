"""COCO's panoptic format: what a writer wrote comes back; gaps in the ids, void, crowds; what does not fit is told."""

import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from vitjax.data.coco_panoptic import CocoPanopticFolder, FakeSegments, open_panoptic
from vitjax.data.digit_panoptic import DigitPanoptic
from vitjax.data.images import BrokenExample
from vitjax.data.loading import Shards
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
from vitjax.errors import UserError

CATEGORIES = [
    {"id": 93, "name": "grass", "isthing": 0},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 17, "name": "cat", "isthing": 1},
]  # gaps, no order
IMAGES = [{"id": 30, "file_name": "30.jpg", "height": 4, "width": 6}]
SEGMENTS = [
    {"id": 70_000, "category_id": 93},
    {"id": 256, "category_id": 3},
    {"id": 1, "category_id": 17, "iscrowd": 1},
]


def numbers():
    """Grass, a car of 2 x 2 and some cats, and a column of void on the right."""
    made = np.full((4, 6), 70_000)
    made[1:3, 1:3] = 256
    made[3, 3:5] = 1
    made[:, 5] = 0
    return made


def write(
    folder, *, images=IMAGES, annotations=None, segments=SEGMENTS, categories=CATEGORIES, pixels=None, mode="RGB"
):
    (folder / "panoptic").mkdir(parents=True, exist_ok=True)
    pixels = numbers() if pixels is None else pixels
    colours = np.stack([pixels % 256, pixels // 256 % 256, pixels // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).convert(mode).save(folder / "panoptic" / "30.png")
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(folder / "30.jpg")
    if annotations is None:
        annotations = [{"image_id": 30, "file_name": "30.png", "segments_info": segments}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return str(folder / "panoptic.json")


def test_every_pixel_is_of_the_segment_that_its_colour_says(tmp_path):
    source = pickle.loads(pickle.dumps(CocoPanopticFolder(write(tmp_path))))
    assert source.labels == ("car", "cat", "grass")
    assert source.category_ids == (3, 17, 93)
    assert source.stuff == (2,)
    assert source.image_ids == (30,)
    assert source.most_segments == 3
    np.testing.assert_array_equal(source.sizes(), [[4, 6]])
    scene = source[0]
    np.testing.assert_array_equal(scene["labels"], [2, 0, 1])
    np.testing.assert_array_equal(scene["crowd"], [False, False, True])
    np.testing.assert_array_equal(scene["boxes_xyxy_pixels"], [[0, 0, 5, 4], [1, 1, 3, 3], [3, 3, 5, 4]])
    np.testing.assert_array_equal(scene["area"], [14, 4, 2])
    for mask, identity in zip(scene["masks"], (70_000, 256, 1), strict=True):
        np.testing.assert_array_equal(mask, numbers() == identity)


def test_ids_may_be_the_classes(tmp_path):
    source = CocoPanopticFolder(write(tmp_path), keep_ids=True)
    assert len(source.labels) == 94
    assert (source.labels[3], source.labels[4], source.labels[93]) == ("car", "N/A", "grass")
    assert source.stuff == (93,)
    assert source[0]["labels"].tolist() == [93, 3, 17]


def test_batches_hold_the_segments(tmp_path):
    targets = PanopticTargets(5, mask_stride=1, map_size=(8, 8))
    batches = PaddedSceneBatches(CocoPanopticFolder(write(tmp_path)), 1, targets, ((8, 8),), (KeepSegmentMap(),))
    (batch,) = batches.epoch(Shards())
    np.testing.assert_array_equal(batch["labels"][0], [2, 0, 1, 0, 0])
    np.testing.assert_array_equal(batch["box_mask"][0], [True, True, True, False, False])
    np.testing.assert_array_equal(batch["masks"][0, 1, :4, :6], numbers() == 256)
    expected = np.select([numbers() == identity for identity in (70_000, 256, 1)], [1, 2, 3])
    np.testing.assert_array_equal(batch["segment_map"][0, :4, :6], expected)


def test_the_embedded_scenes_come_back(tmp_path):
    scenes = DigitPanoptic("validation", num_scenes=3, sides=(64, 96), digit_sides=(20, 40))
    source = CocoPanopticFolder(str(scenes.write_coco(tmp_path)))
    assert (source.labels, source.stuff) == (scenes.labels, scenes.stuff)
    for index in range(3):
        ours, theirs = source[index], scenes[index]
        for key in ("image", "labels", "masks"):
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        stuff = np.isin(theirs["labels"], scenes.stuff)
        np.testing.assert_array_equal(ours["boxes_xyxy_pixels"][stuff], theirs["boxes_xyxy_pixels"][stuff])


def test_layouts_are_found(tmp_path):
    for name in ("train2017", "val2017"):
        write(tmp_path / "coco" / name)
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        for ending in ("", ".json"):
            made = tmp_path / "coco" / name / f"panoptic{ending}"
            made.rename(tmp_path / "coco" / "annotations" / f"panoptic_{name}{ending}")
        # That of the boxes is not taken for it.
        (tmp_path / "coco" / "annotations" / f"instances_{name}.json").write_text("{}")
    write(tmp_path / "splits" / "train")
    write(tmp_path / "splits" / "valid")
    for folder in ("coco", "splits"):
        for split in ("train", "validation"):
            assert len(open_panoptic(f"coco:{tmp_path / folder}", split)[0]["labels"]) == 3
    assert isinstance(open_panoptic("digits", "train"), DigitPanoptic)
    with pytest.raises(UserError, match=r"expected digits or coco:PATH; did you mean coco:"):
        open_panoptic(str(tmp_path), "train")


def test_what_cannot_be_used_is_told_once(tmp_path, caplog):
    segments = [*SEGMENTS[:2], {"id": 1, "category_id": 4}, {"id": 256, "category_id": 17}, {"id": 256**3}]
    images = [*IMAGES, {"id": 31, "file_name": "31.jpg", "height": 4, "width": 6}, *IMAGES]
    annotation = {"image_id": 30, "file_name": "30.png", "segments_info": segments}
    annotations = [annotation, {**annotation, "image_id": 99}, annotation]
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        source = CocoPanopticFolder(write(tmp_path, images=images, annotations=annotations))
    (message,) = caplog.messages
    for part in (
        "1 repeated image ids (30)",
        "1 further annotations of an image (30)",
        "1 annotations of unknown images (99)",
        "1 images without annotation (31)",
        "1 segments of unknown categories, now void (30/1)",
        "1 repeated segments of an image (30/256)",
        "1 segments whose id is no colour (30/16777216)",
    ):
        assert part in message
    assert len(source) == 1
    scene = source[0]
    np.testing.assert_array_equal(scene["labels"], [2, 0])
    assert not scene["masks"][:, 3, 3:5].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": numbers()[:, :5]}, r"30\.png: has 5x4 pixels, the json says 6x4: segments would be elsewhere"),
        ({"images": [{**IMAGES[0], "height": 6, "width": 4}]}, r"30\.jpg: has 6x4 pixels, the json says 4x6"),
        ({"segments": SEGMENTS[:2]}, r"30\.png: has pixels of segments that `segments_info` does not list: 1$"),
        ({"segments": [*SEGMENTS, {"id": 9, "category_id": 3}]}, r"has no pixel of segments that .* lists: 9"),
        ({"mode": "L"}, r"30\.png: is a L picture; the colours R, G, B are segments' numbers"),
    ],
)
def test_an_example_that_contradicts_itself_is_broken(change, message, tmp_path):
    source = CocoPanopticFolder(write(tmp_path, **change))
    with pytest.raises(BrokenExample, match=message):
        _ = source[0]


def test_a_missing_or_damaged_file_is_a_broken_example(tmp_path):
    source = CocoPanopticFolder(write(tmp_path))
    file = tmp_path / "panoptic" / "30.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(BrokenExample, match=r"30\.png: OSError: "):
        _ = source[0]
    file.unlink()
    with pytest.raises(BrokenExample, match=r"30\.png: no such file"):
        _ = source[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 3, "name": "car"}]}, "an entry of `categories` has no `isthing`"),
        ({"annotations": []}, "has no `annotations`"),
        (
            {"annotations": [{"image_id": 30, "file_name": "30.png", "segments_info": 5}]},
            "`segments_info` must be a list of segments",
        ),
        (
            {"annotations": [{"image_id": 1, "file_name": "30.png", "segments_info": []}]},
            "no image has an annotation; expected COCO's panoptic format",
        ),
    ],
)
def test_a_json_of_another_kind(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        CocoPanopticFolder(write(tmp_path, **change))


def test_wrong_places(tmp_path):
    with pytest.raises(UserError, match=r"no json for split 'train'; expected annotations/panoptic_train\*\.json"):
        CocoPanopticFolder(str(tmp_path))
    file = write(tmp_path / "a")
    (tmp_path / "a" / "panoptic").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"no folder .*panoptic beside it; give `segments`, where its pictures lie"):
        CocoPanopticFolder(file)
    assert len(CocoPanopticFolder(file, segments=str(tmp_path / "elsewhere"))[0]["labels"]) == 3


def test_fakes_have_what_batches_need():
    source = FakeSegments(num_examples=5)
    for index in range(5):
        scene = source[index]
        assert (scene["masks"].sum(axis=0) == 1).all()
        assert len(scene["labels"]) == len(scene["masks"])
        assert scene["labels"][-1] == source.stuff[0] == 3
