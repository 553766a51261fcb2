"""Bilinear resizing against torch's, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.ops.resizing import resize_bilinear

SIZES = [((7, 5), (8, 6)), ((5, 5), (6, 6)), ((8, 6), (7, 3)), ((1, 4), (3, 4)), ((6, 4), (1, 1)), ((3, 3), (12, 12))]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_is_torchs_interpolation(old, new, align_corners):
    import torch

    draw = np.random.default_rng(0).normal
    images, weights = draw(size=(2, *old, 3)).astype(np.float32), draw(size=(2, *new, 3)).astype(np.float32)
    theirs = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
    output = torch.nn.functional.interpolate(theirs, new, mode="bilinear", align_corners=align_corners)
    (output * torch.tensor(weights).permute(0, 3, 1, 2)).sum().backward()

    ours, pull = jax.vjp(lambda x: resize_bilinear(x, new, align_corners=align_corners), images)
    np.testing.assert_allclose(ours, output.detach().permute(0, 2, 3, 1), atol=2e-6)
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], theirs.grad.permute(0, 2, 3, 1), atol=2e-6)


def test_the_same_size_is_untouched():
    images = jnp.ones((1, 4, 5, 2), jnp.bfloat16)
    assert resize_bilinear(images, (4, 5), align_corners=True) is images
    assert resize_bilinear(images, (2, 5), align_corners=False).dtype == jnp.bfloat16


def test_a_size_of_nothing():
    with pytest.raises(UserError, match="positive"):
        resize_bilinear(jnp.ones((1, 4, 5, 2)), (0, 5), align_corners=True)
