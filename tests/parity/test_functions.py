"""Resampling of position grids and activations against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vitjax.ops import positions
from vitjax.ops.activations import gelu, gelu_tanh

GRIDS = [(4, 9), (14, 14), (3, 3), (1, 12), (7, 6)]


def table(rows=7, columns=6, width=4):
    return np.random.default_rng(0).standard_normal((rows, columns, width)).astype(np.float32)


def torchs(values, grid, **keywords):
    image = torch.tensor(values).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(image, size=grid, **keywords)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("ours", "keywords"),
    [
        (positions.resample_bicubic_antialias, {"mode": "bicubic", "antialias": True}),
        (positions.resample_bicubic, {"mode": "bicubic"}),
        (positions.resample_bilinear_antialias, {"mode": "bilinear", "antialias": True}),
        (positions.resample_bilinear, {"mode": "bilinear"}),
        (positions.resample_corners, {"mode": "bilinear", "align_corners": True}),
    ],
)
def test_resampling_is_torchs(ours, keywords, grid):
    np.testing.assert_allclose(ours(table(), grid), torchs(table(), grid, **keywords), atol=2e-6)


def test_gelus_are_torchs():
    x = np.linspace(-6, 6, 201, dtype=np.float32)
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    np.testing.assert_allclose(gelu(x), exact, atol=1e-6)
    tanh = torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").numpy()
    np.testing.assert_allclose(gelu_tanh(x), tanh, atol=1e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    values = torch.tensor(x, requires_grad=True)
    torch.nn.functional.gelu(values).sum().backward()
    np.testing.assert_allclose(slope, values.grad.numpy(), atol=1e-6)
