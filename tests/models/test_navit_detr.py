"""DETR on packed rows: an image's objects are its own, whatever is packed with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.packed_rows import ALONE, EMPTY, SHUFFLED, SLOTS, TOGETHER, TRUNK, pack, pictures, places
from vitjax.config import build, describe, from_json, spec, to_json
from vitjax.config import factory as factory_of
from vitjax.errors import UserError
from vitjax.models.navit import NaViT
from vitjax.models.navit_detr import PackedDETR

SIZES = {"num_classes": 3, "num_queries": 4, "width": 16, "num_heads": 2, "mlp_width": 24, "decoder_depth": 2}


def tiny(**changes):
    return PackedDETR(**{**SIZES, "trunk": functools.partial(NaViT, **TRUNK), "dropout_rate": 0.0, **changes})


@functools.cache
def variables():
    """Random ones of every parameter: nothing starts at zero."""
    made = jax.device_get(jax.jit(tiny().init)(jax.random.key(0), **pack(TOGETHER, pictures())))
    return jax.tree.map(lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), made)


run = jax.jit(lambda variables, batch: tiny().apply(variables, **batch))


def by_image(rows, images, **keywords):
    """`{number: {"logits": [L, Q, 4], "boxes": [L, Q, 4]}}`."""
    found = jax.device_get(run(variables(), pack(rows, images, **keywords)))
    assert found["logits"].shape == (2, len(rows) * SLOTS, 4, 4)
    return {
        number: {name: leaf[:, row * SLOTS + slot] for name, leaf in found.items()}
        for number, (row, slot) in places(rows).items()
    }


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_objects_are_the_same_alone_and_in_any_company(keep):
    images = pictures(keep)
    alone = by_image(ALONE, images)
    assert len({float(found["boxes"][-1, 0, 0]) for found in alone.values()}) == 4
    for others in (by_image(TOGETHER, images), by_image(SHUFFLED, images, padding=30.0)):
        for number, expected in alone.items():
            for name, leaf in expected.items():
                np.testing.assert_allclose(others[number][name], leaf, atol=2e-5)


def test_no_gradient_crosses_from_image_to_image():
    batch, given = pack(TOGETHER, pictures()), variables()

    def of_second(patches):
        found = tiny().apply(given, **batch | {"patches": patches})
        return sum(jnp.sum(leaf[:, 1] ** 2) for leaf in found.values())

    gradient = np.asarray(jax.jit(jax.grad(of_second))(batch["patches"]))
    mine = batch["segments"] == np.array([2, 0, 0])[:, None]
    mine[1:] = False
    assert np.abs(gradient[mine]).max() > 1e-4
    assert not gradient[~mine].any()


@pytest.mark.parametrize("rows", [EMPTY, TOGETHER], ids=["empty", "with empty slots"])
def test_empty_slots_and_rows_are_finite_in_values_and_gradients(rows):
    batch = pack(rows, pictures())

    def total(variables):
        return sum(jnp.sum(leaf**2) for leaf in tiny().apply(variables, **batch).values())

    value, gradient = jax.jit(jax.value_and_grad(total))(variables())
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_queries_of_two_slots_do_not_meet():
    # With one image in the row, the queries of the empty slots see other things; the image's must not notice.
    images = pictures()
    one, three = by_image([[1]], images), by_image([[0, 1, 2]], images)
    np.testing.assert_allclose(one[1]["logits"], three[1]["logits"], atol=2e-5)


def test_positions_are_of_the_image_s_own_grid():
    # The same patches at other places, or in a larger grid, are another picture to the decoder alone.
    batch = pack([[0]], pictures())
    flat = jax.tree.map(np.zeros_like, variables()["params"]["backbone"]["position_embedding"])
    params = variables()["params"]
    blind = {"params": params | {"backbone": params["backbone"] | {"position_embedding": flat}}}
    apply = jax.jit(lambda batch: tiny().apply(blind, **batch)["boxes"][:, 0])
    before = apply(batch)
    larger = apply(batch | {"grid_sizes": batch["grid_sizes"] + 1})
    assert np.abs(before - larger).max() > 1e-4


def test_it_is_stored_and_says_its_attention():
    node = spec(PackedDETR, trunk=factory_of(NaViT, **TRUNK), **SIZES)
    made = build(from_json(to_json(node)))
    assert to_json(describe(build(describe(made)))) == to_json(describe(made))
    assert made.describe(**pack(ALONE, pictures())).startswith("attention: cpu segment mask")


def test_what_cannot_be_is_refused():
    batch = pack(ALONE, pictures())
    with pytest.raises(UserError, match="`num_queries`"):
        tiny(num_queries=0)
    with pytest.raises(UserError, match="`num_classes`"):
        tiny(num_classes=None).init(jax.random.key(0), **batch)
    with pytest.raises(UserError, match="divisible by 4"):
        jax.eval_shape(lambda: tiny(width=18, num_heads=2).init(jax.random.key(0), **batch))
