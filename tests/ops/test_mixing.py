"""Mixup and CutMix: shares that add up, padding that stays out, the same numbers on eight devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.mixing import cutmix_weights, mix, mixup_weights

B, H, W, C = 8, 6, 10, 3


def random_batch(seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (B, H, W, C), np.uint8)
    return images, np.arange(B, dtype=np.int32), np.ones(B, bool)


@jax.jit
def boxes_of(key):
    return cutmix_weights(key, 1.0, (H, W), B)


@jax.jit
def shares_of(key):
    return mixup_weights(key, 0.2, B)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_mixup_keeps_the_larger_share_and_one_share_per_batch(seed):
    weights = np.asarray(shares_of(jax.random.key(seed)))
    assert weights.shape == (B, 1, 1, 1)
    assert len(np.unique(weights)) == 1
    assert 0.5 <= weights[0] <= 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_cutmix_exchanges_one_box_and_the_label_share_counts_its_pixels(seed):
    weights = np.asarray(boxes_of(jax.random.key(seed)))
    assert set(np.unique(weights)) <= {0.0, 1.0}
    rows, columns = np.nonzero(weights[0, :, :, 0] == 0)
    box_area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) if rows.size else 0
    assert box_area == rows.size
    mixed = mix(*random_batch(), weights)
    np.testing.assert_allclose(mixed.label_share, 1 - box_area / (H * W), rtol=1e-6)


def test_each_image_is_mixed_with_the_one_before_it():
    images, labels, mask = random_batch()
    mixed = mix(images, labels, mask, jnp.full((B, 1, 1, 1), 0.75))
    expected = 0.75 * images.astype(np.float32) + 0.25 * np.roll(images, 1, axis=0).astype(np.float32)
    np.testing.assert_allclose(mixed.images, expected, rtol=1e-6)
    np.testing.assert_array_equal(mixed.partner_labels, np.roll(labels, 1))
    np.testing.assert_allclose(mixed.label_share, 0.75)


def test_box_covers_the_drawn_share_when_nothing_is_cut_off():
    # With alpha this large the share is a half, so a centred box has sides of sqrt(1/2).
    draw = jax.jit(lambda key: cutmix_weights(key, 1e6, (100, 100), 200, per_example=True).mean((1, 2, 3)))
    share = draw(jax.random.key(0))
    side = np.sqrt(0.5)
    assert np.min(share) == pytest.approx(1 - side**2, abs=0.02)
    # A corner keeps a quarter of the box: 1 - 0.5 / 4 is the least that can be exchanged.
    assert np.max(share) <= 1 - side**2 / 4 + 0.02


def test_a_draw_per_example_differs_between_examples():
    @jax.jit
    def draw(key):
        return mixup_weights(key, 1.0, B, per_example=True), cutmix_weights(key, 1.0, (H, W), B, per_example=True)

    for drawn in draw(jax.random.key(1)):
        assert len(np.unique(np.asarray(drawn).reshape(B, -1), axis=0)) > 1


@pytest.mark.parametrize("padding", [[7], [0, 1], [2, 5], list(range(8))])
def test_padding_never_reaches_a_real_image(padding):
    images, labels, mask = random_batch()
    mask[padding] = False
    weights = jnp.full((B, 1, 1, 1), 0.6)
    other = images.copy()
    other[padding] = 255 - other[padding]
    mixed, changed = (mix(pixels, labels, mask, weights) for pixels in (images, other))
    np.testing.assert_array_equal(mixed.images[mask], changed.images[mask])
    lonely = mask & ~np.roll(mask, 1)
    np.testing.assert_array_equal(mixed.images[lonely], images[lonely].astype(np.float32))
    np.testing.assert_array_equal(mixed.label_share[lonely], 1)


def test_eight_devices_mix_as_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images, labels, mask = random_batch()
    weights = np.random.default_rng(1).integers(0, 2, (B, H, W, 1)).astype(np.float32)
    step = jax.jit(lambda *batch: mix(*batch, weights))
    alone = step(images, labels, mask)
    sharded = step(*(jax.device_put(array, rows) for array in (images, labels, mask)))
    assert len(sharded.images.sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, alone, sharded)
