"""DETR: sizes, padded batches, initial values, attention maps, folding, settings that cannot be."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.analysis.attention_maps import attention_maps
from vitjax.config import build, describe, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models import create_model, detr_transformer
from vitjax.models.detr import DETR, VARIANTS
from vitjax.models.resnet import ResNetTrunk
from vitjax.ops.attention import dense_attention
from vitjax.paths import flatten, unflatten

# The authors' networks with 91 classes; their frozen norms' scales and biases count as buffers there.
COUNTS = {
    "detr_resnet50": (41_524_768, 53_120),
    "detr_resnet50_dc5": (41_524_768, 53_120),
    "detr_resnet101": (60_464_672, 105_344),
    "detr_resnet101_dc5": (60_464_672, 105_344),
}
CONTENT = np.array([[70, 96], [96, 41]], np.int32)


def tiny(**settings):
    trunk = functools.partial(ResNetTrunk, depths=(1, 1, 1, 1), width=4, norm=functools.partial(BatchNorm, frozen=True))
    sizes = {"num_queries": 5, "width": 16, "num_heads": 2, "mlp_width": 24, "encoder_depth": 1, "decoder_depth": 2}
    return DETR(**{"num_classes": 3, "backbone": trunk, **sizes, **settings})


def pictures(batch=2, size=(96, 96)):
    return np.random.default_rng(0).normal(size=(batch, *size, 3)).astype(np.float32)


@functools.cache
def drawn_variables():
    """Random ones, in which no branch is off; of `tiny`."""
    generator = np.random.default_rng(1)
    shapes = flatten(dict(jax.eval_shape(lambda: tiny().init(jax.random.key(0), pictures()))))
    made = {}
    for path, leaf in shapes.items():
        if path.startswith("intermediates"):
            continue
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if path.endswith("kernel") else 0.2
        made[path] = float(path.endswith(("scale", "var"))) + spread * generator.uniform(-1.7, 1.7, leaf.shape)
    return unflatten({path: array.astype(np.float32) for path, array in made.items()})


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_the_published_sizes(name):
    module = create_model(name)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    sizes = {path: leaf.size for path, leaf in flatten(shapes["params"]).items()}
    norms = {path: size for path, size in sizes.items() if path.startswith("backbone/") and "/norm/" in path}
    assert (sum(sizes.values()) - sum(norms.values()), sum(norms.values())) == COUNTS[name]
    transformer = [size for path, size in sizes.items() if path.split("/")[0] in ("encoder", "decoder")]
    assert sum(transformer) == 17_363_456
    found = jax.eval_shape(lambda v: module.apply(v, jnp.zeros((2, 64, 96, 3))), shapes)
    assert {key: leaf.shape for key, leaf in found.items()} == {"logits": (6, 2, 100, 92), "boxes": (6, 2, 100, 4)}


@functools.cache
def outputs_of_a_padded_batch():
    # What is outside is no zero: nothing of it may count.
    return jax.device_get(jax.jit(tiny().apply)(drawn_variables(), pictures(), CONTENT))


@pytest.mark.parametrize("picture", [0, 1])
def test_a_padded_picture_gives_what_it_gives_alone(picture):
    rows, columns = CONTENT[picture]
    alone = jax.jit(tiny().apply)(drawn_variables(), pictures()[picture : picture + 1, :rows, :columns])
    for key, found in outputs_of_a_padded_batch().items():
        assert found.dtype == np.float32
        assert np.ptp(found[:, picture]) > 0.01
        np.testing.assert_allclose(found[:, picture], alone[key][:, 0], atol=1e-5)


def test_padding_reaches_into_pictures_as_in_the_authors_program():
    found = jax.jit(tiny(isolate_padding=False).apply)(drawn_variables(), pictures(), CONTENT)
    assert np.abs(found["logits"] - outputs_of_a_padded_batch()["logits"]).max() > 1e-3


def test_bfloat16_gives_float32_outputs_near_those_of_float32():
    found = jax.jit(tiny(dtype="bfloat16").apply)(drawn_variables(), pictures(), CONTENT)
    for key, expected in outputs_of_a_padded_batch().items():
        assert found[key].dtype == jnp.float32
        np.testing.assert_allclose(found[key], expected, atol=0.15)


def test_initial_values():
    module = tiny(width=64, num_heads=4, num_queries=50)
    params = flatten(jax.jit(module.init)(jax.random.key(0), pictures())["params"])

    def bound_of(path, bound):
        largest = np.abs(params[path]).max()
        assert 0.9 * bound < largest <= bound, path

    for layer in ("encoder/block_0/attention", "decoder/block_1/cross_attention"):
        for part in ("query", "key", "value"):
            bound_of(f"{layer}/{part}/kernel", (6 / (4 * 64)) ** 0.5)  # of one matrix [3 * 64, 64]
            assert not params[f"{layer}/{part}/bias"].any()
        bound_of(f"{layer}/out/kernel", (6 / (2 * 64)) ** 0.5)
    bound_of("encoder/block_0/mlp/expand/kernel", (6 / (64 + 24)) ** 0.5)
    bound_of("encoder/block_0/mlp/expand/bias", 64**-0.5)
    bound_of("encoder/block_0/mlp/contract/bias", 24**-0.5)
    bound_of("projection/kernel", 128**-0.5)
    bound_of("class_head/kernel", 64**-0.5)
    bound_of("box_head/layer_1/bias", 64**-0.5)
    assert np.std(params["query_embedding"]) == pytest.approx(1, abs=0.05)


def test_places_of_dropout(monkeypatch):
    counted, dropped = collections.Counter(), []

    def count(call, arguments, keywords, context):
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            counted["/".join(context.module.path[:2])] += not context.module.deterministic
        return call(*arguments, **keywords)

    def attend(*arguments, dropout_rate, dropout_key):
        dropped.append(dropout_rate if dropout_key is not None else 0.0)
        return dense_attention(*arguments)

    def run(variables, train):
        with nn.intercept_methods(count):
            key = {"dropout": jax.random.key(0)}
            return tiny(dropout_rate=0.5).apply(variables, pictures(), train=train, rngs=key)

    variables = drawn_variables()
    monkeypatch.setattr(detr_transformer, "dense_attention", attend)
    jax.eval_shape(functools.partial(run, train=True), variables)
    # Behind each attention, and twice in the MLP.
    assert counted == {"encoder/block_0": 3, "decoder/block_0": 4, "decoder/block_1": 4}
    assert dropped == [0.5] * (1 + 2 * 2)
    jax.eval_shape(functools.partial(run, train=False), variables)
    assert sum(counted.values()) == 11
    assert dropped[5:] == [0.0] * 5


def test_where_each_query_looks():
    found = attention_maps(tiny(), drawn_variables(), images=pictures(), content_size=CONTENT)
    assert list(found) == [
        "decoder/block_0/attention", "decoder/block_0/cross_attention", "decoder/block_1/attention",
        "decoder/block_1/cross_attention", "encoder/block_0/attention",
    ]  # fmt: skip
    looks = np.asarray(found["decoder/block_1/cross_attention"]).reshape(2, 2, 5, 3, 3)  # B A Q h w
    np.testing.assert_allclose(looks.sum(axis=(3, 4)), 1, rtol=1e-5)
    assert not looks[1, ..., 2:].any()  # 41 columns are two of the three of 32
    assert looks[1, ..., :2].all()


def test_folding_leaves_the_outputs_and_no_statistics():
    folded, variables = tiny().fuse(drawn_variables())
    assert set(variables) == {"params"}
    found = jax.jit(folded.apply)(variables, pictures(), CONTENT)
    for key, expected in outputs_of_a_padded_batch().items():
        np.testing.assert_allclose(found[key], expected, atol=2e-5)


def test_it_runs_as_an_nnx_module():
    @nnx.jit
    def run(values):
        wrapped = bridge.ToNNX(tiny(), rngs=nnx.Rngs(0)).lazy_init(pictures())
        state = nnx.state(wrapped, (nnx.Param, nnx.BatchStat))
        own = flatten(nnx.to_pure_dict(state))
        assert own.keys() == {path.partition("/")[2] for path in values}
        nnx.replace_by_pure_dict(state, unflatten({path.partition("/")[2]: leaf for path, leaf in values.items()}))
        nnx.update(wrapped, state)
        return wrapped(pictures(), CONTENT)

    found = run(flatten(drawn_variables()))
    for key, expected in outputs_of_a_padded_batch().items():
        np.testing.assert_allclose(found[key], expected, atol=1e-5)


def test_the_backbone_that_is_meant_can_be_written_down():
    module = build(spec(DETR, num_classes=3))  # does not name it
    again = build(from_json(to_json(describe(module))))
    assert describe(again) == describe(module)
    assert again.backbone.keywords["norm"].keywords == {"frozen": True}


def test_what_a_mask_head_is_given():
    images = pictures()
    found = jax.eval_shape(lambda v: tiny().apply(v, images, CONTENT, method="read"), drawn_variables())
    assert {name: leaf.shape[1] for name, leaf in found.maps.items()} == {
        f"stage_{n}": 96 >> (n + 1) for n in (1, 2, 3, 4)
    }
    assert found.projected.shape == found.memory.shape == (2, 3, 3, 16)
    assert found.mask.shape == (2, 3, 3)
    assert found.states.shape == (2, 2, 5, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": None}, "`num_classes` \\(=None\\) must be set"),
        ({"width": 18, "num_heads": 4}, "`width` \\(=18\\) must be divisible by `num_heads` \\(=4\\)"),
        ({"decoder_depth": 0}, "`decoder_depth` \\(=0\\) must be at least 1"),
        ({"num_queries": 0}, "`num_queries` \\(=0\\) must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: tiny(**settings).init(jax.random.key(0), pictures()))
