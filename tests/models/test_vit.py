import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.config import build, factory, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.models import create_model, list_models, model_spec, vit
from vitjax.models.vit import ViT
from vitjax.ops.positions import resample_bilinear, sincos_2d

SETTINGS = {"num_classes": 5, "image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
SETTINGS |= {"mlp_width": 24, "zero_init_head": False}
MAP = functools.partial(vit.AttentionPooling, num_heads=2, mlp_width=24)


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape or (2, 8, 8, 3)).astype(np.float32)


@functools.cache
def made(**overrides):
    model = ViT(**{**SETTINGS, **overrides})
    return model, jax.jit(lambda key: model.init(key, pictures()))(jax.random.key(0))


def parameters(model, shape):
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))


@pytest.mark.parametrize(
    ("name", "count"),
    [  # shared/papers/vit.md, table 1.1
        ("vit_tiny_patch16_224", 5_717_416),
        ("vit_small_patch32_224", 22_878_952),
        ("vit_small_patch16_224", 22_050_664),
        ("vit_small_patch8_224", 22_055_272),
        ("vit_base_patch32_224", 88_224_232),
        ("vit_base_patch16_224", 86_567_656),
        ("vit_base_patch8_224", 86_576_872),
        ("vit_large_patch32_224", 306_535_400),
        ("vit_large_patch16_224", 304_326_632),
        ("vit_so400m_patch14_224", 413_597_656),
        ("vit_huge_patch14_224", 632_045_800),
        ("vit_giant_patch14_224", 1_012_611_432),
        ("vit_gigantic_patch14_224", 1_844_440_680),
    ],
)
def test_variants_have_the_papers_sizes(name, count):
    model = create_model(name)
    # Blocks are alike: two depths give the cost of one, and tracing 48 of them is slow.
    one, two = (parameters(create_model(name, depth=depth), (1, 224, 224, 3)) for depth in (1, 2))
    assert one + (two - one) * (model.depth - 1) == count


def test_a_batch_is_its_images_one_by_one():
    model, variables = made()
    run = jax.jit(model.apply)
    together = run(variables, pictures())
    for i in range(2):
        np.testing.assert_allclose(together[i], run(variables, pictures()[i : i + 1])[0], atol=1e-5)


@pytest.mark.parametrize("pool", [vit.ClassTokenPooling, vit.AveragePooling, MAP])
@pytest.mark.parametrize("use_class_token", [True, False])
def test_every_pooling_runs_with_and_without_class_token(pool, use_class_token):
    model, variables = made(pool=pool, use_class_token=use_class_token)
    assert jax.jit(model.apply)(variables, pictures()).shape == (2, 5)
    assert ("class_token" in variables["params"]) == use_class_token


def test_average_pooling_leaves_the_class_token_out():
    tokens = jnp.asarray(pictures(2, 5, 4))
    module = vit.AveragePooling()
    np.testing.assert_allclose(module.apply({}, tokens, 1, False), tokens[:, 1:].mean(1), atol=1e-6)


def test_the_final_norm_acts_before_or_after_pooling():
    after, variables = made(pool=vit.AveragePooling, norm_after_pooling=True)
    _, stages = jax.jit(functools.partial(after.apply, mutable="intermediates"))(variables, pictures())
    pooled = np.asarray(stages["intermediates"]["pooled"][0])
    np.testing.assert_allclose(pooled.mean(-1), 0, atol=1e-5)
    assert "normed" not in stages["intermediates"]


def test_stages_are_reachable():
    model, variables = made()
    _, stages = jax.jit(functools.partial(model.apply, mutable="intermediates"))(variables, pictures())
    shapes = {name: value[0].shape for name, value in stages["intermediates"].items()}
    tokens = (2, 5, 16)
    assert shapes == {
        "embedded": tokens, "block_0_output": tokens, "block_1_output": tokens, "normed": tokens,
        "pooled": (2, 16), "features": (2, 16),
    }  # fmt: skip


def test_other_grids_get_resampled_positions():
    positions = functools.partial(vit.LearnedPositions, resampling=resample_bilinear)
    model, variables = made(positions=positions)
    run = jax.jit(functools.partial(model.apply, mutable="intermediates"))
    blank = np.zeros((1, 12, 20, 3), np.float32)
    embedded = run(variables, blank)[1]["intermediates"]["embedded"][0][0]
    table = variables["params"]["position_embedding"]["table"]
    expected = resample_bilinear(table[1:].reshape(2, 2, 16), (3, 5)).reshape(15, 16)
    np.testing.assert_allclose(embedded[1:], expected, atol=1e-6)
    np.testing.assert_allclose(embedded[0], table[0], atol=1e-6)  # the class token itself starts at zero


def test_the_class_token_may_have_no_position():
    positions = functools.partial(vit.LearnedPositions, embed_class=False)
    _, variables = made(positions=positions)
    assert variables["params"]["position_embedding"]["table"].shape == (4, 16)


