"""DeepViT: sizes, switches, what training changes, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.config import build, factory, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.models import create_model, deepvit
from vitjax.models.deepvit import ConvolutionalStem, DeepViT, ReAttention, vit_pytorch_settings
from vitjax.paths import flatten

SETTINGS = {"num_classes": 5, "image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
SETTINGS |= {"mlp_width": 24}


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape or (3, 8, 8, 3)).astype(np.float32)


@functools.cache
def made(**overrides):
    model = DeepViT(**{**SETTINGS, **overrides})
    return model, jax.jit(lambda key: model.init(key, pictures()))(jax.random.key(0))


def run(model, variables, images=None):
    return jax.jit(model.apply)(variables, pictures() if images is None else images)


def parameters(name, depth, active, size):
    model = create_model(name, depth=depth, num_reattention=active)
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))


@pytest.mark.parametrize(
    ("name", "size", "millions", "count"),
    [  # shared/papers/deepvit.md, section 3; of S and L, two digits
        ("deepvit_patch16_224_re_attn_16b", 224, 24.43, 24_426_664),
        ("deepvit_patch16_224_re_attn_24b", 224, 36.26, 36_261_448),
        ("deepvit_patch16_224_re_attn_32b", 224, 48.10, 48_096_232),
        ("deepvit_s", 224, 27.31, None),
        ("deepvit_l", 224, 58.88, None),
    ],
)
def test_variants_have_the_authors_sizes(name, size, millions, count):
    model = create_model(name)
    # Blocks of a kind are alike: tracing 32 of them is slow.
    ends, plain, mixed = (parameters(name, depth, active, size) for depth, active in ((1, 0), (2, 0), (2, 1)))
    active = model.depth - model.first_reattention
    total = ends + (model.depth - 1) * (plain - ends) + active * (mixed - plain)
    assert mixed - plain == 12 * 12 + 12 + 2 * 12  # sheet: 180 per block
    assert round(total / 1e6, 2) == millions
    assert count in (None, total)


def test_where_re_attention_acts():
    assert create_model("deepvit_s").first_reattention == 11
    assert create_model("deepvit_l").first_reattention == 20
    assert create_model("deepvit_l_384").grid == (24, 24)
    _, variables = made(depth=3, num_reattention=1)
    mixing = [path for path in flatten(variables) if "reattention" in path]
    assert mixing
    assert all("block_2/" in path for path in mixing)
    _, plain = made(num_reattention=0)
    assert not any("reattention" in path for path in flatten(plain))


def test_the_mixing_is_the_formula():
    maps = np.asarray(jax.nn.softmax(pictures(2, 3, 4, 4)))
    module = ReAttention(norm=lambda name, dtype: lambda x, train: x, scale=0.5)
    variables = module.init(jax.random.key(1), maps, False)
    theta, bias = variables["params"]["kernel"], variables["params"]["bias"]
    expected = np.einsum("hg,bhnm->bgnm", theta, maps) + np.asarray(bias)[:, None, None]
    np.testing.assert_allclose(module.apply(variables, maps, False), 0.5 * expected, atol=1e-6)


def test_plain_blocks_without_adjustment_are_vits():
    from vitjax.models.vit import ViT

    model, variables = made(num_reattention=0)
    params = dict(variables["params"])
    params["patch_embedding"] = params["patch_embedding"]["projection"]
    ours, theirs = run(model, variables), run(ViT(**SETTINGS), {"params": params})
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_adjustment_only_scales_the_branches():
    """Layer norms cancel r; halving r doubles what the last layers of both branches give."""
    model, variables = made(num_reattention=0, depth=1)
    doubled = dict(variables["params"])
    block = dict(doubled["block_0"])
    for name, last in (("attention", "out"), ("mlp", "contract")):
        block[name] = {**block[name], last: jax.tree.map(lambda leaf: 2 * leaf, block[name][last])}
    doubled["block_0"] = block
    half = DeepViT(**{**SETTINGS, "num_reattention": 0, "depth": 1, "scale_adjustment": 0.5, "norm_epsilon": 1e-12})
    whole = DeepViT(**{**SETTINGS, "num_reattention": 0, "depth": 1, "norm_epsilon": 1e-12})
    ours, theirs = run(half, variables), run(whole, {"params": doubled})
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.abs(ours - run(model, variables)).max() > 1e-3


def test_maps_are_there_when_asked_for():
    model, variables = made(num_reattention=1)
    _, state = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))(variables, pictures())
    plain, mixed = (state["intermediates"][f"block_{number}"]["attention_map"][0] for number in range(2))
    assert plain.shape == mixed.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(plain.sum(-1), 1, atol=1e-5)
    assert np.abs(mixed.sum(-1) - 1).max() > 1e-2
    assert isinstance(run(model, variables), jax.Array)


def train_once(model, variables, seed=0, images=None):
    images = pictures() if images is None else images

    def loss(params):
        logits, changed = model.apply(
            {**variables, "params": params}, images, train=True, rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"],
        )  # fmt: skip
        return (logits**2).sum(), (logits, changed)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_training_updates_the_statistics_of_every_norm():
    model, variables = made(embed=ConvolutionalStem)
    _, (_, changed) = train_once(model, variables)
    before, after = flatten(variables["batch_stats"]), flatten(changed["batch_stats"])
    assert set(after) == set(before)
    assert len(after) == 2 * (2 + 2)
    assert all(np.abs(after[path] - before[path]).max() > 0 for path in after)


@pytest.mark.long  # slow to compile; tests/models/test_vit.py has the same of the shared blocks
def test_remat_changes_no_number():
    rates = {"dropout_rate": 0.2, "attention_dropout_rate": 0.1, "drop_path_rate": 0.5}
    model, variables = made(**rates)
    remat, _ = made(**rates, remat=True)
    ours, theirs = train_once(model, variables), train_once(remat, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    assert np.abs(train_once(model, variables, seed=1)[1][0] - ours[1][0]).max() > 1e-3


@pytest.mark.long  # slow to compile; tests/models/test_vit.py has the same of the shared blocks
@pytest.mark.parametrize("rate", ["dropout_rate", "attention_dropout_rate", "drop_path_rate"])
def test_each_rate_acts_in_training_only(rate):
    plain, variables = made()
    model, _ = made(**{rate: 0.5})
    assert np.abs(train_once(model, variables)[1][0] - train_once(plain, variables)[1][0]).max() > 1e-4
    np.testing.assert_array_equal(run(model, variables), run(plain, variables))


def test_bfloat16_stays_close_and_keeps_float32_statistics():
    model, variables = made()
    short, fresh = made(dtype="bfloat16")
    outputs = run(short, variables)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, run(model, variables), atol=0.1)
    _, (_, changed) = train_once(short, fresh)
    assert {leaf.dtype for leaf in jax.tree.leaves((fresh, changed))} == {jnp.dtype("float32")}


def test_another_grid_gets_resampled_positions():
    model, variables = made(embed=ConvolutionalStem)
    assert run(model, variables, pictures(1, 12, 20, 3)).shape == (1, 5)


@pytest.mark.parametrize("embed", [deepvit.LinearPatches, ConvolutionalStem])
def test_an_image_that_cannot_be_cut_is_named(embed):
    model, variables = made(embed=embed)
    with pytest.raises(UserError, match="10x8 px cannot be cut into patches of 4 px"):
        run(model, variables, pictures(1, 10, 8, 3))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_size": 9}, "`image_size` \\(=9\\) must be divisible by `patch_size` \\(=4\\)"),
        ({"width": 15}, "`width` \\(=15\\) must be divisible by `num_heads` \\(=2\\)"),
        ({"num_reattention": 3}, "`num_reattention` \\(=3\\) must be 0 to `depth` \\(=2\\)"),
        ({"scale_adjustment": 0.0}, "`scale_adjustment` \\(=0.0\\) must be positive"),
    ],
)
def test_bad_settings_fail_at_once(keywords, message):
    with pytest.raises(UserError, match=message):
        DeepViT(**{**SETTINGS, **keywords})


def test_without_classes_there_are_features():
    model, variables = made(num_classes=0)
    assert run(model, variables).shape == (3, 16)
    with pytest.raises(UserError, match="`num_classes` is not set"):
        DeepViT(**{**SETTINGS, "num_classes": None}).init(jax.random.key(0), pictures())


def test_it_runs_as_an_nnx_module():
    model, _ = made()
    wrapped = bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(pictures())
    params = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    statistics = nnx.to_pure_dict(nnx.state(wrapped, nnx.BatchStat))
    expected = run(model, {"params": params, "batch_stats": statistics})
    np.testing.assert_allclose(wrapped(pictures()), expected, atol=1e-6)


def test_a_config_stores_it_with_its_parts():
    parts = {"reattention": factory(ReAttention, use_bias=False), "embed": factory(ConvolutionalStem)}
    model = build(from_json(to_json(spec(DeepViT, **SETTINGS, **parts))), packages=("vitjax",))
    paths = flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), pictures())))
    assert "params/patch_embedding/convolution_1/kernel" in paths
    assert "params/block_0/reattention/bias" not in paths


def test_the_vit_pytorch_form_can_be_stored_too():
    from vitjax.config import describe

    model = DeepViT(**{**SETTINGS, **vit_pytorch_settings()})
    again = build(from_json(to_json(describe(model))), packages=("vitjax",))
    shapes = [flatten(jax.eval_shape(lambda m=m: m.init(jax.random.key(0), pictures()))) for m in (model, again)]
    assert shapes[0].keys() == shapes[1].keys()
    assert "batch_stats" not in jax.eval_shape(lambda: again.init(jax.random.key(0), pictures()))
