"""Maps read from outside are the maps that average the values, in every model; rollout is its formula."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from vitjax.analysis.attention_maps import attention_maps, attention_of_pictures, rollout
from vitjax.errors import UserError
from vitjax.models.deepvit import DeepViT
from vitjax.models.memory_vit import MemoryViT
from vitjax.models.navit import NaViT
from vitjax.models.vit import ViT

SIZES = {"num_classes": 3, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 2, "mlp_width": 16}


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape or (2, 12, 12, 3)).astype(np.float32)


def made(module, **inputs):
    return jax.jit(lambda key: module.init(key, **inputs))(jax.random.key(0))


def by_hand(params, tokens, heads):
    """Softmax of the layer's own queries and keys."""
    query, key = (tokens @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key"))
    query, key = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key))
    logits = jnp.einsum("bnak,bmak->banm", query, key) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits)


@pytest.mark.parametrize("settings", [{}, {"use_class_token": False}, {"remat": True}])
def test_vits_maps_are_its_softmax(settings):
    module = ViT(**SIZES, image_size=12, **settings)
    variables = made(module, images=pictures())
    maps = attention_maps(module, variables, images=pictures())
    assert list(maps) == ["block_0/attention", "block_1/attention"]
    tokens = 9 + settings.get("use_class_token", True)
    assert maps["block_1/attention"].shape == (2, 2, tokens, tokens)
    embedded = module.apply(variables, pictures(), mutable=["intermediates"])[1]["intermediates"]["embedded"][0]
    block = variables["params"]["block_0"]
    normed = nn.LayerNorm(epsilon=1e-6).apply({"params": block["attention_norm"]}, embedded)
    np.testing.assert_allclose(maps["block_0/attention"], by_hand(block["attention"], normed, 2), atol=1e-6)


def test_deepvits_maps_are_those_behind_re_attention():
    module = DeepViT(**SIZES, image_size=12, num_reattention=1)
    variables = made(module, images=pictures())
    maps = attention_maps(module, variables, images=pictures())
    _, state = jax.jit(functools.partial(module.apply, mutable=["intermediates"]))(variables, pictures())
    for number in range(2):
        sown = state["intermediates"][f"block_{number}"]["attention_map"][0]
        np.testing.assert_allclose(maps[f"block_{number}/attention"], sown, atol=1e-5)


