import jax
import jax.numpy as jnp
import numpy as np

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
