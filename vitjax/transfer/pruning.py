"""Structured pruning: a trained model without its least important channels, smaller and at work (section 2.3 of Liu et
al. 2023, after Molchanov et al. 2019).

Whole channels go, with every weight that makes or reads them, so that what is left is a dense model whose sizes are its
field `channel_sizes`: a bundle as any other, which can be saved, loaded, and trained on with
`config.initial = factory(initial_weights, path=FOLDER)` and `config.model = describe(module)`.

Channels compete over the whole model; the heads of an attention keep equally many, for they are one product.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vitjax.analysis.importance import Importance, channels_of
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.layers.channels import Channels
from vitjax.paths import flatten, unflatten

__all__ = ["Chosen", "choose_channels", "cut_variables", "prune"]

Chosen = dict[str, dict[str, np.ndarray]]
"""Unit -> place -> numbers of the channels that stay, rising."""


def prune(bundle: Bundle, importance: Importance, keep: Mapping[str, float]) -> Bundle:
    """A smaller bundle, which computes what the given one computes with the other channels set to 0.

    Args:
        bundle: a trained model whose module has a field `channel_sizes`.
        importance: of its channels, from `analysis.importance.taylor_importance`.
        keep: share of channels that stay, over the whole model, for each unit that is to be pruned: "hidden" of the
            MLPs, "query" (with the keys'), "value". At least one channel of each head and each MLP stays.

    Raises:
        UserError: the model cannot be pruned, or not in that unit, or a share is not in (0, 1].
    """
    module: Any = bundle.module
    if not hasattr(module, "channel_sizes"):
        raise UserError(f"{type(module).__name__} cannot be pruned: it has no field `channel_sizes`; ViT and "
                        "EfficientViT have one")  # fmt: skip
    chosen = choose_channels(channels_of(module), importance, keep)
    sizes = {f"{place}/{unit}": len(kept) for unit, places in chosen.items() for place, kept in places.items()}
    variables = cut_variables(flatten(jax.device_get(bundle.variables)), channels_of(module), chosen)
    smaller = module.clone(channel_sizes=tuple({**dict(module.channel_sizes), **sizes}.items()))
    return dataclasses.replace(
        bundle, module=smaller, make_variables=lambda: unflatten(variables), score=None, metric=None
    )


def choose_channels(rules: tuple[Channels, ...], importance: Importance, keep: Mapping[str, float]) -> Chosen:
    """The channels that stay: the most important of each unit over the whole model, and equally many of each head."""
    known = {rule.unit for rule in rules if rule.unit and rule.kind in importance}
    for unit, share in keep.items():
        if unit not in known:
            raise UserError(f"`keep` has {unit!r}; this model can be pruned in {', '.join(sorted(known)) or 'nothing'}")
        if not 0 < share <= 1:
            raise UserError(f"`keep[{unit!r}]` (={share}) must be above 0 and at most 1")
    chosen: Chosen = {}
    for unit, share in keep.items():
        own = [rule for rule in rules if rule.unit == unit]
        places = importance[own[0].kind]
        scores = {place: np.sum([importance[rule.kind][place] for rule in own], axis=0) for place in places}
        together = np.concatenate(list(scores.values()))
        stays = np.zeros(together.size, bool)
        stays[np.argsort(-together, kind="stable")[: round(share * together.size)]] = True
        ends = np.cumsum([values.size for values in scores.values()])
        counts = [int(part.sum()) for part in np.split(stays, ends[:-1])]
        chosen[unit] = {
            place: _most_important(values, count, own[0].heads)
            for (place, values), count in zip(scores.items(), counts, strict=True)
        }
    return chosen


def _most_important(values: np.ndarray, count: int, heads: int) -> np.ndarray:
    """About as many as `count`, in equal numbers from each head."""
    size, of_each = values.size // heads, max(1, round(count / heads))
    best = np.sort(np.argsort(-values.reshape(heads, size), axis=1, kind="stable")[:, :of_each], axis=1)
    return (best + size * np.arange(heads)[:, None]).reshape(-1)


def cut_variables(
    variables: Mapping[str, np.ndarray], rules: tuple[Channels, ...], chosen: Chosen
) -> dict[str, np.ndarray]:
    """Variables by path, without the channels that go."""
    left = {}
    for path, value in variables.items():
        left[path] = np.asarray(value)
        for axis, kept in _cuts(path, rules, chosen):
            left[path] = np.take(left[path], kept, axis=axis)
    return left


def _cuts(path: str, rules: tuple[Channels, ...], chosen: Chosen) -> Iterator[tuple[int, np.ndarray]]:
    for rule in rules:
        for pattern, axis in ((rule.makers, -1), (rule.readers, -2)):
            match = re.fullmatch(pattern, path) if pattern and rule.unit in chosen else None
            if match is not None:
                yield axis, chosen[rule.unit][match["place"]]
