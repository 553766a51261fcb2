import pickle

import pytest

from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards
from vitjax.data.sources import FakeImages
from vitjax.data.subsets import KeepClasses
from vitjax.errors import UserError


def test_kept_examples_are_the_sources_numbered_anew():
    source = FakeImages(num_examples=20, num_classes=4)
    kept = KeepClasses(source, ("class 3", "class 1"))
    assert kept.labels == ("class 3", "class 1")
    assert len(kept) == 10
    for number in range(len(kept)):
        example = kept[number]
        original = source[int(kept.numbers[number])]
        assert example["index"] == number
        assert kept.labels[example["label"]] == source.labels[original["label"]]
        assert (example["image"] == original["image"]).all()
    with pytest.raises(IndexError, match="10 examples"):
        kept[10]


class Told(FakeImages):
    """Says its labels, and would be found out if it were read for them."""

    def example_labels(self):
        return [number % 4 for number in range(len(self))]

    def __getitem__(self, index):
        raise AssertionError("read")


def test_a_source_that_says_its_labels_is_not_read():
    kept = KeepClasses(Told(num_examples=8), ("class 2",))
    assert kept.numbers.tolist() == [2, 6]
    assert pickle.loads(pickle.dumps(kept)) == kept


def test_batches_of_it():
    batches = ImageBatches(KeepClasses(FakeImages(shapes=((8, 8),)), ("class 0", "class 2")), batch_size=4)
    labels = [label for batch in batches.epoch(Shards()) for label in batch["label"].tolist()]
    assert labels == [0, 1] * 16


@pytest.mark.parametrize("classes", [(), ("class 9",), ("class 1", "class 1")])
def test_other_classes_are_refused(classes):
    with pytest.raises(UserError, match="KeepClasses: `classes`"):
        KeepClasses(FakeImages(), classes)
