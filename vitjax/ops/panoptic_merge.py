"""From a mask per query to one segment per pixel, as DETR's authors do it; numpy, on the host."""

from dataclasses import dataclass

import numpy as np

from vitjax.arrays import Bool, Float, Int
from vitjax.ops.patches import bilinear_matrix

__all__ = ["Segments", "centred_pixels", "merge_masks"]


@dataclass(frozen=True, eq=False)
class Segments:
    """A picture cut into segments.

    Attributes:
        segment_map: number of each pixel's segment, 1...n; 0 where nothing was found.
        labels: class number of segments 1...n.
        scores: of each, 0...1.
        queries: which query each comes from.
    """

    segment_map: Int[np.ndarray, "H W"]
    labels: Int[np.ndarray, "n"]
    scores: Float[np.ndarray, "n"]
    queries: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def areas(self) -> Int[np.ndarray, "n"]:
        """Pixels of each segment."""
        return np.bincount(self.segment_map.reshape(-1), minlength=len(self) + 1)[1:]


def merge_masks(
    class_logits: Float[np.ndarray, "Q classes"],
    mask_logits: Float[np.ndarray, "Q h w"],
    is_stuff: Bool[np.ndarray, "labels"],
    *,
    frame_size: tuple[int, int],
    content_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float = 0.85,
    largest_dropped: int = 4,
) -> Segments:
    """The segments of one picture: of the queries that are sure of an object, the one with the highest mask logit.

    End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 4.4,
    and `PostProcessPanoptic` of the authors' code, whose steps these are:

    1. A query is kept whose best class is an object's, with a probability above `threshold`.
    2. The masks of those are brought to the prepared picture's size, bilinear; at each pixel the highest wins.
    3. Segments of the same stuff become one. Pixels are brought to the original's size, by the nearest.
    4. Queries with `largest_dropped` pixels or less in the original go, and 2 and 3 are done again without them, until
       none is left to go. Stuff is not merged again: the pixels of its other queries go to the best of those that
       stay.

    Args:
        class_logits: no object is the last class.
        mask_logits: on a map of the whole frame.
        is_stuff: of each class but the last, whether all of it in a picture is one segment.
        frame_size: (rows, columns) of the image that the model saw, padding included.
        content_size: of the picture in it, at the top left.
        original_size: of the picture as its source has it; the result's.
        threshold: least probability; a kept query's is above it.
        largest_dropped: pixels of a segment that is dropped.
    """
    scores, labels = _best_class(class_logits)
    kept = np.flatnonzero((labels < class_logits.shape[-1] - 1) & (scores > threshold))
    masks = _content_masks(mask_logits[kept], frame_size, content_size)
    rows, columns = (centred_pixels(old, new) for old, new in zip(content_size, original_size, strict=True))
    first = _first_of_stuff(labels[kept], is_stuff)
    while True:
        if not len(kept):
            winners = np.full(original_size, -1)
            break
        winners = masks.argmax(axis=0)[np.ix_(rows, columns)]
        winners = winners if first is None else first[winners]
        first = None
        stays = np.bincount(winners.reshape(-1), minlength=len(kept)) > largest_dropped
        if stays.all():
            break
        kept, masks = kept[stays], masks[stays]
    return Segments((winners + 1).astype(np.int32), labels[kept].astype(np.int32), scores[kept], kept.astype(np.int32))


def centred_pixels(old: int, new: int) -> Int[np.ndarray, "new"]:
    """Which of `old` pixels in a row lies below the centre of each of `new` ones; Pillow's nearest."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def _best_class(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = logits.astype(np.float32)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares.max(axis=-1), shares.argmax(axis=-1)


def _content_masks(masks: np.ndarray, frame: tuple[int, int], content: tuple[int, int]) -> np.ndarray:
    """Mask logits at the pixels of the content, `[n, rows, columns]`; those of padding are cut off first."""
    cells = [-(-side * old // whole) for side, old, whole in zip(content, masks.shape[1:], frame, strict=True)]
    down, across = (bilinear_matrix(*pair).astype(np.float32) for pair in zip(cells, content, strict=True))
    return down @ masks[:, : cells[0], : cells[1]].astype(np.float32) @ across.T


def _first_of_stuff(labels: np.ndarray, is_stuff: np.ndarray) -> np.ndarray:
    """Of each place: itself for a thing, the first place of the same class for stuff."""
    places = np.arange(len(labels))
    earliest = np.array([np.flatnonzero(labels == label)[0] for label in labels], np.int64)
    return np.where(is_stuff[labels], earliest, places) if len(labels) else places
