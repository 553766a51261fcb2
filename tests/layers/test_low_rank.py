import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.layers.low_rank import LowRank, merge_low_rank
from vitjax.models.vit import ViT
from vitjax.paths import flatten

SIZES = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2, "mlp_width": 24}
SIZES |= {"zero_init_head": False}
QUERIES = (r"block_\d+/attention/query/kernel",)
IMAGES = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)


def adapted(**overrides):
    model = functools.partial(ViT, **SIZES)
    module = LowRank(**{"model": model, "patterns": QUERIES, "rank": 3, "num_classes": 5, **overrides})
    return module, module.init(jax.random.key(0), IMAGES)["params"]


def test_it_starts_as_the_model_and_is_the_model_with_sums():
    module, params = adapted()
    forward, plain = jax.jit(module.apply), jax.jit(module.inner.apply)
    assert set(params["low_rank"]) == {f"block_{number}.attention.query.kernel" for number in range(2)}
    assert params["low_rank"]["block_0.attention.query.kernel"]["a"].shape == (16, 3)
    np.testing.assert_array_equal(forward({"params": params}, IMAGES), plain({"params": params["base"]}, IMAGES))
    pair = params["low_rank"]["block_1.attention.query.kernel"]
    pair["b"] = jnp.ones_like(pair["b"])
    merged = merge_low_rank(params["base"], params["low_rank"], 8 / 3)
    changed = {
        path for path, leaf in flatten(merged).items() if not np.array_equal(leaf, flatten(params["base"])[path])
    }
    assert changed == {"block_1/attention/query/kernel"}
    kernel = params["base"]["block_1"]["attention"]["query"]["kernel"]
    np.testing.assert_allclose(
        merged["block_1"]["attention"]["query"]["kernel"], kernel + 8 / 3 * np.asarray(pair["a"]) @ pair["b"], atol=1e-5
    )
    np.testing.assert_allclose(
        forward({"params": params}, IMAGES), plain({"params": merged}, IMAGES), atol=1e-5, rtol=1e-5
    )


def test_both_factors_are_learnt():
    module, params = adapted()
    params["low_rank"] = jax.tree.map(lambda leaf: leaf + 0.1, params["low_rank"])
    keys = {"dropout": jax.random.key(1)}
    loss = jax.jit(jax.grad(lambda p: (module.apply({"params": p}, IMAGES, train=True, rngs=keys) ** 2).sum()))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(loss(params)["low_rank"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patterns": ("block_.*/attention/qkv/kernel",)}, "qkv/kernel.*the model has .*block_0/attention/key/kernel"),
        ({"patterns": (".*/bias",)}, r"head/bias \(5,\)"),
        ({"patterns": ()}, "there are none"),
        ({"rank": 0}, "`rank` \\(=0\\)"),
    ],
)
def test_patterns_that_fit_nothing(overrides, message):
    with pytest.raises(UserError, match=message):
        adapted(**overrides)


def test_the_wrapped_model_is_described():
    module, _ = adapted()
    assert "rank 3 beside" in module.describe(images=IMAGES)
