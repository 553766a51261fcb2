"""The cascade of NaViT's appendix E: every picture at a small budget of tokens, the least certain ones at a larger one.

One model and two budgets n1 < n2: all pictures run at n1; the share α whose largest probability is smallest runs again
at n2 and keeps that answer. With times t1 and t2 per picture the amortised time is t1 + α t2.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.predict import open_pictures
from vitjax.inference.results import Result

__all__ = ["Cascaded", "amortised", "cascade", "cascaded_scores", "least_certain"]

_logger = logging.getLogger("vitjax")


@dataclass(frozen=True)
class Cascaded:
    """What came out.

    Attributes:
        results: one per picture, in the order given.
        tokens: the budget of each picture's answer.
        share: of the pictures that ran twice.
    """

    results: tuple[Result, ...]
    tokens: tuple[int, ...]
    share: float


def cascade(
    bundle: Bundle, images: Any, *, tokens: tuple[int, int], share: float | int = 0.3, top_k: int = 5
) -> Cascaded:
    """Predicts all pictures at a small budget, and the least certain ones again at a larger one.

    Args:
        bundle: a classifier of packed rows.
        images: as `Bundle.predict` takes them; all are ranked together.
        tokens: the small and the large budget, patches of a picture at most.
        share: of the pictures that run again, 0...1: the paper's α.
        top_k: see `Bundle.predict`.

    Raises:
        UserError: a budget or the share is out of range, or what `Bundle.predict` raises.
    """
    if len(tokens) != 2 or not tokens[0] < tokens[1]:
        raise UserError(f"`tokens` (={tokens}) must be a small and a larger budget, such as (64, 256)")
    pictures = open_pictures(images, bundle.batches, bundle.labels).images.items
    results = bundle.predict(list(pictures), top_k=top_k, tokens=tokens[0])
    if any(not isinstance(result, Result) for result in results):
        raise UserError(f"a cascade ranks classifiers' answers, and these are {type(results[0]).__name__}s")
    readable = [number for number, result in enumerate(results) if result.scores is not None]
    confidence = np.array([results[number].scores.max() for number in readable])
    again = [readable[place] for place in least_certain(confidence, share)]
    budgets = [tokens[0]] * len(results)
    if again:
        for number, second in zip(
            again, bundle.predict([pictures[number] for number in again], top_k=top_k, tokens=tokens[1]), strict=True
        ):
            results[number] = replace(second, name=results[number].name)
            budgets[number] = tokens[1]
    _logger.info("cascade: %d of %d pictures again, at %d tokens", len(again), len(results), tokens[1])
    return Cascaded(tuple(results), tuple(budgets), len(again) / max(len(results), 1))


def least_certain(confidence: Float[np.ndarray, "images"], share: float | int) -> Int[np.ndarray, "chosen"]:
    """Numbers, rising, of the share of images whose largest probability is smallest; of equal ones the first.

    Raises:
        UserError: the share is outside 0...1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"`share` (={share}) of the images that run again must be in 0...1")
    count = round(share * len(confidence))
    return np.sort(np.argsort(confidence, kind="stable")[:count])


def cascaded_scores(
    small: Float[np.ndarray, "images classes"],
    large: Float[np.ndarray, "images classes"],
    share: float | int,
) -> Float[np.ndarray, "images classes"]:
    """What a cascade would answer, from the probabilities of all images at both budgets.

    Args:
        small: at the small budget.
        large: at the large one.
        share: of the images that run again.
    """
    again: Bool[np.ndarray, "images"] = np.zeros(len(small), bool)
    again[least_certain(small.max(axis=1), share)] = True
    return np.where(again[:, None], large, small)


def amortised(costs: Sequence[float], share: float | int) -> float:
    """Cost per image, `t1 + α t2`, in the unit of `costs`: seconds, multiply-adds or tokens at both budgets."""
    return float(costs[0] + share * costs[1])
