import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.data.packed_targets import LabelTargets
from vitjax.data.rows import BestFit, FirstFit, PackedImage, Piece, SubsetFit, cut_patches, stack_rows

POLICIES = [FirstFit(), BestFit(), SubsetFit()]


def rows_of(policy, sizes, *, length, max_images=100, window=8):
    packer = policy.packer(length=length, max_images=max_images, window=window)
    for number, size in enumerate(sizes):
        packer.add(Piece(size, number))
    packer.flush()
    assert not packer.open
    return [[piece.item for piece in row] for row in packer.closed]


@pytest.mark.parametrize("policy", POLICIES)
@given(
    sizes=st.lists(st.integers(1, 50), max_size=120),
    max_images=st.integers(1, 6),
    window=st.integers(1, 12),
)
@settings(deadline=None, max_examples=60)
def test_every_piece_is_in_one_row_that_holds_it(policy, sizes, max_images, window):
    rows = rows_of(policy, sizes, length=50, max_images=max_images, window=window)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    for row in rows:
        assert 1 <= len(row) <= max_images
        assert sum(sizes[item] for item in row) <= 50


@pytest.mark.parametrize("policy", POLICIES)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=80), cut=st.integers(0, 80), window=st.integers(1, 10))
@settings(deadline=None, max_examples=40)
def test_a_packer_goes_on_from_its_open_rows(policy, sizes, cut, window):
    pieces = [Piece(size, number) for number, size in enumerate(sizes)]
    whole = policy.packer(length=30, max_images=5, window=window)
    for piece in pieces:
        whole.add(piece)
    first = policy.packer(length=30, max_images=5, window=window)
    for piece in pieces[:cut]:
        first.add(piece)
    second = policy.packer(length=30, max_images=5, window=window, open_rows=first.open)
    for piece in pieces[cut:]:
        second.add(piece)
    assert [*first.closed, *second.closed] == list(whole.closed)
    assert second.open == whole.open


def test_first_fit_takes_the_oldest_row_and_best_fit_the_tightest():
    sizes = [6, 7, 3]
    assert rows_of(FirstFit(), sizes, length=10) == [[0, 2], [1]]
    assert rows_of(BestFit(), sizes, length=10) == [[1, 2], [0]]  # a full row is closed at once


def test_the_fullest_row_is_closed_when_nothing_fits():
    packer = FirstFit().packer(length=10, max_images=9, window=2)
    for number, size in enumerate([6, 8, 7]):
        packer.add(Piece(size, number))
    assert [[piece.item for piece in row] for row in packer.closed] == [[1]]
    assert [[piece.item for piece in row] for row in packer.open] == [[0], [2]]


def best_sum(sizes, room, count):
    sums = {(0, 0)}
    for size in sizes:
        sums |= {(total + size, number + 1) for total, number in sums if total + size <= room and number < count}
    best = max(total for total, _ in sums)
    return best, min(number for total, number in sums if total == best)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), max_images=st.integers(1, 6))
@settings(deadline=None, max_examples=150)
def test_subset_fit_fills_the_oldest_pieces_row_as_well_as_can_be(sizes, max_images):
    packer = SubsetFit().packer(length=40, max_images=max_images, window=len(sizes))
    for number, size in enumerate(sizes):
        packer.add(Piece(size, number))
    (row,) = packer.closed
    assert row[0].item == 0
    tokens, count = best_sum(sizes[1:], 40 - sizes[0], max_images - 1)
    assert sum(piece.tokens for piece in row[1:]) == tokens
    assert len(row) - 1 == count


def test_subset_fit_pads_less_than_best_fit_and_best_fit_less_than_first_fit():
    sizes = np.random.default_rng(0).integers(4, 150, 4000).tolist()
    # as many images under construction: rows of about three
    windows = ((SubsetFit(), 48), (BestFit(), 16), (FirstFit(), 16))
    rows = [len(rows_of(policy, sizes, length=256, window=window)) for policy, window in windows]
    assert rows[0] < rows[1] < rows[2]


def test_no_piece_waits_longer_than_its_window():
    packer = SubsetFit().packer(length=10, max_images=4, window=5)
    for number, size in enumerate([7] * 3 + [10, 3] * 40):
        packer.add(Piece(size, number))
        assert all(number - row[0].item < 5 * 5 for row in packer.open)


def test_patches_are_cut_in_raster_order_with_channels_last():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    patches = cut_patches(image, (2, 3), 2, np.arange(6))
    assert patches.shape == (6, 12)
    for number in range(6):
        row, column = divmod(number, 3)
        expected = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(patches[number], expected.reshape(-1))
    np.testing.assert_array_equal(cut_patches(image, (2, 3), 2, np.array([1, 5])), patches[[1, 5]])


def test_patches_of_a_grey_image():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert cut_patches(image, (2, 2), 2, np.arange(4))[1].tolist() == [2, 3, 6, 7]


def test_resizing_to_the_grid_is_pillows():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    patches = cut_patches(image, (2, 3), 4, np.arange(6), "bicubic")
    expected = np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC))
    together = patches.reshape(2, 3, 4, 4, 3).swapaxes(1, 2).reshape(8, 12, 3)
    np.testing.assert_array_equal(together, expected)


def packed_image(number, grid, keep):
    patches = np.full((len(keep), 12), number, np.uint8)
    places = np.stack(np.divmod(keep, grid[1]), axis=1).astype(np.int32)
    targets = {"label": np.asarray(number % 7, np.int32)}
    return PackedImage(number, number, targets, patches, places, grid, False, 0.0)


def test_rows_become_the_arrays_of_the_contract():
    one, two = packed_image(3, (2, 2), np.array([0, 3])), packed_image(5, (1, 3), np.arange(3))
    batch = stack_rows(
        [[one, two], []], length=8, max_images=3, patch_values=12, blanks=LabelTargets().blanks(2), groups=1,
        buckets=None,
    )  # fmt: skip
    assert batch["segments"].tolist() == [[1, 1, 2, 2, 2, 0, 0, 0], [0] * 8]
    assert batch["positions"][0].tolist() == [[0, 0], [1, 1], [0, 0], [0, 1], [0, 2], [0, 0], [0, 0], [0, 0]]
    assert batch["patches"][0, :, 0].tolist() == [3, 3, 5, 5, 5, 0, 0, 0]
    assert batch["grid_sizes"].tolist() == [[[2, 2], [1, 3], [1, 1]], [[1, 1]] * 3]
    assert batch["label"].tolist() == [[3, 5, 0], [0, 0, 0]]
    assert batch["image_mask"].tolist() == [[True, True, False], [False] * 3]
    assert batch["example"].tolist() == [[3, 5, -1], [-1] * 3]
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "patches": "uint8", "segments": "int32", "positions": "int32", "grid_sizes": "int32",
        "label": "int32", "image_mask": "bool", "example": "int32",
    }  # fmt: skip
