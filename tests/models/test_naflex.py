"""NaFlexViT: what is packed beside an image changes nothing of it, with class and register tokens too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from tests.models.test_navit import ROWS, batch_of
from vitjax.errors import UserError
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side
from vitjax.models import create_model, list_models
from vitjax.models.naflex import AttentionPooling, ClassTokenPooling, NaFlexViT

POOL = functools.partial(AttentionPooling, num_heads=2, mlp_width=24, include_prefix=True)
SETTINGS = {"num_classes": 5, "patch_size": 2, "table_grid": (3, 3), "width": 16, "depth": 1, "num_heads": 2}
SETTINGS |= {"mlp_width": 24, "zero_init_head": False, "use_class_token": True, "num_registers": 2, "pool": POOL}
SETTINGS |= {"layer_scale": 0.5}


@functools.cache
def made():
    model = NaFlexViT(**SETTINGS)
    batch, _ = batch_of()
    # Drawn away from where they start, so that what they do is seen.
    variables = jax.jit(functools.partial(model.init, **batch))(jax.random.key(0))
    return model, jax.tree.map(lambda leaf: leaf + 0.1 * np.sin(np.arange(leaf.size)).reshape(leaf.shape), variables)


@pytest.mark.parametrize("with_buckets", [True, False])
def test_packed_equals_one_by_one(with_buckets):
    model, variables = made()
    batch, buckets = batch_of()
    run = jax.jit(model.apply)
    outputs = run(variables, **batch, buckets=buckets if with_buckets else None)
    seen = []
    for row, members in enumerate(ROWS):
        for slot, image in enumerate(members):
            alone, its_buckets = batch_of([[image], [], []])
            expected = run(variables, **alone, buckets=its_buckets if with_buckets else None)[0, 0]
            np.testing.assert_allclose(outputs[row, slot], expected, atol=1e-5)
            seen.append(expected)
    assert np.ptp(seen, axis=0).min() > 1e-3


def test_padding_and_neighbours_have_no_gradient_and_empty_rows_no_nan():
    model, variables = made()
    batch, _ = batch_of()

    def loss(patches, variables):
        return (model.apply(variables, **{**batch, "patches": patches})[0, 1] ** 2).sum()

    by_patches, by_variables = jax.jit(jax.grad(loss, argnums=(0, 1)))(batch["patches"], variables)
    own = (batch["segments"] == 2) & (np.arange(3) == 0)[:, None]
    assert np.abs(by_patches[own]).min() > 0
    assert np.abs(by_patches[~own]).max() == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_variables))
    assert np.abs(by_variables["params"]["register_tokens"]).min() > 0


def test_the_longer_side_keeps_the_aspect_ratio_and_own_sides_do_not():
    places, square = (np.stack(np.indices(grid), -1).reshape(1, -1, 2) for grid in ((2, 4), (4, 4)))

    @jax.jit
    def run(places, square):
        def vectors(module, positions, grid):
            arguments = (positions, jnp.broadcast_to(jnp.array(grid), positions.shape), (3, 3), 4)
            return module.apply(module.init(jax.random.key(1), *arguments), *arguments)[0].reshape(-1, 4, 4)

        kinds = (ResampledGrid, ResampledAxes)
        kept = [(vectors(kind(sides=longer_side), places, (2, 4)), vectors(kind(), square, (4, 4))) for kind in kinds]
        return kept, [vectors(kind(), places, (2, 4)) for kind in kinds]

    kept, stretched = run(places, square)
    for (part, whole), other in zip(kept, stretched, strict=True):
        np.testing.assert_allclose(part, whole[:2], atol=1e-6)
        assert np.abs(other - whole[:2]).max() > 1e-3


def test_sixteen_bits_and_no_classes():
    batch, _ = batch_of()
    model, variables = made()
    short = model.clone(dtype="bfloat16", num_classes=0)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    run = functools.partial(short.apply, **batch, mutable="intermediates")
    features, stages = jax.eval_shape(run, {"params": params})
    assert features.shape == (3, 4, 16)
    assert stages["intermediates"]["normed"][0].dtype == "bfloat16"


@pytest.mark.slow
def test_it_runs_as_an_nnx_module():
    batch, _ = batch_of()
    wrapped = bridge.ToNNX(made()[0], rngs=nnx.Rngs(0)).lazy_init(**batch)
    assert wrapped(**batch).shape == (3, 4, 5)


def test_names_and_bad_settings():
    names = list_models("naflexvit_*")
    assert len(names) == 8
    siglip = create_model("naflexvit_so400m_patch16_siglip")
    assert (siglip.width, siglip.mlp_width, siglip.pool().mlp_width) == (1152, 4304, 4304)
    with pytest.raises(UserError, match="`table_grid`"):
        NaFlexViT(**{**SETTINGS, "table_grid": (0, 3)})
    batch, _ = batch_of()
    for wrong, message in (
        ({"patch_size": 5}, "`patch_size`"),
        ({"num_classes": None}, "`num_classes`"),
        ({"pool": ClassTokenPooling, "use_class_token": False, "num_registers": 0}, "`use_class_token`"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(functools.partial(NaFlexViT(**{**SETTINGS, **wrong}).init, **batch), jax.random.key(0))
