"""ImageNet-ReaL: the validation images of ImageNet labelled anew, with every class that is in the picture.

Beyer, Hénaff, Kolesnikov, Zhai, van den Oord: "Are we done with ImageNet?", 2020, arXiv:2006.07159. The labels are
`real.json` of google-research/reassessed-imagenet: a list whose entry i holds the class numbers of
`ILSVRC2012_val_{i + 1:08d}.JPEG`, none where the annotators agreed on nothing.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vitjax.errors import UserError

__all__ = ["RealScore", "image_number", "read_real_labels", "real_top1"]

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")


class RealScore(NamedTuple):
    """Agreement with the labels of ReaL.

    Attributes:
        top1: share of the counted images whose answer is one of their labels, 0...1.
        counted: images that have a label.
        unlabelled: images left out because they have none; 3,163 of ImageNet's 50,000.
    """

    top1: float
    counted: int
    unlabelled: int


def read_real_labels(path: str | os.PathLike) -> tuple[tuple[int, ...], ...]:
    """The class numbers of each image, by image number.

    Args:
        path: of `real.json`.

    Raises:
        UserError: there is no such file, or it is no list of lists of class numbers.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; it is real.json of github.com/google-research/reassessed-imagenet"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, list) or not found:
        raise UserError(
            f"{path} holds a {type(found).__name__}, expected a list with a list of class numbers per image"
        )
    for number, labels in enumerate(found):
        # `True` is an `int` to Python
        if not isinstance(labels, list) or any(type(label) is not int or label < 0 for label in labels):
            raise UserError(f"{path}: entry {number} is {labels!r:.60}, expected a list of class numbers")
    return tuple(map(tuple, found))


def image_number(name: str) -> int:
    """0 for `ILSVRC2012_val_00000001.JPEG`, wherever in the name or path that stands.

    Raises:
        UserError: the name is no such one.
    """
    match = _NAME.search(os.path.basename(name))
    if match is None or match[1] == "00000000":
        raise UserError(f"{name!r} is no name of an ImageNet validation image, such as ILSVRC2012_val_00000001.JPEG")
    return int(match[1]) - 1


def real_top1(answers: Int[np.ndarray, "images"], names: Sequence[str], labels: Sequence[Sequence[int]]) -> RealScore:
    """Share of the images whose answer is among their labels; images without labels do not count.

    Args:
        answers: the class with the highest score, in ImageNet's usual order of classes (sorted WordNet ids).
        names: file name or path of each image, in any order.
        labels: from `read_real_labels`.

    Raises:
        UserError: a name is no ImageNet validation image's or lies beyond the labels, or no image has a label.
    """
    if len(answers) != len(names):
        raise UserError(f"real_top1: {len(answers)} answers, but {len(names)} names")
    hits = counted = 0
    for answer, name in zip(answers.tolist(), names, strict=True):
        number = image_number(name)
        if number >= len(labels):
            raise UserError(f"{name}: image {number + 1}, but there are labels of {len(labels)} images")
        counted += bool(labels[number])
        hits += answer in labels[number]
    if not counted:
        raise UserError(f"none of the {len(names)} images has a label")
    return RealScore(hits / counted, counted, len(names) - counted)
