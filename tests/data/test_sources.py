"""Sources by short name: folders, TFDS on disk, fakes and lists, and every mistake a person can make with them."""

import http.server
import logging
import os
import pickle
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.folder_fixture import write_jpeg_folder
from tests.data.tfds_fixture import write_tiny_tfds
from vitjax.data.digits import DigitImages
from vitjax.data.images import BrokenExample
from vitjax.data.sources import FakeImages, ImageFolder, ImageList, TfdsImages, open_source, tfds_source
from vitjax.data.tfds_images import KNOWN_DATA_SETS
from vitjax.errors import UserError


def refused(make, *parts: str) -> None:
    """One line that holds all of `parts`."""
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def check_source(source, num_classes: int) -> None:
    assert len(source) > 0
    assert len(source.labels) == num_classes
    assert isinstance(source.name, str)
    for index in range(len(source)):
        example = source[index]
        assert example["image"].dtype == np.uint8
        assert example["image"].ndim == 3
        assert 0 <= example["label"] < num_classes
        assert example["index"] == index
    with pytest.raises(IndexError):
        source[len(source)]
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda index: copy[index]["image"], range(len(source))))
    assert all(np.array_equal(image, source[index]["image"]) for index, image in enumerate(images))


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    write_tiny_tfds(data_dir)
    write_tiny_tfds(data_dir, version="1.2.0", num_train=30, validation_split="validation")
    write_tiny_tfds(data_dir, name="only_train", num_train=20, num_validation=0)
    # A configuration is one folder more.
    shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", data_dir / "with_config" / "large" / "1.0.0")
    shutil.copytree(data_dir / "tiny_shapes" / "1.0.0", data_dir / "sun397" / "tfds" / "4.0.0")
    return str(data_dir)


def test_short_names(tmp_path, tfds_dir):
    write_jpeg_folder(tmp_path / "shapes")
    assert open_source("digits", "train", copies=2, sides=(20, 30)) == DigitImages("train", copies=2, sides=(20, 30))
    # One set of settings serves all three kinds.
    settings = {"copies": 4, "validation_share": 0.25, "data_dir": tfds_dir}
    assert isinstance(open_source(f"folder:{tmp_path}/shapes", "train", **settings), ImageFolder)
    assert isinstance(open_source("tfds:tiny_shapes", "train", **settings), TfdsImages)
    assert len(open_source("digits", "validation", **settings)) == 4 * 359
    for data in ("digit", "folder:", "tfds:", "imagenet", "digits:3", ""):
        refused(lambda data=data: open_source(data, "train"), f"`data`={data!r}", "digits, folder:PATH or tfds:NAME")
    refused(lambda: open_source(str(tmp_path), "train"), f"did you mean folder:{tmp_path}?")
    refused(lambda: open_source("digits", "test"), "'test'")


# --- folders


def test_folder_with_a_split_by_name(tmp_path):
    write_jpeg_folder(tmp_path, classes=3, per_class=10)
    train, validation = (ImageFolder(str(tmp_path), split, validation_share=0.2) for split in ("train", "validation"))
    check_source(train, 3)
    check_source(validation, 3)
    assert train.labels == validation.labels == ("circle", "cross", "square")
    assert sorted([*train.files, *validation.files]) == sorted(map(str, tmp_path.rglob("*.jpg")))
    assert np.bincount(validation.file_labels).tolist() == [2, 2, 2]
    for source in (train, validation):
        for file, label in zip(source.files, source.file_labels, strict=True):
            assert Path(file).parent.name == source.labels[label]


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path):
    names = []
    for place in ("a", "somewhere/else"):
        write_jpeg_folder(tmp_path / place, classes=2, per_class=9)
        source = ImageFolder(str(tmp_path / place), "validation", validation_share=0.3)
        names.append([os.path.relpath(file, tmp_path / place) for file in source.files])
    assert names[0] == names[1]
    smallest = ImageFolder(str(tmp_path / "a"), "validation", validation_share=0.01)
    assert np.bincount(smallest.file_labels).tolist() == [1, 1]  # every class appears
    largest = ImageFolder(str(tmp_path / "a"), "train", validation_share=0.99)
    assert np.bincount(largest.file_labels).tolist() == [1, 1]


