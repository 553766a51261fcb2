import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.segments import gather_rows, inverse_rows, segment_mask, segment_mean, segment_softmax, slot_mask

SEGMENTS = np.array([[1, 1, 2, 0], [0, 0, 0, 0]], np.int32)


def test_mask_joins_tokens_of_one_image_and_no_padding():
    mask = np.asarray(segment_mask(SEGMENTS, SEGMENTS))
    expected = np.zeros((2, 4, 4), bool)
    expected[0, :2, :2] = expected[0, 2, 2] = True
    np.testing.assert_array_equal(mask, expected)


def test_slots_are_segments_counted_from_zero():
    np.testing.assert_array_equal(slot_mask(SEGMENTS, 3)[0], [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_softmax_sums_to_one_over_each_image_and_empty_slots_are_zero():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)
    weights = np.asarray(segment_softmax(logits, SEGMENTS, 3))
    np.testing.assert_allclose(weights[0].sum(-1), [[1, 1, 0]] * 3, atol=1e-6)
    np.testing.assert_allclose(weights[0, :, 0, :2], jax.nn.softmax(logits[0, :, :2]), atol=1e-6)
    assert not weights[1].any()


def test_softmax_has_finite_gradients_for_huge_logits_and_empty_rows():
    logits = jnp.asarray([[[3e4, -3e4, 1e4, 3e38]], [[1.0, 2.0, 3.0, 4.0]]])
    gradient = jax.grad(lambda x: (segment_softmax(x, SEGMENTS, 3) * jnp.arange(4.0)).sum())(logits)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[SEGMENTS[:, None] == 0].any()


def test_mean_is_of_the_images_own_tokens():
    tokens = np.arange(8.0, dtype=np.float32).reshape(2, 4, 1)
    np.testing.assert_allclose(np.asarray(segment_mean(tokens, SEGMENTS, 3))[..., 0], [[0.5, 2, 0], [0, 0, 0]])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gather_has_autodiffs_gradient(seed):
    rng = np.random.default_rng(seed)
    take = np.stack([rng.permutation(9)[:6] for _ in range(2)]).astype(np.int32)
    take[take > 6] = 7  # rows 7 and 8 do not exist: 7 stands for none
    rows = jnp.asarray(rng.standard_normal((2, 7, 3)), jnp.float32)
    weight = jnp.asarray(rng.standard_normal((2, 6, 3)), jnp.float32)
    back = inverse_rows(take, 7)

    def plain(rows):
        filled = jnp.concatenate([rows, jnp.zeros((2, 1, 3))], axis=1)
        return jnp.take_along_axis(filled, take[..., None], axis=1)

    np.testing.assert_array_equal(gather_rows(rows, take, back), plain(rows))
    ours = jax.grad(lambda x: (gather_rows(x, take, back) * weight).sum())(rows)
    np.testing.assert_array_equal(ours, jax.grad(lambda x: (plain(x) * weight).sum())(rows))
