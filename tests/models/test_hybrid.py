import functools

import jax
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.config import build, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.models import create_model, hybrid_tables, layouts_of, list_models, model_spec
from vitjax.models.hybrid import MODEL, hybrid_vit
from vitjax.models.vit import ViT
from vitjax.paths import flatten
from vitjax.weights.rules import export_weights, import_weights

SETTINGS = {"stages": (1,), "stem_width": 8, "num_groups": 4, "image_size": 16, "patch_size": 8, "width": 16}
SETTINGS |= {"depth": 1, "num_heads": 2, "mlp_width": 24, "num_classes": 5, "zero_init_head": False}


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape or (2, 16, 16, 3)).astype(np.float32)


@functools.cache
def made(**overrides):
    model = hybrid_vit(**{**SETTINGS, **overrides})
    return model, jax.jit(lambda key: model.init(key, pictures()))(jax.random.key(0))


def test_it_is_a_vit_on_features():
    model, variables = made()
    assert isinstance(model, ViT)
    assert model.grid == (2, 2)
    run = functools.partial(model.apply, mutable="intermediates")
    logits, state = jax.eval_shape(run, variables, pictures())
    assert logits.shape == (2, 5)
    assert state["intermediates"]["patch_embedding"]["features"][0].shape == (2, 4, 4, 32)


def test_a_batch_is_its_images_one_by_one():
    model, variables = made()
    run = jax.jit(model.apply)
    for number, logits in enumerate(run(variables, pictures())):
        np.testing.assert_allclose(run(variables, pictures()[number : number + 1])[0], logits, atol=1e-5)


def test_a_new_unit_is_its_shortcut():
    """The last scale of a branch starts at zero, so its kernels get no gradient at first."""
    model, variables = made()
    gradient = jax.jit(jax.grad(lambda variables: (model.apply(variables, pictures()) ** 2).sum()))(variables)
    network = gradient["params"]["patch_embedding"]["network"]
    assert not np.any(network["stage_0_unit_0"]["conv_2"]["kernel"])
    assert np.any(network["stage_0_unit_0"]["norm_3"]["scale"])
    assert np.any(network["root_conv"]["kernel"])


def test_other_image_sizes_and_bfloat16():
    model, variables = made()
    assert jax.eval_shape(model.apply, variables, pictures(1, 24, 40, 3)).shape == (1, 5)
    short = hybrid_vit(**{**SETTINGS, "dtype": "bfloat16"})
    expected = jax.jit(model.apply)(variables, pictures())
    np.testing.assert_allclose(jax.jit(short.apply)(variables, pictures()), expected, atol=0.15)


@pytest.mark.parametrize(
    ("overrides", "shape", "grid", "message"),
    [
        (
            {"patch_size": 2},
            (1, 16, 16, 3),
            None,
            r"`patch_size` \(=2\) must be a multiple of the backbone's stride \(=4\)",
        ),
        ({}, (1, 20, 16, 3), None, "20x16 px cannot be cut into patches of 8 px"),
        ({}, (1, 16, 16, 3), (3, 3), "`grid` asks for 3x3"),
    ],
)
def test_what_does_not_fit_is_named(overrides, shape, grid, message):
    model = hybrid_vit(**{**SETTINGS, **overrides})
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), pictures(*shape), grid)


def test_it_runs_as_an_nnx_module():
    model = hybrid_vit(**{**SETTINGS, "stages": ()})
    wrapped = bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(pictures())
    plain = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    np.testing.assert_allclose(wrapped(pictures()), model.apply({"params": plain}, pictures()), atol=1e-5)


def test_configs_and_names():
    node = spec(hybrid_vit, **{**SETTINGS, "num_classes": None})
    assert build(from_json(to_json(node)), packages=("vitjax",)).depth == 1
    with pytest.raises(UserError, match="did you mean `num_heads`"):
        spec(hybrid_vit, num_head=3)
    assert "vit_base_r50_s16_384" in list_models("*_r50_*")
    model = create_model("vit_tiny_r_s16_p8_384", num_classes=3)
    assert (model.num_classes, model.grid) == (3, (12, 12))
    assert build(model_spec("vit_large_r50_s32_224", num_classes=None)).num_classes is None
    with pytest.raises(UserError, match="did you mean `stages`"):
        create_model("vit_base_r50_s16_224", stage=(1,))
    assert [layout.name for layout in layouts_of(MODEL)] == ["timm", "vit_jax"]


@pytest.mark.parametrize("stages", [(1, 1), ()])
def test_files_of_the_authors_come_back_bit_for_bit(stages):
    layout = {layout.name: layout for layout in hybrid_tables.LAYOUTS}["vit_jax"]
    model = hybrid_vit(**{**SETTINGS, "stages": stages})
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), pictures()))
    template = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    draw = np.random.default_rng(0).standard_normal
    ours = {path: draw(shape).astype(np.float32) for path, shape in template.items()}
    foreign = export_weights(layout.rules(model), ours)
    assert {"conv_root/kernel", "gn_root/scale", "embedding/kernel", "cls"} <= set(foreign)
    assert ("block2/unit1/conv_proj/kernel" in foreign) == bool(stages)
    # Old files keep the norms' vectors with axes of size 1 in front.
    old = {key: array.reshape(1, 1, 1, -1) if "gn" in key else array for key, array in foreign.items()}
    back = import_weights(layout.rules(model), layout.prepare(old), template)
    for path, array in ours.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)


def test_layouts_bring_their_numerics():
    by_name = {layout.name: hybrid_vit(**{**SETTINGS, **layout.settings}) for layout in hybrid_tables.LAYOUTS}
    _, variables = made()
    logits = [model.apply(variables, pictures()) for model in by_name.values()]
    assert 0 < float(np.abs(logits[0] - logits[1]).max()) < 0.1
