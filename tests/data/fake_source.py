"""A source whose pixels say which example they belong to."""

from dataclasses import dataclass

import numpy as np

from vitjax.data.images import BrokenExample


@dataclass(frozen=True)
class FakeSource:
    """Images of many sizes: example `i` has sides of `smallest` ... `largest` pixels that depend on `i` alone."""

    size: int
    smallest: int = 8
    largest: int = 40
    square: bool = False
    broken: frozenset[int] = frozenset()
    name: str = "fake"
    labels: tuple[str, ...] = tuple("abcdefg")

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        if index in self.broken:
            raise BrokenExample(f"file{index}.jpg", "truncated")
        height, width = self.sides(index)
        generator = np.random.default_rng(index)
        return {
            "image": generator.integers(0, 256, (height, width, 3), np.uint8),
            "label": index % len(self.labels),
        }

    def sides(self, index):
        height, width = np.random.default_rng((1, index)).integers(self.smallest, self.largest + 1, 2)
        return (self.largest, self.largest) if self.square else (int(height), int(width))


def assert_same_batch(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if name == "buckets":
            assert len(one[name]) == len(other[name])
            for a, b in zip(one[name], other[name], strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
