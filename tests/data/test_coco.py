"""COCO's json: what another program wrote, gaps and mistakes included; what is left out is said."""

import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from vitjax.data.coco import CocoFolder, FakeBoxes
from vitjax.data.digits import DigitScenes
from vitjax.data.images import BrokenExample
from vitjax.data.loading import Shards
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.errors import UserError

CATEGORIES = [{"id": 7, "name": "zebra"}, {"id": 3, "name": "apple"}]


def write(folder, *, annotations=(), images=None, categories=None, name="boxes.json"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        Image.fromarray(np.full((20, 30, 3), 100 * number, np.uint8)).save(folder / f"{number}.png")
    images = (
        [{"id": 10 * n, "file_name": f"{n}.png", "height": 20, "width": 30} for n in (1, 2)]
        if images is None
        else images
    )
    content = {"images": images, "annotations": list(annotations), "categories": categories or CATEGORIES}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def box(identity, bbox, image=10, category=3, **more):
    return {"id": identity, "image_id": image, "category_id": category, "bbox": bbox, **more}


def test_ids_have_gaps_and_images_no_objects(tmp_path):
    file = write(tmp_path, annotations=[box(1, [1, 2, 3, 4], category=7), box(2, [5, 5, 1, 1], iscrowd=1)])
    source = CocoFolder(str(file))
    assert source.labels == ("apple", "zebra")
    assert source.category_ids == (3, 7)
    assert source.image_ids == (10, 20)
    first, second = source[0], source[1]
    np.testing.assert_array_equal(first["boxes_xyxy_pixels"], [[1, 2, 4, 6], [5, 5, 6, 6]])
    np.testing.assert_array_equal(first["labels"], [1, 0])
    np.testing.assert_array_equal(first["crowd"], [False, True])
    assert second["boxes_xyxy_pixels"].shape == (0, 4)
    assert second["image"].mean() == 200
    assert source.most_boxes == 2


def test_what_cannot_be_used_is_told_once(tmp_path, caplog):
    annotations = [
        box(1, [25, 15, 10, 10]),  # reaches out of the image
        box(2, [5, 5, 0, 4]),
        box(3, [40, 5, 4, 4]),
        box(4, [1, 1, 2, 2], image=99),
        box(5, [1, 1, 2, 2], category=4),
        box(1, [1, 1, 2, 2]),
        box(6, [1, 1, 2]),
    ]
    images = [{"id": n, "file_name": "1.png", "height": 20, "width": 30} for n in (10, 10)]
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        source = CocoFolder(str(write(tmp_path, annotations=annotations, images=images)))
    assert len(source) == 1
    np.testing.assert_array_equal(source[0]["boxes_xyxy_pixels"], [[25, 15, 30, 20]])
    (message,) = caplog.messages
    for part in (
        "1 repeated image ids (10)",
        "2 boxes without area in their image (2, 3)",
        "1 annotations of unknown images (4)",
        "1 annotations of unknown categories (5)",
        "1 repeated annotation ids (1)",
        "1 annotations without a box of four numbers (6)",
        "mended 1 boxes that reach out of their image by more than a pixel, which are cut (1)",
        "1 annotations without an area, which get that of their box (1)",
    ):
        assert part in message
    assert source[0]["area"].tolist() == [25.0]


def test_areas_and_masks_are_those_of_the_json(tmp_path, caplog):
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    annotations = [
        box(1, [2, 2, 4, 4], area=11.5, segmentation=square),
        box(2, [0, 0, 9, 9], area=3, segmentation=[[1, 2]]),
        box(3, [0, 0, 30, 20], area=600, iscrowd=1, segmentation={"size": [20, 30], "counts": [0, 600]}),
    ]
    file = str(write(tmp_path, annotations=annotations))
    plain = CocoFolder(file)[0]
    assert plain["area"].tolist() == [11.5, 3, 600]
    assert "masks" not in plain
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        source = pickle.loads(pickle.dumps(CocoFolder(file, masks=True)))
    assert "left out 1 annotations without a mask that can be read (2)" in caplog.text
    scene = source[0]
    assert scene["area"].tolist() == [11.5, 600]
    assert scene["masks"].sum(axis=(1, 2)).tolist() == [16, 600]
    assert scene["masks"][0, 2:6, 2:6].all()
    assert source[1]["masks"].shape == (0, 20, 30)


def test_ids_may_be_the_classes(tmp_path):
    source = CocoFolder(str(write(tmp_path, annotations=[box(1, [1, 2, 3, 4], category=7, area=2)])), keep_ids=True)
    assert source.labels == ("N/A", "N/A", "N/A", "apple", "N/A", "N/A", "N/A", "zebra")
    assert source.category_ids == tuple(range(8))
    assert source[0]["labels"].tolist() == [7]
    wrong = [{"id": "x", "name": "a"}]
    with pytest.raises(UserError, match="`keep_ids` needs category ids from 0 to 9999, one is 'x'"):
        CocoFolder(str(write(tmp_path, categories=wrong)), keep_ids=True)


def test_a_picture_of_another_size_than_the_json_says_is_broken(tmp_path):
    images = [{"id": 10, "file_name": "1.png", "height": 30, "width": 20}]
    source = CocoFolder(str(write(tmp_path, images=images)))
    np.testing.assert_array_equal(source.sizes(), [[30, 20]])
    with pytest.raises(BrokenExample, match="has 30x20 pixels, the json says 20x30: boxes would be elsewhere"):
        _ = source[0]


def test_layouts_are_found(tmp_path):
    plain = write(tmp_path / "plain", annotations=[box(1, [1, 2, 3, 4])])
    content = plain.read_text()
    for name in ("train2017", "val2017"):
        write(tmp_path / "coco" / name).unlink()
    (tmp_path / "coco" / "annotations").mkdir()
    for name in ("train2017", "val2017"):
        (tmp_path / "coco" / "annotations" / f"instances_{name}.json").write_text(content)
    write(tmp_path / "splits" / "train", annotations=[box(1, [1, 2, 3, 4])])
    write(tmp_path / "splits" / "valid", annotations=[box(1, [1, 2, 3, 4])])
    for path in (plain, tmp_path / "coco", tmp_path / "splits"):
        for split in ("train", "validation"):
            assert len(CocoFolder(str(path), split)[0]["labels"]) == 1


def test_the_embedded_scenes_come_back_from_their_json(tmp_path):
    scenes = DigitScenes("validation", num_scenes=4)
    source = CocoFolder(str(scenes.write_coco(tmp_path)))
    assert source.labels == scenes.labels
    for number in range(4):
        ours, theirs = source[number], scenes[number]
        for key in ("image", "labels", "boxes_xyxy_pixels"):
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_batches_mark_crowds(tmp_path):
    file = write(tmp_path, annotations=[box(1, [0, 0, 15, 10]), box(2, [0, 0, 30, 20], iscrowd=1)])
    batches = SceneBatches(CocoFolder(str(file)), 2, BoxTargets(3), (SceneResize(32),))
    (batch,) = batches.epoch(Shards())
    np.testing.assert_allclose(batch["boxes"][0], [[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch["crowd"], [[False, True, False], [False] * 3])
    np.testing.assert_array_equal(batch["image_size"], [[20, 30]] * 2)


def test_a_missing_file_is_a_broken_example(tmp_path):
    source = CocoFolder(str(write(tmp_path)))
    (tmp_path / "2.png").unlink()
    with pytest.raises(BrokenExample, match="no such file"):
        _ = source[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as json"),
        ("[]", "has no `images`; expected COCO's format"),
        ('{"images": [{"id": 1}]}', "an entry of `images` has no `file_name`"),
        ('{"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}]}', "has no `categories`"),
        ('{"images": [1]}', "has no `images`"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 1}], "categories": [{"id": 1, "name": ""}]}',
            "are numbers of pixels, 1 or more",
        ),
    ],
)
def test_a_json_of_another_kind(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        CocoFolder(str(tmp_path / "a.json"))


def test_wrong_places(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        CocoFolder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no json for split 'train'"):
        CocoFolder(str(tmp_path))
    with pytest.raises(UserError, match="expected 'train' or 'validation'"):
        CocoFolder(str(tmp_path), "val")
    for name in ("a.json", "b.json"):
        write(tmp_path / "train", name=name)
    with pytest.raises(UserError, match=r"several json files, a\.json, b\.json; give one's path"):
        CocoFolder(str(tmp_path))
    twice = [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]
    with pytest.raises(UserError, match="two categories have the same id"):
        CocoFolder(str(write(tmp_path / "twice", categories=twice)))


def test_fakes_have_what_batches_need():
    source = FakeBoxes(num_examples=5)
    assert [source[number]["image"].shape[:2] for number in range(5)] == list(map(tuple, source.sizes()))
    (batch,) = SceneBatches(source, 5, BoxTargets(3), (SceneResize(16),)).epoch(Shards())
    assert batch["box_mask"].sum(axis=1).tolist() == [0, 1, 2, 3, 0]
    assert ((batch["boxes"] >= 0) & (batch["boxes"] <= 1)).all()
