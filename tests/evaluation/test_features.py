"""Features come from real images alone, each once, whatever the batches look like."""

import numpy as np
import pytest

from tests.data.fake_source import FakeSource
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide
from vitjax.data.transforms import Resize
from vitjax.errors import UserError
from vitjax.evaluation.features import extract_features

SOURCE = FakeSource(11, broken=frozenset({4}))


def mean_colour(batch):
    return np.where(batch["image_mask"][:, None], batch["image"].mean(axis=(1, 2)), np.nan)


def test_padding_and_broken_files_leave_no_row():
    batches = ImageBatches(source=SOURCE, batch_size=4, transforms=(Resize(8),))
    found = extract_features(mean_colour, batches.epoch(Shards()))
    assert found.examples.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert found.labels.tolist() == [example % 7 for example in found.examples]
    for row, example in zip(found.features, found.examples, strict=True):
        image = Resize(8)(SOURCE[example]["image"], np.random.default_rng())
        np.testing.assert_allclose(row, image.mean(axis=(0, 1)), rtol=1e-6)


def test_the_batch_size_does_not_matter():
    one, other = (
        extract_features(
            mean_colour, ImageBatches(source=SOURCE, batch_size=size, transforms=(Resize(8),)).epoch(Shards())
        )
        for size in (3, 16)
    )
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_packed_rows_give_one_row_per_image():
    batches = PackedBatches(
        source=SOURCE, patch_size=4, length=64, rows=4, packers=2, max_images=4, resolution=FixedSide(16)
    )
    found = extract_features(lambda batch: batch["example"][..., None].astype(np.float32), batches.epoch(Shards()))
    assert sorted(found.examples.tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(found.features[:, 0], found.examples)
    np.testing.assert_array_equal(found.labels, found.examples % 7)


def test_what_is_no_number_is_named():
    batches = ImageBatches(source=SOURCE, batch_size=4, transforms=(Resize(8),))

    def spoilt(batch):
        return np.where(batch["example"][:, None] == 6, np.inf, np.ones((4, 2), np.float32))

    with pytest.raises(UserError, match="1 of 3 images in a batch are no finite numbers, first example 6"):
        extract_features(spoilt, batches.epoch(Shards()))


def test_no_images_are_an_error():
    with pytest.raises(UserError, match="no image to take features of"):
        extract_features(mean_colour, [])
