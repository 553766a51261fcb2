"""The losses of masks against plain statements of them; `tests/parity` has transformers'."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.mask_losses import dice_loss, mask_focal_loss


def draw(seed, count=3, side=5):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (count, side, side + 1)).astype(np.float32)
    return logits, generator.random(logits.shape) < 0.4


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_focal_is_its_formula(seed):
    logits, masks = draw(seed)
    for ours, row, mask in zip(np.asarray(mask_focal_loss(logits, masks)), logits.astype(float), masks, strict=True):
        total = 0.0
        for logit, inside in zip(row.flat, mask.flat, strict=True):
            right = 1 / (1 + np.exp(-logit if inside else logit))
            total -= (0.25 if inside else 0.75) * (1 - right) ** 2 * np.log(right)
        assert ours == pytest.approx(total / mask.size, rel=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_dice_is_its_formula(seed):
    logits, masks = draw(seed)
    for ours, row, mask in zip(np.asarray(dice_loss(logits, masks)), logits.astype(float), masks, strict=True):
        inside = 1 / (1 + np.exp(-row))
        expected = 1 - (2 * (inside * mask).sum() + 1) / (inside.sum() + mask.sum() + 1)
        assert ours == pytest.approx(expected, rel=1e-4)


def test_an_empty_mask_that_is_found_empty_costs_nothing():
    logits, nothing = np.full((1, 4, 4), -100, np.float32), np.zeros((1, 4, 4), bool)
    assert float(dice_loss(logits, nothing)[0]) == 0
    assert float(mask_focal_loss(logits, nothing)[0]) == 0
    assert float(dice_loss(-logits, nothing)[0]) > 0.9
