"""The losses of `ops.contrastive` without the B x B matrix, on one device or across many.

Each device keeps its own pairs. Its texts go round all devices (`lax.ppermute`), and each device compares its images
with the texts that visit it, `chunk` at a time, adding up what a normaliser needs: the largest logit and the sum of
exponentials so far. A device never holds more than `local x chunk` logits. Texts take along the sums of their own
normaliser, and on the way back their gradient, so one round does for both directions. NaViT trains so (Dehghani et al.,
2023, arXiv:2307.06304, section 3.3 and appendix B.2, after Mustafa et al., 2023).

The devices are those of the mesh in context (`jax.set_mesh`, or `jax.sharding.use_abstract_mesh` under `jit`; the
trainer does it), along the axes over which the pairs are cut. Without a mesh there is one device.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vitjax.arrays import Array, Bool, Float, Tree
from vitjax.errors import UserError
from vitjax.ops.contrastive import pair_logits
from vitjax.ops.segments import MASKED

__all__ = [
    "PairLoss",
    "SigmoidPairs",
    "SoftmaxPairs",
    "chunked_sigmoid_pair_losses",
    "chunked_softmax_pair_losses",
]

_ROWS = ("data", "fsdp")


def chunked_softmax_pair_losses(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    mask: Bool[Array, "B"],
    scale: Float[Array, ""],
    *,
    chunk: int = 1024,
    axes: tuple[str, ...] = _ROWS,
) -> Float[Array, "B"]:
    """`ops.contrastive.softmax_pair_losses`, to rounding, in value and gradient.

    Args:
        images: unit vectors.
        texts: unit vectors.
        mask: True = real.
        scale: inverse temperature.
        chunk: texts that a device compares its images with at a time; need not divide anything.
        axes: of the mesh, over which B is cut.

    Raises:
        UserError: `chunk` is not positive, or the devices do not divide B.
    """
    return _softmax(_ring(chunk, axes, len(mask)), _pairs(images, texts, mask, scale, bias=jnp.float32(0.0)))


def chunked_sigmoid_pair_losses(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    mask: Bool[Array, "B"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    chunk: int = 1024,
    axes: tuple[str, ...] = _ROWS,
) -> Float[Array, "B"]:
    """`ops.contrastive.sigmoid_pair_losses`, to rounding, in value and gradient; see `chunked_softmax_pair_losses`."""
    return _sigmoid(_ring(chunk, axes, len(mask)), _pairs(images, texts, mask, scale, bias=bias))


@runtime_checkable
class PairLoss(Protocol):
    """What compares all images with all texts."""

    def __call__(
        self,
        images: Float[Array, "B D"],
        texts: Float[Array, "B D"],
        mask: Bool[Array, "B"],
        scale: Float[Array, ""],
        bias: Float[Array, ""] | None = None,
    ) -> Float[Array, "B"]:
        """One loss per pair, 0 for fake ones."""
        ...


@dataclass(frozen=True)
class SoftmaxPairs:
    """`chunked_softmax_pair_losses` with its setting."""

    chunk: int = 1024

    def __call__(
        self,
        images: Float[Array, "B D"],
        texts: Float[Array, "B D"],
        mask: Bool[Array, "B"],
        scale: Float[Array, ""],
        bias: Float[Array, ""] | None = None,
    ) -> Float[Array, "B"]:
        """One loss per pair, 0 for fake ones."""
        if bias is not None:
            raise UserError("SoftmaxPairs: a bias changes no softmax; leave `initial_bias` of the model at None")
        return chunked_softmax_pair_losses(images, texts, mask, scale, chunk=self.chunk)


@dataclass(frozen=True)
class SigmoidPairs:
    """`chunked_sigmoid_pair_losses` with its setting."""

    chunk: int = 1024

    def __call__(
        self,
        images: Float[Array, "B D"],
        texts: Float[Array, "B D"],
        mask: Bool[Array, "B"],
        scale: Float[Array, ""],
        bias: Float[Array, ""] | None = None,
    ) -> Float[Array, "B"]:
        """One loss per pair, 0 for fake ones."""
        if bias is None:
            raise UserError(
                "SigmoidPairs: needs a bias; give the model `initial_bias=-10.0`, with which the paper starts"
            )
        return chunked_sigmoid_pair_losses(images, texts, mask, scale, bias, chunk=self.chunk)


class _Pairs(NamedTuple):
    images: Any
    texts: Any
    mask: Any
    scale: Any
    bias: Any


def _pairs(images: Array, texts: Array, mask: Array, scale: Array, *, bias: Array) -> _Pairs:
    images, texts, scale, bias = (jnp.asarray(array, jnp.float32) for array in (images, texts, scale, bias))
    return _Pairs(images, texts, jnp.asarray(mask), scale, bias)


# ---------------------------------------------------------------------------------------------------- devices


class _Ring(NamedTuple):
    """What goes round where: `axes` of the mesh with more than one device, `size` devices in all."""

    chunk: int
    axes: tuple[str, ...]
    size: int


def _ring(chunk: int, axes: tuple[str, ...], pairs: int) -> _Ring:
    if chunk < 1:
        raise UserError(f"`chunk` (={chunk}) is at least 1: texts that are compared at a time")
    shape = jax.sharding.get_abstract_mesh().shape  # without a mesh it is empty
    in_use = tuple(axis for axis in axes if shape.get(axis, 1) > 1)
    size = math.prod(shape[axis] for axis in in_use)
    if pairs % size:
        raise UserError(f"{pairs} pairs cannot be cut over the {size} devices of the mesh; use a multiple of {size}")
    return _Ring(chunk, in_use, size)


def _on_each(ring: _Ring, function: Callable[..., Any], *trees: Tree) -> Any:
    """Calls `function` on every device with its part of the arrays; scalars are whole everywhere."""
    if ring.size == 1:
        return function(*trees)
    rows = PartitionSpec(ring.axes)
    specs = jax.tree.map(lambda array: rows if array.ndim else PartitionSpec(), trees)
    # The check would want the start of every sum marked as different on each device; no gradient is derived from this.
    return jax.shard_map(function, in_specs=specs, out_specs=rows, check_vma=False)(*trees)


def _around(
    ring: _Ring, visit: Callable[[Tree, Tree], tuple[Tree, Tree]], own: Tree, guests: Tree
) -> tuple[Tree, Tree]:
    """Lets each device's guests visit all devices, a chunk at a time; both may change on the way.

    Args:
        ring: devices and chunk.
        visit: (own, a chunk of guests) to the same, changed.
        own: stays on the device.
        guests: `[n, ...]`, filled up with zeros to whole chunks (which in a mask is False); at home again in the end.
    """
    count = len(jax.tree.leaves(guests)[0])
    chunk = min(ring.chunk, count)

    def cut(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, ((0, -count % chunk), *((0, 0),) * (array.ndim - 1)))
        return padded.reshape(-1, chunk, *array.shape[1:])

    def stay_and_go(pair: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
        own, guests = jax.lax.scan(visit, *pair)
        onwards = [(device, (device + 1) % ring.size) for device in range(ring.size)]
        return (own, jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, ring.axes, onwards), guests)), None

    pair = (own, jax.tree.map(cut, guests))
    if ring.size == 1:
        own, guests = jax.lax.scan(visit, *pair)
    else:
        (own, guests), _ = jax.lax.scan(stay_and_go, pair, length=ring.size)
    return own, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], guests)


# ---------------------------------------------------------------------------------------------------- gradients


def _gradients(ring: _Ring, rule: Callable[[Any, Any, Any], Any], pairs: _Pairs, known: Tree) -> tuple[Any, ...]:
    """Gradients of images, texts, scale and bias; of the last two `[1]`, this device's share.

    Args:
        ring: devices and chunk.
        rule: (logits, own known, known of the guests) to the gradient of the logits, where both sides are real.
        pairs: this device's.
        known: arrays with an entry per pair.
    """

    def visit(own: tuple[Any, Any, Any], guests: Tree) -> tuple[Tree, Tree]:
        d_images, d_scale, d_bias = own
        texts, real, theirs, d_texts = guests
        similarity = pair_logits(pairs.images, texts)
        d_logits = rule(pairs.scale * similarity + pairs.bias, known, theirs)
        d_logits = jnp.where(pairs.mask[:, None] & real[None, :], d_logits, 0.0)
        d_images += pairs.scale * jnp.einsum("bc,cd->bd", d_logits, texts, precision="highest")
        d_texts += pairs.scale * jnp.einsum("bc,bd->cd", d_logits, pairs.images, precision="highest")
        own = (d_images, d_scale + jnp.sum(d_logits * similarity)[None], d_bias + jnp.sum(d_logits)[None])
        return own, (texts, real, theirs, d_texts)

    nothing, none = jnp.zeros_like(pairs.images), jnp.zeros(1, jnp.float32)
    guests = (pairs.texts, pairs.mask, known, nothing)
    (d_images, d_scale, d_bias), (*_, d_texts) = _around(ring, visit, (nothing, none, none), guests)
    return d_images, d_texts, d_scale, d_bias


def _of_all(ring: _Ring, rule: Callable[[Any, Any, Any], Any], pairs: _Pairs, known: Tree, weights: Any) -> _Pairs:
    """The gradient of all that the rule is about, and of `-Σ_i weights_i l_ii`."""
    gradients = functools.partial(_gradients, ring, rule)
    d_images, d_texts, d_scale, d_bias = _on_each(ring, gradients, pairs, known)
    pulled = weights[:, None] * pairs.texts
    return _Pairs(
        images=d_images - pairs.scale * pulled,
        texts=d_texts - pairs.scale * weights[:, None] * pairs.images,
        mask=None,
        scale=d_scale.sum() - jnp.sum(pulled * pairs.images),
        bias=d_bias.sum() - weights.sum(),
    )


# ---------------------------------------------------------------------------------------------------- softmax


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax(ring: _Ring, pairs: _Pairs) -> Any:
    return _softmax_forward(ring, pairs)[0]


def _softmax_forward(ring: _Ring, pairs: _Pairs) -> tuple[Any, Any]:
    of_images, of_texts = _on_each(ring, functools.partial(_normalisers, ring), pairs)
    own = pairs.scale * jnp.sum(pairs.images * pairs.texts, axis=1)
    losses = jnp.where(pairs.mask, (of_images + of_texts) / 2 - own, 0.0)
    return losses, (pairs, of_images, of_texts)


def _normalisers(ring: _Ring, pairs: _Pairs) -> tuple[Any, Any]:
    """Log-sum-exp of each image's logits over all texts, and of each text's over all images."""

    def visit(own: Tree, guests: Tree) -> tuple[Tree, Tree]:
        texts, real, sums = guests
        logits = pairs.scale * pair_logits(pairs.images, texts)
        own = _add_exponentials(own, jnp.where(real[None, :], logits, MASKED), axis=1)
        sums = _add_exponentials(sums, jnp.where(pairs.mask[:, None], logits, MASKED), axis=0)
        return own, (texts, real, sums)

    count = len(pairs.mask)
    empty = (jnp.full(count, MASKED, jnp.float32), jnp.zeros(count, jnp.float32))
    own, (_, _, sums) = _around(ring, visit, empty, (pairs.texts, pairs.mask, empty))
    return _log_sum(own), _log_sum(sums)


def _add_exponentials(sums: tuple[Any, Any], logits: Any, axis: int) -> tuple[Any, Any]:
    """(largest logit so far, sum of exponentials relative to it), with more logits along `axis`."""
    largest = jnp.maximum(sums[0], logits.max(axis=axis))
    total = sums[1] * jnp.exp(sums[0] - largest) + jnp.exp(logits - jnp.expand_dims(largest, axis)).sum(axis=axis)
    return largest, total


def _log_sum(sums: tuple[Any, Any]) -> Any:
    return sums[0] + jnp.log(sums[1])


def _softmax_backward(ring: _Ring, kept: Any, gradient: Any) -> tuple[_Pairs]:
    pairs, of_images, of_texts = kept
    weights = jnp.where(pairs.mask, gradient, 0.0)

    def rule(logits: Any, own: Any, guests: Any) -> Any:
        rows = own[2][:, None] * jnp.exp(logits - own[0][:, None])
        columns = guests[2][None, :] * jnp.exp(logits - guests[1][None, :])
        return (rows + columns) / 2

    return (_of_all(ring, rule, pairs, (of_images, of_texts, weights), weights),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


# ---------------------------------------------------------------------------------------------------- sigmoid


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(ring: _Ring, pairs: _Pairs) -> Any:
    return _sigmoid_forward(ring, pairs)[0]


def _sigmoid_forward(ring: _Ring, pairs: _Pairs) -> tuple[Any, _Pairs]:
    refused = _on_each(ring, functools.partial(_refusals, ring), pairs)
    own = pairs.scale * jnp.sum(pairs.images * pairs.texts, axis=1) + pairs.bias
    return jnp.where(pairs.mask, refused - own, 0.0), pairs


def _refusals(ring: _Ring, pairs: _Pairs) -> Any:
    """Each image's Σ_j softplus(l_ij) over all real texts."""

    def visit(own: Any, guests: Tree) -> tuple[Any, Tree]:
        texts, real = guests
        losses = jax.nn.softplus(pairs.scale * pair_logits(pairs.images, texts) + pairs.bias)
        return own + jnp.where(real[None, :], losses, 0.0).sum(axis=1), guests

    return _around(ring, visit, jnp.zeros(len(pairs.mask), jnp.float32), (pairs.texts, pairs.mask))[0]


def _sigmoid_backward(ring: _Ring, pairs: _Pairs, gradient: Any) -> tuple[_Pairs]:
    weights = jnp.where(pairs.mask, gradient, 0.0)

    def rule(logits: Any, own: Any, guests: Any) -> Any:
        return own[:, None] * jax.nn.sigmoid(logits)

    return (_of_all(ring, rule, pairs, weights, weights),)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)
