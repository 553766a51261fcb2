"""MobileViTv2: sizes of the paper, stages, folding, layouts, and what users may get wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.models import create_model, layouts_of, variant_of
from vitjax.models.mobilevit_v2 import MobileViTV2, MobileViTV2Trunk
from vitjax.paths import flatten, unflatten
from vitjax.weights.rules import export_weights, import_weights

# Model zoo of the paper: width -> parameters with 1000 classes.
PARAMETERS = {
    "050": 1_370_593, "075": 2_866_009, "100": 4_901_841, "125": 7_478_089, "150": 10_594_753, "175": 14_251_833,
    "200": 18_449_329,
}  # fmt: skip
TINY = {"num_classes": 7, "width_multiplier": 0.25, "depths": (1, 2, 1)}


@functools.cache
def shapes_of(module, size=64):
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return {path: leaf.shape for path, leaf in flatten(dict(variables)).items()}


def random_variables(module, seed=0):
    draw = np.random.default_rng(seed)
    found = {}
    for path, shape in shapes_of(module).items():
        spread = np.prod(shape[:-1]) ** -0.5 if path.endswith("kernel") else 0.2
        found[path] = (draw.normal(size=shape) * spread + path.endswith(("scale", "var"))).astype(np.float32)
        if path.endswith("var"):
            found[path] = np.abs(found[path]) + 0.1
    return found


@pytest.mark.parametrize(
    "width", [width if width == "075" else pytest.param(width, marks=pytest.mark.long) for width in PARAMETERS]
)
def test_parameters_are_the_published_ones(width):
    module = create_model(f"mobilevitv2_{width}")
    params = {path: shape for path, shape in shapes_of(module).items() if path.startswith("params/")}
    assert sum(int(np.prod(shape)) for shape in params.values()) == PARAMETERS[width]


def test_names_of_larger_images_are_the_same_network():
    _, small = variant_of("mobilevitv2_150")
    _, large = variant_of("mobilevitv2_150_384")
    assert large == {**small, "image_size": 384}


def stage_sizes(size, **keywords):
    trunk = MobileViTV2Trunk(width_multiplier=0.25, depths=(1, 1, 1), **keywords)
    stages, _ = jax.eval_shape(trunk.init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))
    assert list(stages) == [f"stage_{number}" for number in range(1, 6)]
    assert [stage.shape[3] for stage in stages.values()] == list(trunk.widths[1:])
    return [stage.shape[1:3] for stage in stages.values()]


def test_stages_shrink_as_the_output_stride_says():
    assert [rows for rows, _ in stage_sizes((128, 64))] == [64, 32, 16, 8, 4]
    assert [rows for rows, _ in stage_sizes((128, 64), output_stride=16)] == [64, 32, 16, 8, 8]
    assert [rows for rows, _ in stage_sizes((128, 64), output_stride=8)] == [64, 32, 16, 16, 16]


def test_odd_maps_become_even_and_stay_so():
    assert stage_sizes((72, 104)) == [(36, 52), (18, 26), (10, 14), (6, 8), (4, 4)]


def test_features_are_the_trunks():
    module = MobileViTV2(**TINY, dtype="bfloat16")
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    stages = jax.eval_shape(lambda variables: module.apply(variables, images, method="features"), variables)
    assert stages["stage_5"].shape == (1, 2, 2, 128)
    assert stages["stage_5"].dtype == jnp.bfloat16
    logits = jax.eval_shape(module.apply, variables, images)
    assert (logits.shape, logits.dtype) == ((1, 7), jnp.float32)


def test_fused_it_computes_the_same():
    module = MobileViTV2(**TINY)
    variables = unflatten(random_variables(module))
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    fused, folded = module.fuse(variables)
    assert set(folded) == {"params"}
    expected, found = (jax.jit(model.apply)(given, images) for model, given in ((module, variables), (fused, folded)))
    assert float(jnp.abs(expected).max()) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    with pytest.raises(UserError, match="fused"):
        fused.apply(folded, images, train=True)


@pytest.mark.parametrize("name", ["timm", "huggingface", "authors"])
def test_layouts_come_back_bit_for_bit(name):
    module = MobileViTV2(**TINY)
    rules = next(layout for layout in layouts_of(module) if layout.name == name).rules(module)
    ours = random_variables(module)
    foreign = export_weights(rules, ours)
    assert len(foreign) < len(ours)  # query, key and value are one
    back = import_weights(rules, foreign, {path: value.shape for path, value in ours.items()})
    for path, value in ours.items():
        np.testing.assert_array_equal(back[path], value, err_msg=path)
    counters = {
        f"{key.removesuffix('running_var')}num_batches_tracked": np.int64(3) for key in foreign if "_var" in key
    }
    assert counters
    import_weights(rules, {**foreign, **counters}, {path: value.shape for path, value in ours.items()})


def test_the_authors_keys():
    module = MobileViTV2(**TINY)
    rules = next(layout for layout in layouts_of(module) if layout.name == "authors").rules(module)
    foreign = {key: array.shape for key, array in export_weights(rules, random_variables(module)).items()}
    assert foreign["layer_4.1.global_rep.1.pre_norm_attn.1.qkv_proj.block.conv.weight"] == (1 + 2 * 48, 48, 1, 1)
    assert foreign["layer_4.1.global_rep.2.weight"] == (48,)
    assert foreign["layer_3.1.local_rep.0.block.conv.weight"] == (64, 1, 3, 3)
    assert foreign["layer_2.1.block.exp_1x1.block.norm.running_mean"] == (64,)
    assert foreign["classifier.1.weight"] == (7, 128)


def test_weights_of_another_width():
    small, large = MobileViTV2(**TINY), MobileViTV2(**{**TINY, "width_multiplier": 0.5})
    rules = layouts_of(small)[0].rules(small)
    with pytest.raises(UserError, match="wrong shapes"):
        import_weights(rules, export_weights(rules, random_variables(small)), shapes_of(large))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_classes": None}, "`num_classes`"),
        ({"output_stride": 4}, "`output_stride`"),
        ({"depths": (1, 1)}, "`depths`"),
        ({"width_multiplier": 0.0}, "`width_multiplier`"),
    ],
)
def test_settings_that_do_not_fit(keywords, message):
    with pytest.raises(UserError, match=message):
        MobileViTV2(**{**TINY, **keywords}).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_an_image_smaller_than_the_stride():
    with pytest.raises(UserError, match=r"31x64 px.*at least 32"):
        MobileViTV2(**TINY).init(jax.random.key(0), jnp.zeros((1, 31, 64, 3)))
