"""Retrieval: how often what belongs to a query is among the k keys most like it."""

from collections.abc import Sequence

import numpy as np

from vitjax.arrays import Float, Int
from vitjax.errors import UserError

__all__ = ["chance_recall", "recall_at"]

_AT_A_TIME = 1024  # queries whose similarities are held at once


def recall_at(
    queries: Float[np.ndarray, "Q D"],
    keys: Float[np.ndarray, "keys D"],
    query_groups: Int[np.ndarray, "Q"],
    key_groups: Int[np.ndarray, "keys"],
    at: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """R@k: the share of queries with a key of their own group among the k keys of the largest inner products.

    A key of another group that ties with the best right one is taken to come before it, so that a model which says the
    same of everything does not pass for perfect.

    Args:
        queries: vectors, of images say; not scaled here.
        keys: vectors of what is searched, of texts say.
        query_groups: number of the group of each query.
        key_groups: of each key; every group of a query has keys, any number of them.
        at: values of k, 1 or more.

    Returns:
        Shares in 0...1 by k.

    Raises:
        UserError: there is no query, one of them has no key, or a k is not positive.
    """
    _check(query_groups, key_groups, at)
    wrong_before = np.concatenate([
        _wrong_before(queries[start : start + _AT_A_TIME], keys, query_groups[start : start + _AT_A_TIME], key_groups)
        for start in range(0, len(queries), _AT_A_TIME)
    ])  # fmt: skip
    return {k: float(np.mean(wrong_before < k)) for k in at}


def _wrong_before(
    queries: np.ndarray, keys: np.ndarray, query_groups: np.ndarray, key_groups: np.ndarray
) -> np.ndarray:
    """How many keys of other groups are as like to each query as the best of its own group, or more."""
    similarity = queries @ keys.T
    right = query_groups[:, None] == key_groups[None, :]
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    # not "at least as large": a NaN is beaten by everything
    return np.sum(~right & ~(similarity < best), axis=1)


def chance_recall(
    query_groups: Int[np.ndarray, "Q"], key_groups: Int[np.ndarray, "keys"], at: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """R@k of guessing: the mean over the queries of `1 - Π_{i<k} (wrong - i) / (keys - i)`.

    Raises:
        UserError: see `recall_at`.
    """
    _check(query_groups, key_groups, at)
    right = (query_groups[:, None] == key_groups[None, :]).sum(axis=1).astype(np.float64)
    total = len(key_groups)
    found = {}
    for k in at:
        steps = np.arange(min(k, total))
        missed = np.clip((total - right[:, None] - steps) / (total - steps), 0.0, None).prod(axis=1)
        found[k] = float(np.mean(1 - missed))
    return found


def _check(query_groups: np.ndarray, key_groups: np.ndarray, at: Sequence[int]) -> None:
    if not len(query_groups):
        raise UserError("retrieval: there are no queries; the evaluation data is empty, or none of it can be read")
    if not at or min(at) < 1:
        raise UserError(f"retrieval: `at` (={tuple(at)}) are numbers of keys, 1 or more")
    without = ~np.isin(query_groups, key_groups)
    if without.any():
        raise UserError(f"retrieval: {int(without.sum())} of {len(query_groups)} queries have no key of their group")
