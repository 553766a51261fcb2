"""Inputs of every kind, and batches of few shapes."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitjax.data.batching import ImageBatches
from vitjax.data.packing import PackedBatches
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.sampling import FixedSide
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.sources import ImageList
from vitjax.data.transforms import Resize
from vitjax.inference.predict import Pictures, list_pictures, score_pictures, small_batches


def grey(value=128, rows=8, columns=12):
    return np.full((rows, columns, 3), value, np.uint8)


def image_batches(batch_size=8):
    return ImageBatches(source=None, batch_size=batch_size, transforms=(Resize((8, 8)),))


def packed_batches():
    return PackedBatches(source=None, patch_size=4, length=8, rows=8, packers=2, max_images=4, resolution=FixedSide(8))


def pictures_of(images):
    return Pictures(ImageList(list_pictures(images)), ("a", "b"))


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("cat.jpg", 1),
        (b"bytes", 1),
        (Image.fromarray(grey()), 1),
        (grey(), 1),
        (jnp.asarray(grey()), 1),
        (np.stack([grey(), grey()]), 2),
        (["cat.jpg", np.stack([grey()] * 3), Image.fromarray(grey())], 5),
        ((name for name in ("a", "b")), 2),
    ],
)
def test_anything_given_is_listed_picture_by_picture(given, count):
    listed = list_pictures(given)
    assert len(listed) == count
    assert all(isinstance(item, str | bytes | Image.Image | np.ndarray) for item in listed)


@pytest.mark.parametrize("batches", [image_batches(), packed_batches()])
@pytest.mark.parametrize("count", [1, 3, 5, 11])
def test_every_picture_comes_once_in_batches_of_few_shapes(batches, count):
    found, shapes = [], set()
    for batch in small_batches(pictures_of([grey(rows=4 + i) for i in range(count)]), batches):
        assert "buckets" not in batch
        sizes = {len(leaf) for leaf in batch.values()}
        assert len(sizes) == 1
        shapes |= sizes
        found += batch["example"][batch["image_mask"]].tolist()
    assert sorted(found) == list(range(count))
    assert shapes <= {1, 2, 4, 8}


@pytest.mark.parametrize("batches", [image_batches(), packed_batches()])
def test_scores_find_their_way_back_and_broken_pictures_their_reason(batches, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [grey(10), str(tmp_path / "broken.png"), grey(30), grey() / 2.0, grey(50)]
    pictures = pictures_of(images)

    def forward(batch):
        # The grey of each image, found without knowing how images lie in the batch.
        if "image" in batch:
            return batch["image"][:, 0, 0, :1].astype(float)
        scores = np.zeros((*batch["image_mask"].shape, 1))
        for row, slot in zip(*np.nonzero(batch["image_mask"]), strict=True):
            scores[row, slot] = batch["patches"][row][batch["segments"][row] == slot + 1][0, 0]
        return scores

    scores = dict(score_pictures(pictures, batches, forward))
    assert {number: row[0] for number, row in scores.items()} == {0: 10, 2: 30, 4: 50}
    assert set(pictures.errors) == {1, 3}
    assert "not an image" in pictures.errors[1]
    assert "expected 0...1" in pictures.errors[3]


def test_sizes_are_known_before_a_picture_is_decoded(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    turned = Image.fromarray(grey(rows=5, columns=9))
    turned.getexif()[0x0112] = 6  # shown on its side
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    pictures = pictures_of([grey(rows=6), str(tmp_path / "broken.png"), str(tmp_path / "turned.jpg"), grey()[0, 0]])
    assert pictures.sizes().tolist() == [[6, 12], [1, 1], [9, 5], [1, 1]]
    assert not pictures.seen_sizes
    assert not pictures.errors
    batches = PaddedSceneBatches(None, 2, BoxTargets(1), ((8, 16), (16, 8)))
    examples = np.concatenate([batch["example"] for batch in small_batches(pictures, batches)])
    assert sorted(examples[examples >= 0]) == [0, 2]
    assert pictures.seen_sizes == {0: (6, 12), 2: (9, 5)}
    assert set(pictures.errors) == {1, 3}


def test_answers_that_are_no_numbers_become_errors():
    pictures = pictures_of([grey(), grey()])

    def forward(batch):
        return np.where(batch["example"][:, None] == 1, np.nan, 1.0)

    assert [number for number, _ in score_pictures(pictures, image_batches(), forward)] == [0]
    assert "no finite number" in pictures.errors[1]


def test_hundreds_of_broken_files_do_not_stop_the_rest(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = pictures_of([str(tmp_path / "broken.png")] * 30 + [grey()])
    scores = dict(score_pictures(pictures, image_batches(), lambda batch: np.ones((len(batch["image"]), 2))))
    assert list(scores) == [30]
    assert len(pictures.errors) == 30