@pytest.mark.parametrize("held_back", ["val", "validation", "valid", "test"])
def test_folder_with_train_and_validation(tmp_path, held_back):
    write_jpeg_folder(tmp_path / "train", per_class=5)
    write_jpeg_folder(tmp_path / held_back, per_class=2, seed=1)
    train, validation = ImageFolder(str(tmp_path), "train"), ImageFolder(str(tmp_path), "validation")
    assert (len(train), len(validation)) == (15, 6)
    check_source(validation, 3)
    assert all(file.startswith(str(tmp_path / held_back)) for file in validation.files)


def test_val_goes_before_test(tmp_path):
    for name in ("train", "val", "test"):
        write_jpeg_folder(tmp_path / name, per_class=2)
    assert all("/val/" in file for file in ImageFolder(str(tmp_path), "validation").files)


def test_a_class_may_be_called_train(tmp_path):
    write_jpeg_folder(tmp_path, classes=2, per_class=3)
    (tmp_path / "circle").rename(tmp_path / "train")
    assert ImageFolder(str(tmp_path), "train").labels == ("cross", "train")


def test_nested_hidden_and_other_files(tmp_path, caplog):
    write_jpeg_folder(tmp_path, classes=2, per_class=3)
    (tmp_path / "circle" / "more").mkdir()
    (tmp_path / "circle" / "000.jpg").rename(tmp_path / "circle" / "more" / "nested.JPEG")
    (tmp_path / "circle" / "._001.jpg").write_bytes(b"what macOS leaves on memory sticks")
    (tmp_path / "circle" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("beside the class folders")
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        source = ImageFolder(str(tmp_path), "train")
    assert source.labels == ("circle", "cross")
    assert len(source) + len(ImageFolder(str(tmp_path), "validation")) == 6
    assert any(
        "left out 2 files" in record.getMessage() and "circle" in record.getMessage() for record in caplog.records
    )


def test_links_are_followed_once(tmp_path):
    write_jpeg_folder(tmp_path / "data", classes=2, per_class=4)
    write_jpeg_folder(tmp_path / "elsewhere", classes=1, per_class=3)
    (tmp_path / "data" / "circle" / "loop").symlink_to(tmp_path / "data" / "circle")
    (tmp_path / "data" / "square").symlink_to(tmp_path / "elsewhere" / "circle")
    (tmp_path / "data" / "cross" / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    train, validation = (ImageFolder(str(tmp_path / "data"), split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 4 + 5 + 3
    broken = [
        (source, index)
        for source in (train, validation)
        for index, file in enumerate(source.files)
        if file.endswith("dangling.jpg")
    ]
    with pytest.raises(BrokenExample, match=r"dangling\.jpg: no such file"):
        broken[0][0][broken[0][1]]


def test_a_broken_file_is_named_when_it_is_read(tmp_path):
    write_jpeg_folder(tmp_path, classes=2, per_class=4)
    source = ImageFolder(str(tmp_path), "train")
    Path(source.files[1]).write_bytes(b"\xff\xd8\xff nothing more")
    source[0]
    with pytest.raises(BrokenExample) as caught:
        source[1]
    assert caught.value.name == source.files[1]


def test_folder_mistakes(tmp_path):
    def folder(path, **settings):
        return lambda: ImageFolder(str(path), "train", **settings)

    refused(folder(tmp_path / "gone"), str(tmp_path / "gone"), "no such folder")
    (tmp_path / "file.zip").write_bytes(b"")
    refused(folder(tmp_path / "file.zip"), "is a file", str(tmp_path))

    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8)).save(flat / "a.png")
    refused(folder(flat), str(flat), "no class folders", "named after it")

    empty = tmp_path / "empty"
    for name in ("a", "b"):
        (empty / name).mkdir(parents=True)
    refused(folder(empty), str(empty), "no images", ".jpg")

    one_empty = write_jpeg_folder(tmp_path / "one_empty")
    (one_empty / "unicorn").mkdir()
    refused(folder(one_empty), str(one_empty), "'unicorn'", "remove the folder")

    refused(folder(write_jpeg_folder(tmp_path / "single", classes=1)), "only one class", "'circle'")
    refused(folder(write_jpeg_folder(tmp_path / "few", per_class=1)), "one image only", "circle")

    refused(folder(write_jpeg_folder(tmp_path / "half" / "train").parent), "val/", f"folder:{tmp_path}/half/train")

    write_jpeg_folder(tmp_path / "both" / "train", classes=3, per_class=2)
    write_jpeg_folder(tmp_path / "both" / "val", classes=2, per_class=2)
    refused(folder(tmp_path / "both"), "'square'", str(tmp_path / "both" / "val"))
    (tmp_path / "both" / "val" / "square").mkdir()
    refused(folder(tmp_path / "both"), "'square'", "no images")

    refused(folder(one_empty, validation_share=1.0), "`validation_share`=1.0")
    refused(lambda: ImageFolder(str(one_empty), "val"), "'val'")


def test_unreadable_folder(tmp_path, monkeypatch):
    write_jpeg_folder(tmp_path)
    scan = os.scandir

    def forbid(path):
        if str(path).endswith("square"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbid)  # the tests may run as root, who is denied nothing
    refused(lambda: ImageFolder(str(tmp_path), "train"), str(tmp_path / "square"), "Permission denied")


# --- TFDS


def test_tfds_from_disk_without_tensorflow(tfds_dir):
    train, validation = (tfds_source("tiny_shapes", split, data_dir=tfds_dir) for split in ("train", "validation"))
    check_source(train, 3)
    check_source(validation, 3)
    assert train.labels == ("circle", "cross", "square")
    assert (len(train), len(validation)) == (30, 8)  # of the highest version
    assert len({train[index]["image"].shape for index in range(30)}) > 1
    assert "tensorflow" not in sys.modules


def test_tfds_images_are_our_decoders(tfds_dir):
    source = tfds_source("tiny_shapes", "train", data_dir=tfds_dir)
    stored = source._records[4][source._keys[0]]
    assert isinstance(stored, bytes)
    import io

    np.testing.assert_array_equal(source[4]["image"], np.asarray(Image.open(io.BytesIO(stored))))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("tiny_shapes/1.0.0", 24),
        ("tiny_shapes/1.0.*", 24),
        ("tiny_shapes/1.2.0", 30),
        ("with_config:large", 24),
        ("with_config:large/1.0.0", 24),
        ("with_config/large/1.0.0", 24),
        ("with_config", 24),
        ("sun397", 24),
    ],
)
def test_tfds_names(tfds_dir, name, length):
    assert len(tfds_source(name, "train", data_dir=tfds_dir)) == length


