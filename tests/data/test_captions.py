import io
import json
import pickle
import sys
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from vitjax.data.captions import CaptionLines, captions_of, open_captions
from vitjax.data.digits import DigitCaptions
from vitjax.data.images import BrokenExample
from vitjax.errors import UserError


@pytest.fixture
def lines(tmp_path):
    """Twenty images of their number, each with a line; the fourth has two texts, the sixth no file."""
    (tmp_path / "photos").mkdir()
    entries = []
    for number in range(20):
        image, caption = f"photos/{number}.png", f"picture {number} — ✓"
        entries.append({"image": image, "caption": [caption, "other"] if number == 4 else caption, "license": 1})
        if number != 6:
            Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(tmp_path / image)
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n", encoding="utf-8")
    return file


def test_every_line_is_a_pair(lines):
    source = pickle.loads(pickle.dumps(CaptionLines(str(lines), "train", validation_share=0)))
    assert (len(source), source.labels) == (20, ())
    for index in range(20):
        expected = (f"picture {index} — ✓", "other") if index == 4 else (f"picture {index} — ✓",)
        assert source.captions(index) == expected
        if index == 6:
            with pytest.raises(BrokenExample, match=r"6\.png"):
                source[index]
            continue
        example = source[index]
        assert (example["image"] == index).all()
        assert captions_of(example, source.name) == expected
    with pytest.raises(IndexError):
        source[20]


def test_the_split_is_by_image_and_leaves_nothing_out(lines, tmp_path):
    halves = [CaptionLines(str(lines), split, validation_share=0.5) for split in ("train", "validation")]
    images = [{path for path, _ in half.entries} for half in halves]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == 20
    assert min(map(len, images)) >= 3
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text(lines.read_text())
    (tmp_path / "deep").mkdir()
    assert open_captions(f"jsonl:{elsewhere}", "train", root=str(tmp_path), validation_share=0)[3]["image"].max() == 3


def test_wrong_lines_are_named_by_number(tmp_path):
    file = tmp_path / "pairs.jsonl"
    good = '{"image": "1.png", "caption": "one"}'
    bad = [
        '{"image": "1.png", "caption": ', "", "[1]", '{"caption": "a"}', '{"image": 3, "caption": "a"}',
        '{"image": "1.png"}', '{"image": "1.png", "caption": " "}', '{"image": "1.png", "caption": []}',
    ]  # fmt: skip
    for line, message in zip(
        bad,
        ["no JSON at column", "is empty", "is a list", "`image` is None", "`image` is 3",
         "`caption` is None", "`caption` is ' '", r"`caption` is \[\]"],
        strict=True,
    ):  # fmt: skip
        file.write_text(f"{good}\n{line}\n{good}\n")
        with pytest.raises(UserError, match=rf"pairs\.jsonl: line 2: {message}.*expected \{{\"image\": PATH"):
            CaptionLines(str(file), "train")
    file.write_text("\n".join([good, *bad]))
    with pytest.raises(UserError, match=r"line 2: .*line 6: .*and 3 more"):
        CaptionLines(str(file), "train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: CaptionLines(f"{path}.no", "train"), "cannot be read: No such file"),
        (lambda path: CaptionLines(str(path), "test"), "`split`='test'"),
        (lambda path: CaptionLines(str(path), "train", validation_share=2), "`validation_share`=2"),
        (lambda path: CaptionLines(str(path), "train", validation_share=1), "none of its 20 lines is for train"),
        (lambda path: open_captions(str(path), "train"), "did you mean jsonl:"),
        (lambda path: open_captions("jsonl:", "train"), "expected digits, jsonl:PATH or tfds:NAME"),
        (
            lambda path: captions_of({"image": 1, "index": 7}, "photos"),
            "photos has no `caption`.*zero_shot",
        ),
    ],
)
def test_what_is_refused(lines, make, message):
    with pytest.raises(UserError, match=message):
        make(lines)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(UserError, match="byte 11 is no UTF-8"):
        CaptionLines(str(tmp_path / "pairs.jsonl"), "train")


def test_digits_are_opened_by_name():
    source = open_captions("digits", "train", num_scenes=5, min_digits=1, max_digits=2, digit_sides=(20, 30))
    assert source == DigitCaptions("train", 5, min_digits=1, max_digits=2, digit_sides=(20, 30))
    assert captions_of(source[1], "digits") == source.captions(1)


def write_captions(data_dir, name, feature):
    """One picture with two texts, as COCO's; `feature` holds them, beside a text that is none."""
    import tensorflow_datasets as tfds

    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 40, 3), 40, np.uint8)).save(buffer, "PNG")
    buffer.seek(0)
    texts = ["ein Bär", "a bear"]
    values = {"captions": [{"text": text, "id": 1} for text in texts], "text": texts[0], "sentences": texts}
    kinds = {
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        "text": tfds.features.Text(),
        "sentences": tfds.features.Sequence(np.str_),
    }
    other = {"file": tfds.features.Text()} if feature != "sentences" else {}

    with tfds.core.registered.skip_registration():

        class TinyCaptions(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            url_infos: ClassVar = {}

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
                features = {"image": image, feature: kinds[feature], **other}
                return tfds.core.DatasetInfo(
                    builder=self, description="Captions.", features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                example = {"image": buffer, feature: values[feature], **dict.fromkeys(other, "1.png")}
                return {"train": iter([(0, example)])}

            def _generate_examples(self):
                raise NotImplementedError

    TinyCaptions.name = name
    TinyCaptions(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


@pytest.mark.parametrize("feature", ["captions", "text", "sentences"])
def test_caption_sets_of_tfds(tmp_path, feature):
    write_captions(tmp_path, "tiny_captions", feature)
    opened = open_captions("tfds:tiny_captions", "train", data_dir=str(tmp_path), tfds_split="train")
    source = pickle.loads(pickle.dumps(opened))
    expected = ("ein Bär",) if feature == "text" else ("ein Bär", "a bear")
    assert source.captions(0) == source[0]["captions"] == expected
    assert (source[0]["image"] == 40).all()
    assert "tensorflow" not in sys.modules


def test_sets_without_texts_are_refused(tmp_path):
    from tests.data.tfds_fixture import write_tiny_tfds

    write_tiny_tfds(tmp_path, num_train=2, num_validation=0)
    with pytest.raises(UserError, match="expected one image and texts about it, its features are image, label"):
        open_captions("tfds:tiny_shapes", "train", data_dir=str(tmp_path))
