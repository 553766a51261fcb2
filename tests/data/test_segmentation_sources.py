"""Class maps of scenes, and folders of images and masks: what is read, and what is reported before a run."""

import pickle

import numpy as np
import pytest
from PIL import Image

from vitjax.data.digits import DigitScenes
from vitjax.data.images import BrokenExample
from vitjax.data.segmentation_sources import DigitClassMaps, FakeClassMaps, SegmentationFolder, open_class_maps
from vitjax.errors import UserError

CLASSES = ("background", "cat", "dog")


def palette(values):
    mask = Image.fromarray(values, "P")
    mask.putpalette([(37 * n) % 256 for n in range(768)])
    return mask


def write_pair(root, stem, values, size=None):
    for name in ("images", "masks"):
        (root / name / stem).parent.mkdir(parents=True, exist_ok=True)
    rows, columns = size or values.shape
    Image.new("RGB", (columns, rows), (200, 100, 50)).save(root / "images" / f"{stem}.jpg")
    palette(values).save(root / "masks" / f"{stem}.png")


def a_map(rows=6, columns=9, seed=0):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (rows, columns))


def folder_of(root, **settings):
    return SegmentationFolder(str(root / "images"), str(root / "masks"), CLASSES, **settings)


def test_scenes_become_class_maps():
    scenes = DigitScenes("train", 6, sides=(48, 64), digit_sides=(16, 32))
    source = DigitClassMaps(scenes)
    assert source.labels[:3] == ("background", "0", "1")
    for number in range(len(source)):
        scene, example = scenes[number], source[number]
        assert example["class_map"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], scene["image"])
        covered = np.zeros(example["class_map"].shape, bool)
        for mask, label in zip(scene["masks"], scene["labels"], strict=True):
            assert (example["class_map"][mask] == label + 1).all()
            covered |= mask
        assert not example["class_map"][~covered].any()


def test_a_folder_is_read_as_it_is_stored(tmp_path):
    maps = {"b": a_map(), "sub/a": a_map(5, 4, 1)}
    for stem, values in maps.items():
        write_pair(tmp_path, stem, values)
    source = pickle.loads(pickle.dumps(folder_of(tmp_path)))
    assert source.labels == CLASSES
    assert len(source) == 2
    for number, stem in enumerate(sorted(maps)):
        np.testing.assert_array_equal(source[number]["class_map"], maps[stem])
        assert source[number]["image"].shape == (*maps[stem].shape, 3)
    with pytest.raises(IndexError):
        source[2]


def test_classes_may_start_at_one(tmp_path):
    values = np.array([[0, 1, 3, 255]], np.uint8)
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "x.png")
    Image.new("RGB", (4, 1)).save(tmp_path / "images" / "x.png")
    example = folder_of(tmp_path, first_value=1)[0]
    np.testing.assert_array_equal(example["class_map"], [[255, 0, 2, 255]])


def test_a_list_names_the_pairs(tmp_path):
    for number, stem in enumerate("abc"):
        write_pair(tmp_path, stem, a_map(seed=number))
    (tmp_path / "train.txt").write_text("c\na\n\n")
    source = folder_of(tmp_path, stems=str(tmp_path / "train.txt"))
    assert len(source) == 2
    np.testing.assert_array_equal(source[1]["class_map"], a_map(seed=2))
    (tmp_path / "train.txt").write_text("c\nd\n")
    with pytest.raises(UserError, match=r"lack their image or mask: d"):
        folder_of(tmp_path, stems=str(tmp_path / "train.txt"))


def test_unknown_classes_name_file_and_value_before_the_run(tmp_path):
    values = a_map()
    values[2, 3] = 7
    write_pair(tmp_path, "good", a_map())
    write_pair(tmp_path, "odd", values)
    with pytest.raises(UserError, match=r"odd\.png: unknown class 7 .* 3 `classes` are 0 to 2"):
        folder_of(tmp_path)


def test_what_spoils_a_folder_later_is_no_less_clear(tmp_path):
    write_pair(tmp_path, "one", a_map())
    source = folder_of(tmp_path)
    palette(np.full((6, 9), 9, np.uint8)).save(tmp_path / "masks" / "one.png")
    with pytest.raises(UserError, match=r"one\.png: unknown class 9"):
        source[0]
    palette(np.zeros((3, 9), np.uint8)).save(tmp_path / "masks" / "one.png")
    with pytest.raises(UserError, match=r"a mask of 3x9 px for .*one\.jpg of 6x9 px"):
        source[0]


