"""Mean IoU: scikit-learn's confusion matrix and Jaccard score, ignored pixels, classes that nobody has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import jaccard_score

from vitjax.errors import UserError
from vitjax.evaluation.mean_iou import class_ious, confusion_matrix, grow_matrix, mean_iou

IGNORED = 255


@pytest.mark.filterwarnings("ignore:A single label")
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60))
def test_as_scikit_learn(seed, classes, pixels):
    generator = np.random.default_rng(seed)
    truth = generator.choice([*range(classes), IGNORED], pixels)
    truth[0] = generator.integers(classes)
    predicted = generator.integers(0, classes, pixels)
    matrix = confusion_matrix(truth, predicted)
    kept = truth != IGNORED
    numbers = range(len(matrix))
    np.testing.assert_array_equal(matrix, sklearn_matrix(truth[kept], predicted[kept], labels=list(numbers)))
    occurring = sorted({*truth[kept].tolist(), *predicted[kept].tolist()})
    expected = jaccard_score(truth[kept], predicted[kept], labels=occurring, average="macro")
    assert mean_iou(matrix) == pytest.approx(expected)


def test_classes_that_neither_has_do_not_count():
    truth, predicted = np.array([[0, 0], [3, 3]]), np.array([[0, 3], [3, 3]])
    np.testing.assert_allclose(class_ious(confusion_matrix(truth, predicted)), [1 / 2, np.nan, np.nan, 2 / 3])
    assert mean_iou(confusion_matrix(truth, predicted)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_parts_of_a_set_add_up_to_the_whole():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 5, (2, 4, 8, 8))
    whole = confusion_matrix(truth, predicted)
    parts = [grow_matrix(confusion_matrix(*pair), 5) for pair in zip(truth, predicted, strict=True)]
    np.testing.assert_array_equal(sum(parts), whole)


def test_an_ignored_pixel_counts_nowhere():
    truth, predicted = np.array([0, 1, IGNORED, IGNORED]), np.array([0, 1, 0, 7])
    np.testing.assert_array_equal(confusion_matrix(truth, predicted), np.eye(2))


def test_nothing_to_count():
    with pytest.raises(UserError, match="no pixel has a class"):
        mean_iou(confusion_matrix(np.full(4, IGNORED), np.zeros(4, int)))
    with pytest.raises(UserError, match="class -1"):
        confusion_matrix(np.array([0, -1]), np.array([0, 0]))
