"""Boxes that nobody should trust: a json or a table of mistakes is read, or refused by a message."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitjax.data.box_folders import BoxFolder
from vitjax.data.coco import CocoFolder
from vitjax.data.loading import Shards
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.scene_transforms import SceneResizeShorterSide
from vitjax.errors import UserError

odd_numbers = st.one_of(
    st.floats(-50, 80), st.integers(-50, 80), st.sampled_from([math.nan, math.inf, 1e300, None, "3", True, []])
)
odd_annotations = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.none(), st.integers(0, 3)),
        "image_id": st.sampled_from([1, 2, 9, None, "1"]),
        "category_id": st.sampled_from([3, 7, 4, None, "3"]),
        "bbox": st.one_of(st.lists(odd_numbers, min_size=4, max_size=4), st.sampled_from([None, [], "box", [1, 2]])),
        "area": odd_numbers,
        "iscrowd": st.sampled_from([0, 1, None, True]),
        "segmentation": st.sampled_from([None, [], [[1, 1, 5, 1, 5, 5]], {"size": [20, 30], "counts": [600]}, "x", 3]),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad")
    for number in (1, 2):
        Image.new("RGB", (30, 20)).save(path / f"{number}.png")
    return path


def assert_sound(source):
    """Its batches hold what they should: boxes with an area in 0...1, and of no more than the classes."""
    batches = PaddedSceneBatches(
        source, 2, BoxTargets(40), ((32, 48), (48, 32)), (SceneResizeShorterSide(32, 48),), prefetch=0, threads=1
    )
    for batch in batches.epoch(Shards()):
        boxes, real = batch["boxes"], batch["box_mask"]
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert (boxes[real][:, 2:] > boxes[real][:, :2]).all()
        assert (batch["area"][real] >= 0).all()
        assert np.isfinite(batch["area"]).all()
        assert batch["labels"].max() < len(source.labels)


@given(annotations=st.lists(odd_annotations, max_size=12), masks=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_annotations_are_read_or_left_out(folder, annotations, masks):
    images = [{"id": number, "file_name": f"{number}.png", "height": 20, "width": 30} for number in (1, 2)]
    categories = [{"id": 7, "name": "zebra"}, {"id": 3, "name": "apple"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    source = CocoFolder(str(folder / "boxes.json"), masks=masks)
    assert len(source) == 2
    assert_sound(source)


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["1.png", "2.png", "gone.png", "./1.png"]),
            st.sampled_from(["cat", "dog", "", " "]),
            *[st.one_of(st.integers(-50, 80).map(str), st.sampled_from(["", "x", "nan", "1e999", "2.5"]))] * 4,
        ).map(",".join),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_or_refused_by_name(folder, lines):
    table = ["file,label,left,top,right,bottom", "1.png,cat,1,1,9,9", "2.png,dog,1,1,9,9", *lines]
    (folder / "boxes.csv").write_text("\n".join(table))
    try:
        source = BoxFolder(str(folder), validation_share=0.5)
    except UserError as error:
        message = str(error)
    else:
        assert_sound(source)
        return
    assert str(folder) in message
    assert "\n" not in message


def test_more_boxes_than_slots_name_the_example(folder):
    (folder / "boxes.csv").write_text(
        "file,label,left,top,right,bottom\n" + "1.png,cat,1,1,9,9\n2.png,dog,1,1,9,9\n" * 3
    )
    source = BoxFolder(str(folder), validation_share=0.5)
    batches = PaddedSceneBatches(source, 1, BoxTargets(source.most_boxes - 1), ((20, 30),), prefetch=0)
    with pytest.raises(UserError, match=r"example 0 has 3 boxes, more than `max_boxes` \(=2\); .* use max_boxes=3"):
        next(batches.stream(0, Shards()))