def packed():
    """Two images in the first row, one in the second; padding at the ends."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1, 0]], np.int32)
    positions = np.zeros((2, 7, 2), np.int32)
    for row, start, grid in ((0, 0, (2, 2)), (0, 4, (1, 2)), (1, 0, (2, 3))):
        positions[row, start : start + grid[0] * grid[1]] = np.indices(grid).reshape(2, -1).T
    grids = np.array([[[2, 2], [1, 2]], [[2, 3], [1, 1]]], np.int32)
    return {"patches": pictures(2, 7, 48), "segments": segments, "positions": positions, "grid_sizes": grids}


def test_navits_maps_keep_images_apart():
    inputs, module = packed(), NaViT(**SIZES, max_grid=(4, 4))
    maps = attention_maps(module, made(module, **inputs), **inputs)
    same = inputs["segments"][:, :, None] == inputs["segments"][:, None, :]
    real = (inputs["segments"] > 0)[:, None, :, None]
    for layer in maps.values():
        assert layer.shape == (2, 2, 7, 7)
        np.testing.assert_allclose(layer.sum(-1, keepdims=True), np.broadcast_to(real, (2, 2, 7, 1)), atol=1e-5)
        assert np.all(np.asarray(layer)[np.broadcast_to(~same[:, None], layer.shape)] == 0)


def test_layers_come_in_the_order_of_numbers():
    module = ViT(**{**SIZES, "depth": 11}, image_size=12)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), pictures()))
    maps = jax.eval_shape(functools.partial(attention_maps, module), variables, images=pictures())
    assert len(maps) == 11  # as a dict out of `eval_shape` its order says nothing
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    names = list(attention_maps(module, variables, images=pictures()))
    assert names == [f"block_{number}/attention" for number in range(11)]


def test_a_model_without_attention_is_named():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            return nn.Dense(3)(images.reshape(len(images), -1))

    module = Flat()
    with pytest.raises(UserError, match="Flat has no attention map"):
        attention_maps(module, made(module, images=pictures()), images=pictures())


def softmaxes(layers, tokens):
    logits = 2 * np.random.default_rng(1).standard_normal((layers, 2, 3, tokens, tokens)).astype(np.float32)
    return list(jax.nn.softmax(logits))


def test_memory_is_among_the_keys_and_not_in_the_rollout():
    module = MemoryViT(**SIZES, image_size=12, memory_size=3)
    maps = attention_maps(module, made(module, images=pictures()), images=pictures())
    assert [value.shape for value in maps.values()] == [(2, 2, 10, 13)] * 2
    np.testing.assert_allclose(maps["block_1/attention"].sum(-1), 1, atol=1e-6)

    without = attention_maps(ViT(**SIZES, image_size=12), backbone_of(module), images=pictures())
    seen = maps["block_0/attention"][..., :10]
    np.testing.assert_allclose(seen / seen.sum(-1, keepdims=True), without["block_0/attention"], atol=1e-6)
    assert rollout(list(maps.values())).shape == (2, 10, 10)


def backbone_of(module):
    params = made(module, images=pictures())["params"]
    return {"params": {name: leaf for name, leaf in params.items() if name != "memory"}}


def test_rollout_is_its_formula():
    maps = softmaxes(3, 4)
    expected = np.eye(4)[None]
    for layer in maps:
        expected = (0.5 * np.asarray(layer).mean(1) + 0.5 * np.eye(4)) @ expected
    np.testing.assert_allclose(rollout(maps), expected, atol=1e-6)
    np.testing.assert_allclose(rollout(maps).sum(-1), 1, atol=1e-5)


def test_rollout_of_negative_maps_and_of_padding_stays_a_share():
    maps = [layer - 0.4 for layer in softmaxes(2, 4)]
    maps[0] = maps[0].at[:, :, 3].set(0)
    joint = rollout(maps)
    assert np.all(np.asarray(joint) >= 0)
    np.testing.assert_allclose(joint.sum(-1), 1, atol=1e-5)


def test_rollout_refuses_what_it_cannot_multiply():
    with pytest.raises(UserError, match="6 queries and 4 keys"):
        rollout([np.zeros((1, 2, 6, 4), np.float32)])
    with pytest.raises(UserError, match="no maps"):
        rollout([])


def test_pictures_of_a_model_for_squares():
    bundle = vitjax.create_model("vit_tiny_patch16_224", depth=1, width=12, mlp_width=16, image_size=48, num_classes=3)
    images = [np.full((30, 50, 3), 200, np.uint8), np.full((48, 48, 3), 30, np.uint8)]
    found = attention_of_pictures(bundle, images)
    assert [picture.grid for picture in found] == [(3, 3), (3, 3)]
    assert found[0].image.shape == (48, 48, 3)
    assert found[0].num_prefix == 1
    assert found[0].maps["block_0/attention"].shape == (3, 10, 10)
    assert found[0].rollout().shape == (3, 3)
    with pytest.raises(UserError, match="10 tokens do not fit a grid of 4x4"):
        attention_of_pictures(bundle, images, grid=(4, 4))


def test_pictures_of_a_model_for_any_shape_are_put_together_again():
    bundle = vitjax.create_model("navit_tiny_patch16", depth=1, width=96, mlp_width=16, num_classes=3)
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    wide = np.broadcast_to(ramp[None, :, None], (32, 64, 3)).copy()
    (one, two) = attention_of_pictures(bundle, [wide, wide.swapaxes(0, 1).copy()])
    assert one.grid[1] > one.grid[0]
    assert two.grid == one.grid[::-1]
    assert one.num_prefix == 0
    assert one.image.shape == (one.grid[0] * 16, one.grid[1] * 16, 3)
    assert np.all(np.diff(one.image[0, :, 0].astype(int)) >= -3)
    np.testing.assert_allclose(one.maps["block_0/attention"].sum(-1), 1, atol=1e-4)
    assert one.rollout().shape == one.grid


def test_a_picture_that_cannot_be_read_is_named():
    bundle = vitjax.create_model("vit_tiny_patch16_224", depth=1, width=12, mlp_width=16, image_size=48, num_classes=3)
    with pytest.raises(UserError, match=r"of 1 of 2 pictures: .*not an image"):
        attention_of_pictures(bundle, [np.zeros((48, 48, 3), np.uint8), b"no picture"])
