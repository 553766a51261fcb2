import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.ops.dense import dense_product


def test_product_and_gradients_are_autodiffs():
    rng = np.random.default_rng(0)
    tokens, kernel = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((5, 3), (3, 4)))
    ours = jax.value_and_grad(lambda x, w: (dense_product(x, w) ** 2).sum(), argnums=(0, 1))(tokens, kernel)
    theirs = jax.value_and_grad(lambda x, w: ((x @ w) ** 2).sum(), argnums=(0, 1))(tokens, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_bfloat16_computes_short_and_keeps_float32_gradients_of_kernels():
    tokens, kernel = jnp.ones((5, 3), jnp.bfloat16), jnp.full((3, 4), 1 / 3)
    assert dense_product(tokens, kernel, "bfloat16").dtype == jnp.bfloat16
    gradient = jax.grad(lambda w: dense_product(tokens, w, "bfloat16").astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, 5.0)


def test_gelus_are_torchs():
    import torch

    x = np.linspace(-6, 6, 201, dtype=np.float32)
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    np.testing.assert_allclose(gelu(x), exact, atol=1e-6)
    tanh = torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").numpy()
    np.testing.assert_allclose(gelu_tanh(x), tanh, atol=1e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    values = torch.tensor(x, requires_grad=True)
    torch.nn.functional.gelu(values).sum().backward()
    np.testing.assert_allclose(slope, values.grad.numpy(), atol=1e-6)
