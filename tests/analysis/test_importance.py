"""Taylor importance: its definition, queries against keys, accumulation, EfficientViT, models without channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.transfer.tiny_models import SIZES, drawn
from vitjax.analysis.importance import (
    absolute_sum,
    channels_of,
    kept_shares,
    square_of_sum,
    sum_of_absolutes,
    taylor_importance,
)
from vitjax.analysis.importance_plots import draw_kept_shares
from vitjax.errors import UserError
from vitjax.models.efficientvit import EfficientViT
from vitjax.models.vit import ViT
from vitjax.paths import flatten, unflatten
from vitjax.tasks.classification import Classification

TASK = Classification()


def batch(seed, side=16):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (3, side, side, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, 3).astype(np.int32),
        "image_mask": np.ones(3, bool),
        "example": np.arange(3, dtype=np.int32),
    }


@pytest.fixture(scope="module")
def vit():
    module = ViT(num_classes=3, **SIZES)
    return module, drawn(module)


@pytest.fixture(scope="module")
def found(vit):
    return taylor_importance(*vit, TASK, [batch(0)])


def test_is_the_change_of_the_loss_to_first_order(vit, found):
    module, variables = vit
    assert list(found) == ["query", "key", "value", "hidden"]
    assert all(list(places) == ["block_0", "block_1"] for places in found.values())
    assert found["hidden"]["block_0"].shape == (48,)

    @jax.jit
    def scaled(factor):
        leaves = flatten(variables)
        for name in ("kernel", "bias"):
            path = f"params/block_1/mlp/expand/{name}"
            leaves[path] = jnp.asarray(leaves[path]).at[..., 5].multiply(factor)
        return TASK.loss(module.apply(unflatten(leaves), **TASK.inputs(batch(0)), train=False), batch(0))[0]

    slope = (scaled(1.05) - scaled(0.95)) / 0.1
    np.testing.assert_allclose(found["hidden"]["block_1"][5], abs(slope), rtol=0.02)


def test_a_querys_channel_is_worth_what_the_keys_is(found):
    """A channel enters the logits as their product."""
    for place, values in found["query"].items():
        # Seen: 1.6e-10, on values of 6e-4.
        np.testing.assert_allclose(values, found["key"][place], rtol=0, atol=5e-9)
        assert values.max() > 1e-4


def test_batches_add_up(vit, found):
    twice = taylor_importance(*vit, TASK, (batch(0) for _ in range(2)))
    for kind, places in twice.items():
        for place, values in places.items():
            np.testing.assert_allclose(values, 2 * found[kind][place], rtol=1e-5)


def test_measures():
    products = np.asarray([[1.0, -2.0], [-3.0, -1.0]], np.float32)
    np.testing.assert_array_equal(absolute_sum(products), [2, 3])
    np.testing.assert_array_equal(sum_of_absolutes(products), [4, 3])
    np.testing.assert_array_equal(square_of_sum(products), [4, 9])


def test_shares_are_those_of_the_whole_model(tmp_path):
    importance = {
        "query": {"a": np.array([9.0, 1.0])},
        "hidden": {"a": np.array([3.0, 2.0]), "b": np.array([8.0, 7.0])},
    }
    shares = kept_shares(importance, 0.5)
    assert shares == {"query": {"a": 0.5}, "hidden": {"a": 0.0, "b": 1.0}}
    draw_kept_shares(shares, tmp_path / "plots" / "kept.png", title="half")
    assert (tmp_path / "plots" / "kept.png").stat().st_size > 3000


def test_efficientvits_channels_by_scale_and_bias_of_their_norms():
    module = EfficientViT(
        num_classes=3, image_size=32, widths=(8, 12), depths=(1, 1), num_heads=(1, 2), query_kernels=(3, 3), key_size=4
    )  # fmt: skip
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    drawn_ones = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    variables = {**drawn_ones, "batch_stats": jax.tree.map(np.abs, drawn_ones["batch_stats"])}
    found = taylor_importance(module, variables, TASK, [batch(0, side=32)])
    heads = [f"trunk/stage_2_block_0/attention/windows/qkv_{head}" for head in range(2)]
    assert list(found["value"]) == ["trunk/stage_1_block_0/attention/windows/qkv_0", *heads]
    assert found["value"][heads[0]].shape == (6,)
    assert found["query"][heads[1]].shape == (4,)
    assert len(found["hidden"]) == 6
    assert min(values.max() for places in (found["value"], found["hidden"]) for values in places.values()) > 0


def test_what_is_missing_is_told(vit):
    module, variables = vit
    with pytest.raises(UserError, match="`batches` is empty"):
        taylor_importance(module, variables, TASK, [])
    with pytest.raises(UserError, match="no channels are known"):
        taylor_importance(module, {"params": {"head": variables["params"]["head"]}}, TASK, [batch(0)])
    assert {rule.heads for rule in channels_of(module)} == {1, 4}
