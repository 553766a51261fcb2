"""Mean intersection over union, over a whole evaluation, from a confusion matrix.

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", 2015, section 4.1.3: of each class,
the pixels that truth and prediction have in common over those that either has.
"""

import numpy as np
from jaxtyping import Float, Int, Integer

from vitjax.errors import UserError

__all__ = ["class_ious", "confusion_matrix", "grow_matrix", "mean_iou"]


def confusion_matrix(
    truth: Integer[np.ndarray, "*pixels"], predicted: Integer[np.ndarray, "*pixels"], *, ignored: int = 255
) -> Int[np.ndarray, "classes classes"]:
    """Pixels by true class (rows) and predicted class (columns), as large as the largest class that is seen.

    Args:
        truth: class numbers; a pixel of the class `ignored` does not count, whatever is predicted there.
        predicted: class numbers.
        ignored: class number of pixels without a truth.

    Raises:
        UserError: a class number is negative.
    """
    counted = truth != ignored
    truth, predicted = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if not truth.size:
        return np.zeros((0, 0), np.int64)
    lowest = int(min(truth.min(), predicted.min()))
    if lowest < 0:
        raise UserError(f"confusion_matrix: class {lowest}, expected 0 or more, or `ignored` (={ignored})")
    classes = int(max(truth.max(), predicted.max())) + 1
    return np.bincount(classes * truth + predicted, minlength=classes**2).reshape(classes, classes)


def grow_matrix(matrix: Int[np.ndarray, "n n"], classes: int) -> Int[np.ndarray, "m m"]:
    """The same counts with room for at least this many classes."""
    room = max(classes - len(matrix), 0)
    return np.pad(matrix, (0, room))


def class_ious(matrix: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, "classes"]:
    """Intersection over union of each class, 0...1; NaN for one that neither truth nor prediction has."""
    common = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - common
    return np.divide(common, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(matrix: Int[np.ndarray, "classes classes"]) -> float:
    """Mean over the classes that truth or prediction have, the background among them.

    Raises:
        UserError: no pixel was counted.
    """
    if not matrix.sum():
        raise UserError("mean_iou: no pixel has a class: there are no images, or every pixel of every mask is ignored")
    return float(np.nanmean(class_ious(matrix)))
