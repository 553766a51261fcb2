import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.config import build, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.models import create_model, layouts_of, model_spec
from vitjax.models.flexivit import MODEL, at_patch_size, flexivit
from vitjax.models.flexivit_tables import sizes_of
from vitjax.models.vit import PatchEmbedding
from vitjax.ops.positions import resample_bilinear_antialias

SETTINGS = {"image_size": 24, "kernel_size": 6, "position_grid": 3, "patch_size": 6, "width": 16, "depth": 1}
SETTINGS |= {"num_heads": 2, "mlp_width": 24, "num_classes": 5, "zero_init_head": False}
GRIDS = ((3, 3), (4, 4), (6, 6), (8, 4))


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape or (2, 24, 24, 3)).astype(np.float32)


@functools.cache
def made(**overrides):
    model = flexivit(**{**SETTINGS, **overrides})
    return model, jax.jit(lambda key: model.init(key, pictures()))(jax.random.key(0))


@functools.cache
def runner():
    return jax.jit(functools.partial(made()[0].apply, mutable="intermediates"), static_argnames="grid")


@pytest.mark.parametrize("grid", GRIDS)
def test_one_set_of_weights_runs_at_every_grid(grid):
    logits, state = runner()(made()[1], pictures(), grid=grid)
    assert logits.shape == (2, 5)
    assert state["intermediates"]["embedded"][0].shape == (2, 1 + grid[0] * grid[1], 16)


def test_without_a_grid_patches_have_the_models_size():
    _, variables = made()
    default, _ = runner()(variables, pictures())
    asked, _ = runner()(variables, pictures(), grid=(4, 4))
    np.testing.assert_array_equal(default, asked)


def test_an_array_says_the_grid_by_its_shape():
    _, variables = made()
    model = made()[0]
    asked = jax.jit(model.apply)(variables, pictures(), jnp.zeros((2, 8, 4), bool))
    np.testing.assert_allclose(asked, runner()(variables, pictures(), grid=(8, 4))[0], atol=1e-6)


def test_programs_are_as_many_as_grids():
    traced = []
    model, variables = made()

    @jax.jit
    def run(variables, images, grid):
        traced.append(grid.shape[1:])
        return model.apply(variables, images, grid)

    for side in (3, 4, 3, 6, 4, 3):
        run(variables, pictures(), jnp.ones((2, side, side), bool))
    assert traced == [(3, 3), (4, 4), (6, 6)]


def test_larger_images_of_the_same_grid_give_the_same_tokens():
    """Section 3.4: enlarging the image, patches growing with it, changes no token. Patch by patch, as B is defined."""
    from vitjax.ops.patches import bilinear_matrix

    _, variables = made()
    blocks = pictures().reshape(2, 4, 6, 4, 6, 3)
    enlarge = bilinear_matrix(6, 9).astype(np.float32)
    larger = np.einsum("hr,wc,bircjk->bihjwk", enlarge, enlarge, blocks.transpose(0, 1, 2, 4, 3, 5).copy())
    # b, i: block row, h: row inside; then j: block column, w: column inside
    larger = larger.reshape(2, 36, 36, 3)
    small = runner()(variables, pictures(), grid=(4, 4))[1]["intermediates"]["embedded"][0]
    large = runner()(variables, larger, grid=(4, 4))[1]["intermediates"]["embedded"][0]
    np.testing.assert_allclose(large, small, atol=2e-4)


def test_the_class_token_has_no_position_and_patches_have_resized_ones():
    _, variables = made()
    blank = np.zeros((1, 24, 24, 3), np.float32)
    embedded = runner()(variables, blank, grid=(6, 6))[1]["intermediates"]["embedded"][0][0]
    table = variables["params"]["position_embedding"]["table"]
    assert table.shape == (9, 16)
    np.testing.assert_allclose(embedded[0], 0, atol=1e-7)
    expected = resample_bilinear_antialias(table.reshape(3, 3, 16), (6, 6)).reshape(36, 16)
    np.testing.assert_allclose(embedded[1:], expected, atol=1e-6)


