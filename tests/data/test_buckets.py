import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.data.buckets import Buckets, plan_buckets


def assign(buckets, rows, length, groups):
    """`rows`: sizes of the images of each row, from its first token on."""
    sizes = np.array([size for row in rows for size in row], np.int64)
    starts = np.array(
        [number * length + sum(row[:slot]) for number, row in enumerate(rows) for slot in range(len(row))], np.int64
    )
    group_tokens = len(rows) // groups * length
    blocks = buckets.assign(
        starts // group_tokens, starts % group_tokens, sizes, num_groups=groups, group_tokens=group_tokens
    )
    return blocks, starts, sizes, group_tokens


rows_of_16 = st.lists(
    st.lists(st.integers(1, 16), max_size=5).filter(lambda row: sum(row) <= 16), min_size=2, max_size=8
).filter(lambda rows: len(rows) % 2 == 0)


@given(rows=rows_of_16, lengths=st.sets(st.integers(1, 15), max_size=4), capacity=st.integers(1, 12))
@settings(deadline=None)
def test_each_image_is_in_exactly_one_slot_or_nothing_is_assigned(rows, lengths, capacity):
    buckets = Buckets((*sorted(lengths), 16), (capacity,) * (len(lengths) + 1))
    blocks, starts, sizes, group_tokens = assign(buckets, rows, 16, 2)
    per_group = np.bincount(starts // group_tokens, minlength=2) if len(starts) else np.zeros(2, int)
    if blocks is None:
        assert per_group.max() > capacity  # one block alone would hold fewer
        return
    assert [block.shape for block in blocks] == [(2, capacity, length) for length in buckets.lengths]
    assert all(block.dtype == np.int32 for block in blocks)
    for group in range(2):
        found = []
        for block in blocks:
            for slot in block[group]:
                tokens = slot[slot < group_tokens]
                assert np.all(slot[len(tokens) :] == group_tokens)  # padding stands last
                if len(tokens):
                    assert np.all(np.diff(tokens) == 1)
                    found.append((tokens[0], len(tokens)))
        mine = starts // group_tokens == group
        assert sorted(found) == sorted(zip(starts[mine] % group_tokens, sizes[mine], strict=True))


def test_an_image_spills_into_a_longer_block_only():
    buckets = Buckets((4, 16), (1, 2))
    blocks, *_ = assign(buckets, [[3, 2, 4]], 16, 1)
    assert blocks is not None
    assert blocks[0].tolist() == [[[3, 4, 16, 16]]]  # the shortest stays, what spills wastes least
    assert blocks[1][0, :, 0].tolist() == [0, 5]
    assert assign(buckets, [[3, 2, 4, 1]], 16, 1)[0] is None
    assert assign(Buckets((4,), (9,)), [[5]], 16, 1)[0] is None


def test_no_images_fill_no_slot():
    blocks, *_ = assign(Buckets((4, 16), (1, 2)), [[], []], 16, 2)
    assert blocks is not None
    assert all(np.all(block == 16) for block in blocks)


def random_group(generator, tokens=2048):
    sizes = generator.integers(4, 100, 1000)
    return sizes[: np.searchsorted(np.cumsum(sizes), tokens)]


def test_planned_buckets_hold_groups_like_those_they_were_planned_from():
    generator = np.random.default_rng(0)
    buckets = plan_buckets([random_group(generator) for _ in range(100)], largest=128, sample=512)
    assert len(buckets.lengths) <= 8
    assert buckets.lengths[-1] == 128
    assert list(buckets.lengths) == sorted(set(buckets.lengths))
    dense = 0
    for _ in range(200):
        sizes = random_group(generator)
        starts = np.cumsum(sizes) - sizes
        zeros = np.zeros(len(sizes), np.int64)
        dense += buckets.assign(zeros, starts, sizes, num_groups=1, group_tokens=2048) is None
    assert dense <= 4
    # far cheaper than every image in a block of the longest
    cost = sum(capacity * length**2 for capacity, length in zip(buckets.capacities, buckets.lengths, strict=True))
    assert cost < 0.6 * 39 * 128**2


def test_equal_sizes_need_one_length():
    buckets = plan_buckets([np.full(10, 20)] * 5, largest=20, sample=512)
    assert buckets.lengths == (20,)
    assert buckets.capacities[0] >= 10


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), num_buckets=st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_lengths_are_the_cheapest_there_are(sizes, num_buckets):
    from itertools import combinations

    def cost(lengths):
        return sum(min(length for length in lengths if length >= size) ** 2 for size in sizes)

    planned = plan_buckets([np.array(sizes)], largest=30, sample=10**9, num_buckets=num_buckets).lengths
    cheapest = min(
        cost((*chosen, 30)) for count in range(num_buckets) for chosen in combinations(sorted(set(sizes) - {30}), count)
    )
    assert cost(planned) == cheapest