def test_tfds_splits(tfds_dir, monkeypatch):
    train, validation = (tfds_source("only_train", split, data_dir=tfds_dir) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (18, 2)
    assert len(tfds_source("tiny_shapes", "train", data_dir=tfds_dir, tfds_split="train[:50%]")) == 15
    both = tfds_source("tiny_shapes", "train", data_dir=tfds_dir, tfds_split="train+validation")
    assert len(both) == 38
    assert both.name == "tfds:tiny_shapes/1.2.0/train+validation"
    # Where results are published on another split than the rule would choose, the table decides.
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    monkeypatch.setitem(KNOWN_DATA_SETS, "tiny_shapes", type(KNOWN_DATA_SETS["cifar10"])("validation", "train"))
    assert len(tfds_source("tiny_shapes", "train")) == 8


def test_known_data_sets_have_the_splits_of_tfds():
    import tensorflow_datasets as tfds

    available = set(tfds.list_builders(with_community_datasets=False))
    assert set(KNOWN_DATA_SETS) <= available


def test_tfds_mistakes(tfds_dir, tmp_path):
    def tfds(name, **settings):
        return lambda: tfds_source(name, "train", **{"data_dir": tfds_dir, **settings})

    command = 'pip install "vitjax[tfds-prepare]" && tfds build'
    refused(
        tfds("cifar10"), f"{tfds_dir}/cifar10", f"{command} cifar10 --file_format=array_record --data_dir={tfds_dir}"
    )
    refused(tfds("imagenet2012"), "ILSVRC2012_img_train.tar", f"{tfds_dir}/downloads/manual", command)
    refused(tfds("i_naturalist2021"), "git+https://github.com/tensorflow/datasets")
    refused(tfds("sun397:standard-part1-120k"), "sun397/standard-part1-120k")
    refused(tfds("tiny_shapes/9.0.0"), "tiny_shapes/9.0.0: not prepared")
    refused(tfds("Not A Name"), "tfds:NAME[:CONFIG][/VERSION]")
    refused(tfds("tiny_shapes", tfds_split="tset"), "'tset'", "train, validation")
    refused(lambda: tfds_source("tiny_shapes", "test", data_dir=tfds_dir), "'test'")

    folder = Path(tfds_dir) / "tiny_shapes" / "1.0.0"
    other = tmp_path / "two_configs"
    shutil.copytree(folder, other / "a" / "1.0.0")
    shutil.copytree(folder, other / "b" / "1.0.0")
    refused(tfds("two_configs", data_dir=str(tmp_path)), "a, b", "tfds:two_configs:CONFIG")

    old = tmp_path / "old_format" / "1.0.0"
    shutil.copytree(folder, old)
    info = old / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    refused(
        tfds("old_format", data_dir=str(tmp_path)), "tfrecord", "tfds convert_format", "--out_file_format=array_record"
    )


# --- fakes and lists


def test_fakes():
    source = FakeImages(num_examples=9, num_classes=3, shapes=((8, 12), (10, 6)), broken=(4,))
    with pytest.raises(BrokenExample, match="fake example 4"):
        source[4]
    whole = FakeImages(num_examples=9, num_classes=3, shapes=((8, 12), (10, 6)))
    check_source(whole, 3)
    assert {whole[index]["image"].shape for index in range(9)} == {(8, 12, 3), (10, 6, 3)}
    means = np.array([whole[index]["image"].mean(axis=(0, 1)) for index in range(9)])
    assert np.abs(means[0] - means[3]).max() < 15 < np.abs(means[0] - means[1]).max()
    assert not np.array_equal(whole[0]["image"], FakeImages(9, 3, ((8, 12), (10, 6)), seed=1)[0]["image"])
    refused(lambda: FakeImages(num_examples=0), "`num_examples`=0")


def test_lists_of_everything(tmp_path):
    write_jpeg_folder(tmp_path / "photos", classes=2, per_class=2)
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "one[1].png")
    picture = Image.new("L", (6, 7))
    given = [
        tmp_path / "one[1].png",
        str(tmp_path / "photos"),
        f"{tmp_path}/photos/circle/*.jpg",
        picture,
        np.zeros((3, 2, 3), np.uint8),
        (tmp_path / "one[1].png").read_bytes(),
    ]
    source = ImageList(given)
    assert len(source) == len(source.names) == 1 + 4 + 2 + 3
    assert source.names[0] == str(tmp_path / "one[1].png")
    assert source.names[1:5] == tuple(sorted(map(str, (tmp_path / "photos").rglob("*.jpg"))))
    assert [source[index]["image"].shape for index in (0, 7, 8, 9)] == [(4, 5, 3), (7, 6, 3), (3, 2, 3), (4, 5, 3)]
    assert len(set(source.names[-3:])) == 3
    assert source.labels == ()
    assert len(ImageList(np.zeros((3, 2, 3), np.uint8))) == len(ImageList(str(tmp_path / "one[1].png"))) == 1


