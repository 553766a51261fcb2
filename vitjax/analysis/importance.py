"""How much the loss depends on each channel of queries, keys, values and MLPs: Taylor importance.

Molchanov et al. 2019 (arXiv:1906.10771), as EfficientViT uses it (Liu et al. 2023, section 2.3): removing a channel
changes the loss, to first order, by the sum of gradient times weight over the weights that make it. Gradients are those
of evaluation: behind a batch norm in training that sum is 0, whatever the channel is worth.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Batch, Float, Tree
from vitjax.errors import UserError
from vitjax.layers.channels import Channels, transformer_channels
from vitjax.paths import flatten

__all__ = [
    "Importance",
    "absolute_sum",
    "channels_of",
    "kept_shares",
    "square_of_sum",
    "sum_of_absolutes",
    "taylor_importance",
]

Importance = dict[str, dict[str, np.ndarray]]
"""Kind of channel ("query", "key", "value", "hidden") -> place in the model -> a number for each channel."""


def absolute_sum(products: Float[Array, "weights channels"]) -> Float[Array, "channels"]:
    """`|sum(gradient * weight)|`: the first-order change of the batch's loss."""
    return jnp.abs(jnp.asarray(products).sum(axis=0))


def sum_of_absolutes(products: Float[Array, "weights channels"]) -> Float[Array, "channels"]:
    """`sum(|gradient * weight|)`: weights of a channel cannot cancel."""
    return jnp.abs(jnp.asarray(products)).sum(axis=0)


def square_of_sum(products: Float[Array, "weights channels"]) -> Float[Array, "channels"]:
    """`sum(gradient * weight)²`, Molchanov's own."""
    return jnp.square(jnp.asarray(products).sum(axis=0))


def channels_of(module: nn.Module) -> tuple[Channels, ...]:
    """Where the module makes channels: what its `channel_groups()` says, or the rules of every transformer."""
    own = getattr(module, "channel_groups", None)
    return own() if own is not None else transformer_channels(getattr(module, "num_heads", 1))


def taylor_importance(
    module: nn.Module,
    variables: Tree,
    task: Any,
    batches: Iterable[Batch],
    *,
    measure: Callable[..., Array] = absolute_sum,
) -> Importance:
    """The importance of every channel, added up over batches.

    Args:
        module: any model whose channels `channels_of` knows.
        variables: `{"params": ..., ...}`.
        task: whose loss counts.
        batches: prepared as for evaluation; more, and smaller, tell more.
        measure: of the products of gradient and weight of each channel: one of this file's.

    Raises:
        UserError: the module has no channels of a kind that is known, or there is no batch.
    """
    groups = _weights_of(channels_of(module), list(flatten(variables)))
    if not groups:
        raise UserError(
            f"{type(module).__name__}: no channels are known in it; expected attention/query, attention/key, "
            "attention/value or mlp/expand among its parameters, or a method `channel_groups` (a fused model has none)"
        )

    @jax.jit
    def add(total: Any, variables: Tree, batch: Batch) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params: Tree) -> jax.Array:
            return task.loss(module.apply({"params": params, **rest}, **task.inputs(batch), train=False), batch)[0]

        gradients = flatten({"params": jax.grad(loss)(variables["params"])})
        weights = flatten({"params": variables["params"]})
        products = {path: weights[path] * gradients[path] for path in weights}
        return [
            so_far + measure(jnp.concatenate([_by_channel(products[path], part) for path in paths]))
            for so_far, (_, _, part, paths) in zip(total, groups, strict=True)
        ]

    total: Any = [0.0] * len(groups)
    for number, batch in enumerate(batches):
        total = add(total if number else jax.tree.map(jnp.float32, total), variables, batch)
    if not isinstance(total[0], jax.Array):
        raise UserError("taylor_importance: `batches` is empty")
    found: Importance = {}
    for values, (kind, place, _, _) in zip(total, groups, strict=True):
        found.setdefault(kind, {})[place] = np.asarray(values)
    return found


Group = tuple[str, str, tuple[int, int | None], list[str]]


def _weights_of(rules: Iterable[Channels], paths: list[str]) -> list[Group]:
    """(kind, place, part, paths of the parameters), by rule and then in natural order of places."""
    found: list[Group] = []
    for rule in rules:
        places: dict[str, list[str]] = {}
        for path in paths:
            if (match := re.fullmatch(rule.weights, path)) is not None:
                places.setdefault(match["place"], []).append(path)
        found += [(rule.kind, place, rule.part, places[place]) for place in sorted(places, key=_natural)]
    return found


def _natural(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _by_channel(products: Array, part: tuple[int, int | None]) -> Array:
    return products.reshape(-1, products.shape[-1])[:, slice(*part)]


def kept_shares(importance: Mapping[str, Mapping[str, np.ndarray]], keep: float) -> dict[str, dict[str, float]]:
    """The share of channels that each place keeps if the most important ones of the whole model are kept.

    Args:
        importance: of `taylor_importance`; all kinds in it compete.
        keep: share of all channels, 0 to 1.

    Returns:
        Kind -> place -> share of its channels that stay: the paper's figure 4.
    """
    scores = np.concatenate([values for places in importance.values() for values in places.values()])
    count = round(keep * scores.size)
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    shares: dict[str, dict[str, float]] = {}
    start = 0
    for kind, places in importance.items():
        for place, values in places.items():
            shares.setdefault(kind, {})[place] = float(kept[start : start + values.size].mean())
            start += values.size
    return shares
