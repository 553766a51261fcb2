"""Pictures with a table of boxes: what is read, what is held back, what is reported."""

import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from vitjax.data.box_folders import BoxFolder
from vitjax.data.loading import Shards
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.errors import UserError

HEAD = "file,label,left,top,right,bottom"


def write(folder, lines, *, names=("a.png", "b.png"), head=HEAD, table="boxes.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, start=1):
        Image.fromarray(np.full((20, 30, 3), 20 * number, np.uint8)).save(folder / name)
    (folder / table).write_text("\n".join([*([head] if head else []), *lines]) + "\n", encoding="utf-8-sig")
    return folder


def split_folder(root, train=("a.png,zebra,1,2,3,4", "b.png,,,,,"), validation=("a.png,apple,5,5,9,9",)):
    write(root / "train", train)
    write(root / "val", validation, names=("a.png",))
    return root


def test_a_table_for_each_split(tmp_path):
    root = split_folder(tmp_path)
    train, validation = (BoxFolder(str(root), split) for split in ("train", "validation"))
    assert train.labels == validation.labels == ("apple", "zebra")  # of both, whoever has them
    assert len(train) == 2
    np.testing.assert_array_equal(train[0]["boxes_xyxy_pixels"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(train[0]["labels"], [1])
    assert train[1]["boxes_xyxy_pixels"].shape == (0, 4)
    np.testing.assert_array_equal(validation[0]["labels"], [0])
    np.testing.assert_array_equal(train.sizes(), [[20, 30]] * 2)
    assert train.most_boxes == 1
    assert pickle.loads(pickle.dumps(train)).files == train.files
    (batch,) = PaddedSceneBatches(train, 2, BoxTargets(3), ((32, 32),)).epoch(Shards())
    np.testing.assert_array_equal(batch["area"][:, 0], [4, 0])


def test_a_share_of_one_table_is_held_back(tmp_path):
    names = [f"pictures/{number}.png" for number in range(10)]
    (tmp_path / "pictures").mkdir()
    lines = [json.dumps({"file": name, "label": "cat", "left": 0, "top": 0, "right": 9, "bottom": 9}) for name in names]
    write(tmp_path, [*lines, "", lines[0]], names=names, head="", table="boxes.jsonl")
    train, validation = (BoxFolder(str(tmp_path), split, validation_share=0.3) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (7, 3)
    assert not set(train.files) & set(validation.files)
    assert sum(len(source[number]["labels"]) for source in (train, validation) for number in range(len(source))) == 11


def test_voc(tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for number, (label, difficult) in enumerate((("dog", 0), ("cat", 1)), start=1):
        Image.new("RGB", (30, 20)).save(tmp_path / "JPEGImages" / f"{number}.jpg")
        (tmp_path / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><object><name>{label}</name><difficult>{difficult}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    source = BoxFolder(str(tmp_path), validation_share=0.5)
    assert source.labels == ("cat", "dog")
    assert len(source) == 1
    for name, stem in (("train", "2"), ("val", "1")):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text(f"{stem}\n")
    scene = BoxFolder(str(tmp_path))[0]
    np.testing.assert_array_equal(scene["boxes_xyxy_pixels"], [[0, 2, 10, 20]])  # pixels count from 1 there
    np.testing.assert_array_equal(scene["labels"], [0])
    assert scene["crowd"].tolist() == [True]


def test_what_cannot_be_used_is_told_once(tmp_path, caplog):
    lines = [
        "a.png,cat,25,15,40,25",  # reaches out
        "a.png,cat,5,5,5,9",
        "a.png,cat,9,9,5,5",
        "a.png,cat,1,,2,3",
        "a.png,,1,1,2,2",
        "gone.png,cat,1,1,2,2",
        "b.png,dog,nan,1,2,2",
        "b.png,dog,0,0,30.5,20",
    ]
    root = split_folder(tmp_path, lines)
    Image.new("RGB", (4, 4)).save(root / "train" / "unnamed.png")
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        source = BoxFolder(str(root))
    (message,) = caplog.messages
    table = root / "train" / "boxes.csv"
    for part in (
        f"1 boxes that reach out of their picture by more than a pixel, which are cut and kept ({table}, line 2)",
        f"2 boxes without area in their picture ({table}, line 3, {table}, line 4)",
        "2 lines without four numbers",
        f"1 boxes without a label ({table}, line 6)",
        "1 pictures that cannot be read",
        "gone.png: no such file",
        "1 pictures that no line names",
    ):
        assert part in message
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["boxes_xyxy_pixels"], [[25, 15, 30, 20]])
    np.testing.assert_array_equal(source[1]["boxes_xyxy_pixels"], [[0, 0, 30, 20]])


@pytest.mark.parametrize(
    ("lines", "head", "table", "message"),
    [
        (["a.png,cat,1,2,3,4"], "", "boxes.csv", r"boxes\.csv: its head line lacks file, label"),
        (["a.png,cat,1,2,3"], "file,label,left,top,right", "boxes.csv", "its head line lacks bottom"),
        ([",cat,1,2,3,4"], HEAD, "boxes.csv", r"boxes\.csv, line 2: names no file"),
        (["{"], "", "boxes.jsonl", r"boxes\.jsonl, line 1: is no json"),
        (["[1]"], "", "boxes.jsonl", "line 1: is no json object"),
        (["a.png,,,,,", "b.png,,,,,"], HEAD, "boxes.csv", "no line has a label"),
        (["a.png,cat,1,2,3,4"], HEAD, "boxes.csv", "1 pictures; training and validation need one each"),
        (["x.png,cat,1,2,3,4", "y.png,cat,1,2,3,4"], HEAD, "boxes.csv", "no picture can be used, out of 1"),
    ],
)
def test_a_table_that_will_not_do(tmp_path, lines, head, table, message):
    with pytest.raises(UserError, match=message):
        BoxFolder(str(write(tmp_path, lines, head=head, table=table)))


def test_wrong_places(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        BoxFolder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"has no boxes\.csv or boxes\.jsonl"):
        BoxFolder(str(tmp_path))
    with pytest.raises(UserError, match="expected 'train' or 'validation'"):
        BoxFolder(str(tmp_path), "val")
    with pytest.raises(UserError, match="`validation_share`=1"):
        BoxFolder(str(tmp_path), validation_share=1.0)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(UserError, match="has no xml files"):
        BoxFolder(str(tmp_path))
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(UserError, match="cannot be read as xml"):
        BoxFolder(str(tmp_path))
