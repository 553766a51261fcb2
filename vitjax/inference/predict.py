"""From whatever a person calls a picture to batches of the model, and back to one prediction per picture."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
from PIL import Image

from vitjax.arrays import Batch, Int, Tree
from vitjax.data.clip_sources import ClipList
from vitjax.data.clips import Tubelets
from vitjax.data.images import BrokenExample
from vitjax.data.loading import Shards
from vitjax.data.sources import ImageList
from vitjax.errors import UserError

__all__ = ["Pictures", "list_pictures", "open_pictures", "score_pictures", "small_batches"]


def list_pictures(images: Any, axes: int = 3) -> list[Any]:
    """What `ImageList` takes, one entry per thing given: batches of arrays are cut into images.

    Args:
        images: one of these, or any mixture of them in a list: the path of a file; a folder, for all images in it; a
            pattern such as `photos/*.jpg`; an `http(s)://` address; the bytes of a file; a PIL image; an array (numpy,
            JAX or torch) `[H, W]`, `[H, W, C]`, or `[N, H, W, C]`, which counts as N images.
        axes: of one image at most; with 4, an array `[T, H, W, C]` is one clip, and a batch has one axis more.
    """
    is_one = isinstance(images, str | bytes | os.PathLike | Image.Image) or hasattr(images, "__array__")
    entries: list[Any] = []
    for item in [images] if is_one or not isinstance(images, Sequence | Iterator) else images:
        if isinstance(item, Image.Image) or not hasattr(item, "__array__"):
            entries.append(item)
        else:
            array = np.asarray(item)
            entries.extend(array if array.ndim == axes + 1 else [array])
    return entries


class Pictures:
    """An `ImageList` with the labels of a model, which remembers what each picture's size was, or why it has none.

    Attributes:
        images: what is read; or clips.
        labels: class names, as the batches ask for them.
        errors: reason by picture number, filled while reading.
        seen_sizes: (rows, columns) by picture number, filled while reading.
    """

    name = "predict"

    def __init__(self, images: ImageList | ClipList, labels: tuple[str, ...]):
        self.images = images
        self.labels = labels
        self.errors: dict[int, str] = {}
        self.seen_sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def sizes(self) -> Int[np.ndarray, "pictures 2"]:
        """(rows, columns) of every picture, from the files' heads; of one that cannot be read (1, 1)."""

        def size(number: int) -> tuple[int, int]:
            try:
                return self.images.size(number)  # pyright: ignore[reportAttributeAccessIssue], clips are packed
            except (BrokenExample, UserError):  # told when its turn comes
                return 1, 1

        with ThreadPoolExecutor() as pool:
            return np.array(list(pool.map(size, range(len(self)))), np.int64)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            example = self.images[index]
            rows, columns, _ = example["video" if "video" in example else "image"].shape[-3:]
            self.seen_sizes[index] = rows, columns
            return example
        except BrokenExample as error:
            self.errors[index] = error.reason
            raise
        except UserError as error:  # an array of a type, shape or range that says nothing certain
            name = self.images.names[index]
            self.errors[index] = str(error).removeprefix(f"{name}: ")
            raise BrokenExample(name, self.errors[index]) from error


def open_pictures(images: Any, batches: Any, labels: tuple[str, ...]) -> Pictures:
    """What a person gave, read in the form that the batches prepare: clips where they cut tubelets, else pictures.

    Args:
        images: see `list_pictures`; of clips, animated files, and arrays `[T, H, W, C]` or `[N, T, H, W, C]`.
        batches: description of batches.
        labels: of the model.
    """
    if isinstance(getattr(batches, "cut", None), Tubelets):
        return Pictures(ClipList(list_pictures(images, axes=4)), labels)
    return Pictures(ImageList(list_pictures(images)), labels)


def small_batches(source: Any, batches: Any) -> Iterator[Batch]:
    """Each picture once, in batches of few different shapes.

    Args:
        source: the pictures.
        batches: description of batches, without a source.
    """
    # What is stored are the settings of a training run; here nothing may stop for a broken file, errors are gathered in
    # this process, and bucket capacities, which follow the data, would compile anew for every call.
    settings = {"max_broken": 1.0, "workers": 0, "buckets": False}
    known = {field.name for field in fields(batches)}
    batches = replace(batches, **{name: value for name, value in settings.items() if name in known})
    for batch in batches.with_source(source).epoch(Shards()):
        yield _trim_rows({name: leaf for name, leaf in batch.items() if name != "buckets"})


def _trim_rows(batch: Batch) -> Batch:
    """Leaves out rows that hold no real image, down to a power of two: one picture need not pay for a full batch."""
    used = batch["image_mask"].reshape(len(batch["image_mask"]), -1).any(axis=1)
    count = max(int(used.sum()), 1)
    kept = min(1 << (count - 1).bit_length(), len(used))
    rows = np.argsort(~used, kind="stable")[:kept]
    return {name: leaf[rows] for name, leaf in batch.items()}


def score_pictures(pictures: Pictures, batches: Any, forward: Callable[[Batch], Tree]) -> Iterator[tuple[int, Tree]]:
    """Yields (number, prediction) of every picture that can be read, in the order of the batches.

    Args:
        pictures: what to score.
        batches: description of batches, without a source.
        forward: from a batch to an array of scores, or a tree of arrays, with the leading axes of the batch's
            `example`.
    """
    for batch in small_batches(pictures, batches):
        yield from _score_batch(pictures, batch, forward)


def _score_batch(pictures: Pictures, batch: Batch, forward: Callable[[Batch], Tree]) -> Iterator[tuple[int, Tree]]:
    # A function of its own: its predictions are gone before those of the next batch are made.
    mask = batch["image_mask"]
    predictions = jax.tree.map(lambda leaf: np.asarray(leaf)[mask], forward(batch))
    for row, number in enumerate(batch["example"][mask].tolist()):
        prediction = jax.tree.map(lambda leaf: leaf[row], predictions)  # noqa: B023, used at once
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(prediction)):
            yield number, prediction
        else:
            pictures.errors[number] = "the model's answer is no finite number; is the picture's shape extreme?"