def test_sizes_and_partners_are_one_report(tmp_path):
    write_pair(tmp_path, "a", a_map(), size=(6, 8))
    write_pair(tmp_path, "b", a_map(), size=(5, 9))
    with pytest.raises(UserError, match=r"a\.jpg of 6x8 px.*b\.jpg of 5x9 px"):
        folder_of(tmp_path)
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 files lack their image or mask: b"):
        folder_of(tmp_path)
    write_pair(tmp_path, "b", a_map())
    (tmp_path / "images" / "b.jpg").rename(tmp_path / "images" / "a.jpeg")
    with pytest.raises(UserError, match="another file has the same name"):
        folder_of(tmp_path)


@pytest.mark.parametrize("spoil", ["truncated", "coloured", "no picture"])
def test_masks_that_cannot_be_read_are_broken_examples(tmp_path, spoil):
    write_pair(tmp_path, "a", a_map(60, 90))
    file = tmp_path / "masks" / "a.png"
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:-2000])
    elif spoil == "coloured":
        Image.new("RGB", (90, 60)).save(file)
    else:
        file.write_bytes(b"what?")
    with pytest.raises(BrokenExample, match=r"a\.png"):
        folder_of(tmp_path)[0]


def test_short_names(tmp_path):
    digits = open_class_maps("digits", "validation", num_scenes=3, sides=(64, 64))
    assert len(digits) == 3
    assert len(digits.labels) == 11
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    for split, seed in (("train", 0), ("val", 1)):
        write_pair(tmp_path / split, "x", a_map(seed=seed))
    held_back = open_class_maps(f"folder:{tmp_path}", "validation")
    assert held_back.labels == CLASSES
    np.testing.assert_array_equal(held_back[0]["class_map"], a_map(seed=1))


def test_pascal_voc(tmp_path):
    for seed, stem in enumerate(("2007_000032", "2007_000039")):
        write_pair(tmp_path, stem, a_map(seed=seed))
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000039\n")
    source = open_class_maps(f"voc:{tmp_path}", "validation")
    assert len(source) == 1
    assert len(source.labels) == 21
    np.testing.assert_array_equal(source[0]["class_map"], a_map(seed=1))


def test_ade20k(tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "training" / "a.jpg")
    Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8)).save(tmp_path / "annotations" / "training" / "a.png")
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tbuilding, edifice\n")
    source = open_class_maps(f"ade20k:{tmp_path}", "train")
    assert source.labels == ("wall", "building, edifice")
    np.testing.assert_array_equal(source[0]["class_map"], [[255, 0], [1, 255]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "expected digits, folder:PATH"),
        ("{0}", "did you mean folder:"),
        ("folder:{0}", "has none of train"),
        ("voc:{0}", "has none of SegmentationClassAug, SegmentationClass"),
        ("ade20k:{0}", "objectInfo150.txt: cannot be read"),
    ],
)
def test_names_that_say_nothing(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        open_class_maps(data.format(tmp_path), "train")


def test_a_folder_needs_its_class_names(tmp_path):
    write_pair(tmp_path / "train", "x", a_map())
    with pytest.raises(UserError, match=r"classes\.txt: cannot be read"):
        open_class_maps(f"folder:{tmp_path}", "train")
    with pytest.raises(UserError, match="expected 2 to 255"):
        SegmentationFolder(str(tmp_path), str(tmp_path), ("one",))
    with pytest.raises(UserError, match="no such folder"):
        SegmentationFolder(str(tmp_path / "none"), str(tmp_path), CLASSES)


def test_class_names_of_hugging_face(tmp_path):
    write_pair(tmp_path / "train", "x", a_map())
    file = tmp_path / "id2label.json"
    file.write_text('{"1": "cat", "0": "ground", "2": "dog"}')
    source = open_class_maps(f"folder:{tmp_path}", "train")
    assert source.labels == ("ground", "cat", "dog")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert open_class_maps(f"folder:{tmp_path}", "train").labels == ("a", "b", "c")
    (tmp_path / "classes.txt").unlink()
    for content, message in (
        ('{"1": "cat", "2": "dog"}', r"names the classes \[1, 2\], expected 0 to 1, each once"),
        ('["cat"]', "id2label.json: cannot be read"),
        ("{", "id2label.json: cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            open_class_maps(f"folder:{tmp_path}", "train")


def test_sizes_are_those_of_the_pictures(tmp_path):
    write_pair(tmp_path / "train", "x", a_map())
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    scenes = DigitClassMaps(DigitScenes("train", 2))
    for source in (open_class_maps(f"folder:{tmp_path}", "train"), scenes, FakeClassMaps(3)):
        shapes = [source[number]["image"].shape[:2] for number in range(len(source))]
        assert shapes == list(map(tuple, source.sizes()))
