"""DETR's losses and their gradients for given predictions against transformers and against plain loops."""

import pytest

from benchmarks.comparison import compare, misfits
from benchmarks.parity_cases_detr_losses import DETR_LOSS_CASES


@pytest.mark.parametrize("name", DETR_LOSS_CASES)
def test_losses_are_the_references(name):
    case = DETR_LOSS_CASES[name]()
    for seed in range(3):
        found = compare(case, seed)
        assert misfits(found) == []
        assert {difference.name for difference in found} == {
            "cardinality_error",
            "logits",
            "gradient of input logits",
            "gradient of input boxes",
        }
        assert all(difference.magnitude > 0 for difference in found)
