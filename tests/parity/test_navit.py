"""NaViT against both vit-pytorch implementations: rows of several images of different sizes, with padding.

Forward, every stage, every gradient, within 30 times the reference's own noise, with and without length buckets.
"""

import numpy as np
import pytest

from benchmarks.comparison import compare, misfits
from benchmarks.parity_cases import NAVIT_CASES


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("name", NAVIT_CASES)
def test_navit_is_the_reference(name):
    case = NAVIT_CASES[name]()
    for seed in (0, 1):
        differences = compare(case, seed)
        assert misfits(differences) == [], f"seed {seed}"
        assert all(np.isfinite(difference.magnitude) for difference in differences)


def test_every_part_is_compared():
    case = NAVIT_CASES["NaViT vs vit-pytorch packed, segment mask"]()
    differences = {difference.name: difference for difference in compare(case, 3)}
    stages = {"embedded", "block_0_output", "block_1_output", "normed", "pooled", "logits"}
    assert stages < set(differences)
    images = [name for name in differences if name.startswith("gradient of input image")]
    assert len(images) == 6
    # a gradient that is nowhere zero: the loss depends on every image and every parameter
    assert all(difference.magnitude > 0 for difference in differences.values())