def test_sincos_positions_have_no_parameters():
    model, variables = made(positions=vit.SinCosPositions)
    assert "position_embedding" not in variables["params"]
    blank = np.zeros((1, 8, 12, 3), np.float32)
    _, stages = model.apply(variables, blank, mutable="intermediates")
    np.testing.assert_allclose(stages["intermediates"]["embedded"][0][0, 1:], sincos_2d((2, 3), 16), atol=1e-6)


def test_heads():
    model, variables = made(representation_size=7, zero_init_head=True, head_bias=-6.9)
    assert variables["params"]["pre_logits"]["kernel"].shape == (16, 7)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, pictures()), -6.9, atol=1e-6)
    features, variables = made(num_classes=0)
    assert jax.jit(features.apply)(variables, pictures()).shape == (2, 16)
    with pytest.raises(UserError, match="`num_classes` is not set"):
        ViT(**{**SETTINGS, "num_classes": None}).init(jax.random.key(0), pictures())


def trained(model, variables, seed=0):
    def loss(variables):
        out = model.apply(variables, pictures(), train=True, rngs={"dropout": jax.random.key(seed)})
        return (out**2).sum()

    return jax.jit(jax.value_and_grad(loss))(variables)


def test_remat_changes_no_number():
    rates = {"dropout_rate": 0.2, "attention_dropout_rate": 0.1, "drop_path_rate": 0.5}
    model, variables = made(**rates)
    remat, _ = made(**rates, remat=True)
    ours, theirs = trained(model, variables), trained(remat, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    assert trained(model, variables, seed=1)[0] != ours[0]


@pytest.mark.parametrize("rate", ["dropout_rate", "attention_dropout_rate", "drop_path_rate"])
def test_each_rate_acts_in_training_only(rate):
    plain, variables = made()
    model, _ = made(**{rate: 0.5})
    assert trained(model, variables)[0] != trained(plain, variables)[0]
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, pictures()), jax.jit(plain.apply)(variables, pictures())
    )


def test_bfloat16_stays_close_and_returns_float32():
    model, variables = made()
    short, _ = made(dtype="bfloat16")
    outputs = jax.jit(short.apply)(variables, pictures())
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, jax.jit(model.apply)(variables, pictures()), atol=0.1)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(made(dtype="bfloat16")[1]))


def largest_fusion(depth: int) -> int:
    """Operands of the largest fusion of the compiled gradient."""
    model = ViT(**{**SETTINGS, "depth": depth})
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), pictures()))
    gradient = jax.jit(jax.grad(lambda v: (model.apply(v, pictures()) ** 2).sum()))
    text = gradient.lower(variables).compile().as_text()
    calls = [line.split(" fusion(")[1].split("), kind=")[0] for line in text.splitlines() if " fusion(" in line]
    assert calls
    return max(call.count("%") for call in calls)


def test_the_trunk_is_not_fused_across_depth():
    assert largest_fusion(3) == largest_fusion(6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_size": 9}, "`image_size` \\(=9\\) must be divisible by `patch_size` \\(=4\\)"),
        ({"width": 15}, "`width` \\(=15\\) must be divisible by `num_heads` \\(=2\\)"),
        ({"dtype": "int8"}, "`dtype`"),
    ],
)
def test_bad_settings_fail_at_once(keywords, message):
    with pytest.raises(UserError, match=message):
        ViT(**{**SETTINGS, **keywords})


def test_an_image_that_cannot_be_cut_is_named():
    model, variables = made()
    with pytest.raises(UserError, match="9x8 px cannot be cut into patches of 4 px"):
        model.apply(variables, pictures(1, 9, 8, 3))


def test_it_runs_as_an_nnx_module():
    model, _ = made()
    wrapped = bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(pictures())
    plain = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    expected = jax.jit(model.apply)({"params": plain}, pictures())
    np.testing.assert_allclose(wrapped(pictures()), expected, atol=1e-6)


def test_a_config_stores_it_with_its_parts():
    node = spec(ViT, **SETTINGS, pool=factory(vit.AttentionPooling, num_heads=2, mlp_width=24))
    model = build(from_json(to_json(node)), packages=("vitjax",))
    variables = jax.jit(lambda key: model.init(key, pictures()))(jax.random.key(0))
    assert "probe" in variables["params"]["pooling"]["attention"]


def test_models_by_name():
    assert "navit_base_patch16" in list_models("*navit*")
    assert all("navit" in name for name in list_models("*navit*"))
    assert create_model("vit_tiny_patch16_224", num_classes=3).num_classes == 3
    assert build(model_spec("navit_base_patch16", num_classes=None)).num_classes is None
    with pytest.raises(UserError, match=r"did you mean .*vit_base_patch16_224"):
        create_model("vit_base_patch61_224")
    with pytest.raises(UserError, match="did you mean `num_classes`"):
        create_model("vit_base_patch16_224", num_class=3)