def test_every_grid_trains_the_same_parameters():
    model, variables = made()

    def loss(variables, grid):
        return (model.apply(variables, pictures(), grid) ** 2).sum()

    for grid in ((3, 3), (6, 6)):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(variables, grid)
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, variables)
        for part in ("patch_embedding", "position_embedding"):
            assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["params"][part]))


@pytest.mark.parametrize("patch_size", [6, 4, 12])
def test_a_plain_vit_of_one_patch_size_is_made_from_it(patch_size):
    model, variables = made()
    plain, own = at_patch_size(model, variables, patch_size)
    assert plain.embedding is PatchEmbedding
    side = 24 // patch_size
    expected, _ = runner()(variables, pictures(), grid=(side, side))
    np.testing.assert_allclose(jax.jit(plain.apply)(own, pictures()), expected, atol=1e-5)


def test_it_runs_as_an_nnx_module():
    model, _ = made()
    wrapped = bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(pictures())
    plain = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    expected = jax.jit(model.apply, static_argnames="grid")({"params": plain}, pictures(), grid=(3, 3))
    np.testing.assert_allclose(wrapped(pictures(), grid=(3, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 4), (0, 4), (48, 48)])
def test_a_grid_that_cannot_be_cut_is_named(grid):
    model, variables = made()
    with pytest.raises(UserError, match=f"24x24 px cannot be cut into a `grid` of {grid[0]}x{grid[1]}"):
        model.apply(variables, pictures(), grid)


def test_a_plain_vit_refuses_other_grids():
    plain, own = at_patch_size(*made(), 6)
    with pytest.raises(UserError, match="has 4x4 patches of 6 px, but `grid` asks for 3x3"):
        plain.apply(own, pictures(), (3, 3))


@pytest.mark.parametrize(
    ("name", "count"),
    [  # shared/papers/flexivit.md, section 3
        ("flexivit_small", 22_878_568),
        ("flexivit_base", 88_223_464),
        ("flexivit_large", 306_534_376),
    ],
)
def test_variants_have_the_papers_sizes(name, count):
    def parameters(depth):
        model = create_model(name, depth=depth)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 240, 240, 3))))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    one, two = parameters(1), parameters(2)
    assert one + (two - one) * (create_model(name).depth - 1) == count


def test_configs_names_and_layouts():
    node = spec(flexivit, **SETTINGS)
    model = build(from_json(to_json(node)), packages=("vitjax",))
    assert jax.tree.map(jnp.shape, jax.eval_shape(lambda: model.init(jax.random.key(0), pictures()))) == jax.tree.map(
        jnp.shape, made()[1]
    )
    assert build(model_spec("flexivit_small", num_classes=None)).grid == (15, 15)
    with pytest.raises(UserError, match="has no keyword `positions`"):
        spec(flexivit, positions=3)
    assert [layout.name for layout in layouts_of(MODEL)] == ["timm", "big_vision"]


def test_sizes_are_read_from_the_arrays():
    arrays = {"embedding/kernel": np.zeros((32, 32, 3, 8)), "pos_embedding": np.zeros((1, 49, 8))}
    assert sizes_of(arrays) == {"kernel_size": 32, "position_grid": 7}
    timm = {"patch_embed.proj.weight": np.zeros((8, 3, 8, 6)), "pos_embed": np.zeros((1, 9, 8))}
    assert sizes_of(timm) == {"kernel_size": (8, 6), "position_grid": 3}
    with pytest.raises(UserError, match="48 positions, which are no square"):
        sizes_of(arrays | {"pos_embedding": np.zeros((1, 48, 8))})
    with pytest.raises(UserError, match="expected `embedding/kernel`"):
        sizes_of({"cls": np.zeros(3)})
