"""The contrastive losses as written, against sums spelled out; and in chunks across devices, against themselves."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from vitjax.errors import UserError
from vitjax.ops.contrastive import sigmoid_pair_losses, softmax_pair_losses
from vitjax.ops.contrastive_chunks import chunked_sigmoid_pair_losses, chunked_softmax_pair_losses

DENSE = {"softmax": softmax_pair_losses, "sigmoid": sigmoid_pair_losses}
CHUNKED = {"softmax": chunked_softmax_pair_losses, "sigmoid": chunked_sigmoid_pair_losses}


def pairs(count=24, width=5, masked=7, seed=0):
    """Vectors that are no unit vectors, so that no gradient is zero by chance; some pairs are fake, and huge."""
    generator = np.random.default_rng(seed)
    images, texts = generator.normal(size=(2, count, width)).astype(np.float32)
    mask = np.ones(count, bool)
    mask[generator.permutation(count)[:masked]] = False
    images[~mask] *= 40
    return images, texts, mask


def scalars(kind):
    return (
        (np.array(1.7, np.float32),) if kind == "softmax" else (np.array(1.7, np.float32), np.array(-2.0, np.float32))
    )


def value_and_gradients(function, kind, data, weights):
    """Of a weighted sum: every pair's own value counts."""
    images, texts, mask = data

    def total(images, texts, *scalars):
        losses = function(images, texts, mask, *scalars)
        return jnp.sum(losses * weights), losses

    given = (images, texts, *scalars(kind))
    run = jax.jit(jax.value_and_grad(total, argnums=tuple(range(len(given))), has_aux=True))
    (_, losses), gradients = run(*given)
    return losses, gradients


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_each_loss_is_the_sum_that_its_paper_writes(kind):
    images, texts, mask = pairs(count=6, masked=2)
    real = np.flatnonzero(mask)
    scale, bias = 1.7, -2.0 if kind == "sigmoid" else 0.0
    logits = {(i, j): scale * float(images[i] @ texts[j]) + bias for i in real for j in real}

    def softmax(i):
        rows, columns = (
            math.log(sum(math.exp(logits[key(j)]) for j in real)) for key in (lambda j: (i, j), lambda j: (j, i))
        )
        return (rows + columns) / 2 - logits[i, i]

    def sigmoid(i):
        signs = {j: 1 if i == j else -1 for j in real}
        return -sum(math.log(1 / (1 + math.exp(-signs[j] * logits[i, j]))) for j in real)

    expected = [{"softmax": softmax, "sigmoid": sigmoid}[kind](i) if mask[i] else 0.0 for i in range(6)]
    np.testing.assert_allclose(DENSE[kind](images, texts, mask, *scalars(kind)), expected, rtol=1e-5)


# Devices and chunk; 24 pairs on 8 devices are 3 each, of which 2 are a chunk and 1 is left over.
@pytest.mark.parametrize(("shape", "chunk"), [((1, 1), 7), ((2, 1), 100), ((4, 2), 2)])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_chunks_across_devices_change_neither_value_nor_gradient(kind, shape, chunk):
    data, weights = pairs(), np.random.default_rng(1).uniform(0.5, 2, 24).astype(np.float32)
    expected, expected_gradients = value_and_gradients(DENSE[kind], kind, data, weights)
    mesh = Mesh(np.array(jax.devices()[: math.prod(shape)]).reshape(*shape, 1), ("data", "fsdp", "tensor"))
    function = functools.partial(CHUNKED[kind], chunk=chunk)
    with jax.set_mesh(mesh):
        losses, gradients = value_and_gradients(function, kind, data, weights)
    np.testing.assert_allclose(losses, expected, rtol=3e-6, atol=3e-6)
    for found, gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-5)
    assert not np.any(losses[~data[2]])
    assert not np.any(gradients[0][~data[2]])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_what_fake_pairs_hold_changes_nothing(kind):
    images, texts, mask = pairs()
    fake = [np.where(mask[:, None], array, value) for array, value in ((images, 1e4), (texts, -1e4))]
    weights = np.ones(24, np.float32)
    function = functools.partial(CHUNKED[kind], chunk=5)
    losses, gradients = value_and_gradients(function, kind, (images, texts, mask), weights)
    others, other_gradients = value_and_gradients(function, kind, (*fake, mask), weights)
    jax.tree.map(np.testing.assert_array_equal, (losses, gradients), (others, other_gradients))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_batch_of_nothing_but_fakes_is_zero(kind):
    images, texts, _ = pairs()
    losses, gradients = value_and_gradients(
        functools.partial(CHUNKED[kind], chunk=5), kind, (images, texts, np.zeros(24, bool)), np.ones(24, np.float32)
    )
    assert not np.any(losses)
    assert all(not np.any(gradient) for gradient in gradients)


def largest_array(jaxpr):
    """Numbers in the largest array of a program, inside of loops and shards."""
    found = [math.prod(variable.aval.shape) for equation in jaxpr.eqns for variable in equation.outvars]
    inner = [value for equation in jaxpr.eqns for value in equation.params.values()]
    inner = [getattr(value, "jaxpr", value) for value in inner]
    return max([*found, *(largest_array(value) for value in inner if hasattr(value, "eqns"))], default=0)


def test_no_device_holds_all_similarities():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(8, 1, 1), ("data", "fsdp", "tensor"))
    count, width, chunk = 256, 4, 8
    vectors, mask = jax.ShapeDtypeStruct((count, width), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.bool_)
    shapes = (vectors, vectors, mask, jax.ShapeDtypeStruct((), jnp.float32))
    with jax.set_mesh(mesh):

        def total(*arrays):
            return chunked_softmax_pair_losses(*arrays, chunk=chunk).sum()

        program = jax.make_jaxpr(jax.grad(total))(*shapes)
    # images and texts themselves; a device's logits are 32 x 8
    assert largest_array(program.jaxpr) == count * width


def test_what_cannot_be_cut_is_refused():
    images, texts, mask = pairs()
    with pytest.raises(UserError, match=r"`chunk` \(=0\)"):
        chunked_softmax_pair_losses(images, texts, mask, np.array(1.0, np.float32), chunk=0)
    mesh = Mesh(np.array(jax.devices()[:5]).reshape(5, 1, 1), ("data", "fsdp", "tensor"))
    with jax.set_mesh(mesh), pytest.raises(UserError, match="24 pairs cannot be cut over the 5 devices"):
        chunked_softmax_pair_losses(images, texts, mask, np.array(1.0, np.float32))