def test_list_mistakes(tmp_path):
    (tmp_path / "nothing").mkdir()
    refused(lambda: ImageList([]), "no images given")
    refused(lambda: ImageList(str(tmp_path / "cat.jpg")), f"{tmp_path}/cat.jpg", "no such file")
    refused(lambda: ImageList(str(tmp_path / "nothing")), "no images in this folder")
    refused(lambda: ImageList(f"{tmp_path}/*.jpg"), "no file matches")
    refused(lambda: ImageList([3]), "int cannot be read as an image")
    (tmp_path / "broken.jpg").write_bytes(b"no")
    source = ImageList([tmp_path / "broken.jpg", Image.new("RGB", (4, 4))])
    with pytest.raises(BrokenExample, match=r"broken\.jpg"):
        source[0]
    assert source[1]["image"].shape == (4, 4, 3)


def test_addresses(tmp_path):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "a.png")

    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        source = ImageList([f"{root}/a.png", f"{root}/gone.png"])
        assert source.names == (f"{root}/a.png", f"{root}/gone.png")
        assert source.size(0) == (4, 5)
        np.testing.assert_array_equal(source[0]["image"], np.full((4, 5, 3), (9, 8, 7)))
        assert asked == ["/a.png"]  # once for both
        with pytest.raises(BrokenExample, match=r"gone\.png: cannot be fetched: .*404"):
            source[1]
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(BrokenExample, match="cannot be fetched"):
        source[0]
