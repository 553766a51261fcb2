"""Attention whose map is changed on the way."""

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.attention import attend_remapped, dense_attention, reattention


def heads(seed=0, shape=(2, 5, 3, 4)):
    return list(jax.random.normal(jax.random.key(seed), (3, *shape)))


def test_an_unchanged_map_is_attention():
    np.testing.assert_allclose(reattention(*heads(), lambda maps: maps), dense_attention(*heads()), atol=1e-6)


def test_the_changed_map_averages_the_values():
    query, key, value = heads()
    theta = jax.random.normal(jax.random.key(1), (3, 3))
    outputs = reattention(query, key, value, lambda maps: jnp.einsum("bhnm,hg->bgnm", maps, theta), scale=0.7)
    maps = jax.nn.softmax(0.7 * jnp.einsum("bnak,bmak->banm", query, key))
    np.testing.assert_allclose(outputs, jnp.einsum("bhnm,hg,bmgk->bngk", maps, theta, value), atol=1e-5)


def test_probabilities_are_dropped_in_front_of_the_change():
    seen = []

    def note(maps):
        seen.append(maps)
        return maps

    reattention(*heads(), note, dropout_rate=0.5, dropout_key=jax.random.key(0))
    reattention(*heads(), note, dropout_rate=0.5)
    assert 0.2 < float((seen[0] == 0).mean()) < 0.8
    np.testing.assert_allclose(seen[1].sum(-1), 1, atol=1e-5)


def test_the_flat_trunk_is_its_images_one_by_one():
    query, key, value = (x.reshape(10, 3, 4) for x in heads())
    outputs = attend_remapped(2, lambda maps: maps[:, ::-1])(query, key, value, 0.5)
    expected = reattention(*heads(), lambda maps: maps[:, ::-1], scale=0.5)
    np.testing.assert_allclose(outputs.reshape(expected.shape), expected, atol=1e-6)
