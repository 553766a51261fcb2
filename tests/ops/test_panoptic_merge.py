"""The paper's post-processing against a plain statement of it, pixel by pixel, and its edges."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitjax.ops.panoptic_merge import centred_pixels, merge_masks

IS_STUFF = np.array([False, False, True, True])


def draw(seed, queries=6, cells=(3, 4)):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (queries, 5)).astype(np.float32)
    sure = generator.integers(0, 5, queries)
    logits[np.arange(queries), sure] += generator.choice([3.0, 6.0], queries)
    return logits, generator.normal(0, 2, (queries, *cells)).astype(np.float32)


def enlarged(mask, size):
    """Bilinear, half-pixel centres, edges repeated, one pixel after the other."""
    made = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * mask.shape[0] / size[0] - 0.5, 0), mask.shape[0] - 1)
            x = min(max((column + 0.5) * mask.shape[1] / size[1] - 0.5, 0), mask.shape[1] - 1)
            for i in (int(y), min(int(y) + 1, mask.shape[0] - 1)):
                for j in (int(x), min(int(x) + 1, mask.shape[1] - 1)):
                    down = 1 - abs(y - i) if int(y) + 1 < mask.shape[0] else 0.5
                    across = 1 - abs(x - j) if int(x) + 1 < mask.shape[1] else 0.5
                    made[row, column] += mask[i, j] * down * across
    return made


def plain_merge(logits, masks, prepared, original, threshold=0.85):
    """Segments as a list of (query, set of pixels)."""
    shares = np.exp(logits.astype(float))
    shares /= shares.sum(axis=1, keepdims=True)
    kept = [q for q in range(len(logits)) if shares[q].argmax() != 4 and shares[q].max() > threshold]
    large = {q: enlarged(masks[q].astype(float), prepared) for q in kept}
    merged = True
    while kept:
        pixels = {q: set() for q in kept}
        for row in range(original[0]):
            for column in range(original[1]):
                place = int((row + 0.5) * prepared[0] / original[0]), int((column + 0.5) * prepared[1] / original[1])
                winner = max(kept, key=lambda q: large[q][place])
                if merged and IS_STUFF[shares[winner].argmax()]:
                    winner = next(q for q in kept if shares[q].argmax() == shares[winner].argmax())
                pixels[winner].add((row, column))
        merged = False
        stays = [q for q in kept if len(pixels[q]) > 4]
        if stays == kept:
            return [(q, pixels[q]) for q in kept]
        kept = stays
    return []


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**20))
def test_it_is_the_papers(seed):
    logits, masks = draw(seed)
    prepared, original = (6, 8), (7, 11)
    made = merge_masks(logits, masks, IS_STUFF, frame_size=prepared, content_size=prepared, original_size=original)
    expected = plain_merge(logits, masks, prepared, original)
    assert made.queries.tolist() == [query for query, _ in expected]
    assert made.labels.tolist() == [logits[query].argmax() for query, _ in expected]
    for number, (_, pixels) in enumerate(expected, start=1):
        assert set(zip(*np.nonzero(made.segment_map == number), strict=True)) == pixels
    assert made.areas.tolist() == [len(pixels) for _, pixels in expected]
    assert (made.areas > 4).all()
    assert (made.segment_map > 0).all() == bool(expected)


def sure(labels, classes=5):
    logits = np.zeros((len(labels), classes), np.float32)
    logits[np.arange(len(labels)), labels] = 20
    return logits


def masks_of(*rows):
    """Masks of one row of cells each: where the number of the mask stands it is sure."""
    owners = np.array(rows)
    return np.stack([np.where(owners == number, 10.0, -10.0) for number in range(owners.max() + 1)]).astype(np.float32)


def merged(labels, masks, size, **settings):
    return merge_masks(
        sure(labels), masks, IS_STUFF, frame_size=size, content_size=size, original_size=size, **settings
    )


def test_nobody_is_sure():
    masks = masks_of([0, 1])
    for labels, threshold in (([4, 4], 0.85), ([0, 2], 1.0)):
        made = merged(labels, masks, (4, 8), threshold=threshold)
        assert len(made) == 0
        assert made.segment_map.shape == (4, 8)
        assert not made.segment_map.any()
        assert made.areas.tolist() == []


def test_stuff_is_one_segment_things_are_not():
    masks = masks_of([0, 1, 2, 3])
    made = merged([2, 0, 2, 0], masks, (4, 16))
    # The second query of stuff gives its pixels to the first; then it is empty, goes, and what was its is anybody's.
    assert made.labels.tolist() == [2, 0, 0]
    assert made.queries.tolist() == [0, 1, 3]
    assert len(np.unique(made.segment_map)) == 3


def test_a_small_segment_goes_and_its_pixels_to_the_next_best():
    masks = np.full((3, 5, 4), -10.0, np.float32)
    masks[0], masks[1, :3], masks[2, 0] = 1.0, 2.0, 3.0
    made = merged([0, 1, 0], masks, (5, 4))
    assert made.queries.tolist() == [0, 1]
    assert made.areas.tolist() == [8, 12]
    assert merged([0, 1, 0], masks, (5, 4), largest_dropped=3).areas.tolist() == [8, 8, 4]
    assert len(merged([0, 1, 0], masks, (5, 4), largest_dropped=8)) == 0


def test_padding_is_cut_off_before_anything_is_enlarged():
    generator = np.random.default_rng(0)
    logits, masks = sure([0, 1, 2]), generator.normal(size=(3, 2, 3)).astype(np.float32)
    framed = generator.normal(0, 50, (3, 4, 4)).astype(np.float32)
    framed[:, :2, :3] = masks
    alone = merge_masks(logits, masks, IS_STUFF, frame_size=(8, 12), content_size=(8, 12), original_size=(9, 9))
    padded = merge_masks(logits, framed, IS_STUFF, frame_size=(16, 16), content_size=(8, 12), original_size=(9, 9))
    np.testing.assert_array_equal(alone.segment_map, padded.segment_map)


def test_nearest_pixels_are_pillows():
    row = np.arange(13, dtype=np.uint8)
    for new in (1, 5, 13, 29):
        resized = np.asarray(Image.fromarray(row[None]).resize((new, 1), Image.Resampling.NEAREST))[0]
        np.testing.assert_array_equal(row[centred_pixels(13, new)], resized)
