"""Which prediction answers for which object of the truth: one to one, at the least total cost, for whole batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.errors import UserError

__all__ = ["assign"]

_BITS = 28
"""Of a whole-number cost: sums of five of them, the most that are added up, still fit into 31 bits."""

_FAR = jnp.iinfo(jnp.int32).max


class _Search(NamedTuple):
    """Where each problem stands; all leaves have the leading axes of the costs.

    Attributes:
        owner: `[*B, Q]`, the target that has each query, -1 for none.
        price: `[*B, Q]`, at most 0, and 0 for a query without target.
        waiting: `[*B, T]`, targets without a query.
        distance: `[*B, Q]`, length of the shortest way found from the target that is looking to each query.
        before: `[*B, Q]`, the query before it on that way; -1 where the target itself comes before.
        visited: `[*B, Q]`, queries whose way is final; all have an owner.
        last: `[*B]`, the query that was visited last, -1 at the beginning of a search.
        swapped: `[*B]`, the query that is about to change hands, -1 while there is none.
    """

    owner: Array
    price: Array
    waiting: Array
    distance: Array
    before: Array
    visited: Array
    last: Array
    swapped: Array


def assign(cost: Float[Array, "*B Q T"], mask: Bool[Array, "*B T"]) -> Int[Array, "*B T"]:
    """The query of each target, a different one for each, such that the costs add up to the least possible.

    The shortest augmenting path method: A shortest augmenting path algorithm for dense and sparse linear assignment
    problems. Jonker and Volgenant, 1987, Computing 38, in the form without prices of rows. Each target that nobody
    else wants gets its cheapest query at once. The others are served one by one: a target reaches a free query along
    the shortest way, on which every other target passes its own query on to the one before. All problems advance
    together, each at its own pace, so the number of passes over `[*B, Q]` arrays is that of the slowest problem.

    Costs are rounded to whole numbers of 28 bits and a sign, in which all sums are exact: the method always ends, and
    the total exceeds the least one by no more than T 2^-28 times the largest absolute cost, which is less than what
    float32 costs themselves are off by. No gradient.

    Args:
        cost: of each query for each target. What is no finite number counts as the largest cost of its problem.
        mask: which targets are real.

    Returns:
        int32 numbers of queries, -1 for what is under the mask.

    Raises:
        UserError: there are more targets than queries.
    """
    queries, targets = cost.shape[-2:]
    if targets > queries:
        raise UserError(f"assign: {targets} targets cannot each have one of {queries} queries")
    if not targets:
        return jnp.full(mask.shape, -1, jnp.int32)
    mask = jnp.asarray(mask)
    whole = _whole_numbers(jax.lax.stop_gradient(cost), mask).swapaxes(-1, -2)  # *B T Q
    found = jax.lax.while_loop(
        lambda search: search.waiting.any(), lambda search: _advance(search, whole), _first_come(whole, mask)
    )
    holds = found.owner[..., None, :] == jnp.arange(targets, dtype=jnp.int32)[:, None]  # *B T Q
    return jnp.where(mask, jnp.argmax(holds, axis=-1), -1).astype(jnp.int32)


def _whole_numbers(cost: Array, mask: Array) -> Array:
    """Costs times the power of two that brings the largest of a problem to at most 2^28, rounded."""
    cost = jnp.asarray(cost, jnp.float32)
    finite = jnp.isfinite(cost) & mask[..., None, :]
    cost = jnp.where(finite, cost, 0.0)
    _, exponent = jnp.frexp(jnp.max(jnp.abs(cost), axis=(-2, -1), keepdims=True))
    half = exponent // 2  # of the largest and smallest numbers 2^exponent itself is none
    scaled = cost * _power_of_two(-half) * _power_of_two(half - exponent) * float(2**_BITS)
    return jnp.where(finite, jnp.round(scaled).astype(jnp.int32), 2**_BITS)


def _power_of_two(exponent: Array) -> Array:
    return jnp.ldexp(jnp.float32(1), exponent)


def _first_come(whole: Array, mask: Array) -> _Search:
    """Each query is the first's of the targets that it is the cheapest for."""
    targets, queries = whole.shape[-2:]
    numbers = jnp.arange(targets, dtype=jnp.int32)[:, None]
    cheapest = jnp.argmin(whole, axis=-1)[..., None] == jnp.arange(queries)  # *B T Q
    owner = jnp.min(jnp.where(cheapest & mask[..., None], numbers, targets), axis=-2)
    served = (owner[..., None, :] == numbers).any(axis=-1)
    owner = jnp.where(owner == targets, -1, owner)
    none = jnp.full(owner.shape[:-1], -1, jnp.int32)
    return _Search(
        owner,
        price=jnp.zeros_like(owner),
        waiting=mask & ~served,
        distance=jnp.full_like(owner, _FAR),
        before=jnp.full_like(owner, -1),
        visited=jnp.zeros(owner.shape, bool),
        last=none,
        swapped=none,
    )


def _advance(search: _Search, whole: Array) -> _Search:
    """In each problem: visit one more query, or let one more change hands."""
    owner, price, waiting, distance, before, visited, last, swapped = search
    numbers = jnp.arange(owner.shape[-1], dtype=jnp.int32)
    looking = jnp.argmax(waiting, axis=-1).astype(jnp.int32)
    # Visit: from the owner of the last query every query is as far as it costs more than that owner's own.
    row = jnp.where(last < 0, looking, _at(owner, last))
    costs = jnp.take_along_axis(whole, row[..., None, None], axis=-2)[..., 0, :] - price
    start = jnp.where(last < 0, 0, _at(distance, last) - _at(costs, last))
    reached = start[..., None] + costs
    nearer = ~visited & (reached < distance) & (swapped < 0)[..., None]
    distance = jnp.where(nearer, reached, distance)
    before = jnp.where(nearer, last[..., None], before)
    least = jnp.min(jnp.where(visited, _FAR, distance), axis=-1, keepdims=True)
    nearest = ~visited & (distance == least)
    rank = numbers + jnp.where(owner < 0, 0, len(numbers))  # of equals a free one
    nearest = jnp.min(jnp.where(nearest, rank, 2 * len(numbers)), axis=-1)
    arrives = (swapped < 0) & (nearest < len(numbers)) & waiting.any(axis=-1)
    nearest = nearest % len(numbers)
    price = jnp.where(arrives[..., None] & visited, price + distance - least, price)
    # Change hands: the free query goes to the owner of the one before, and that one is the next to be given away.
    swapped = jnp.where(arrives, nearest, swapped)
    swaps = swapped >= 0
    previous = _at(before, swapped)
    taker = jnp.where(previous < 0, looking, _at(owner, previous))
    owner = jnp.where(swaps[..., None] & (numbers == swapped[..., None]), taker[..., None], owner)
    done = swaps & (previous < 0)
    waiting = waiting & ~(done[..., None] & (jnp.arange(waiting.shape[-1]) == looking[..., None]))
    visits = ~swaps
    visited = (visited | (visits[..., None] & (numbers == nearest[..., None]))) & ~done[..., None]
    return _Search(
        owner,
        price,
        waiting,
        jnp.where(done[..., None], _FAR, distance),
        before,
        visited,
        jnp.where(visits, nearest, jnp.where(done, -1, last)),
        jnp.where(swaps, previous, -1),
    )


def _at(values: Array, place: Array) -> Array:
    """One value of each problem; without meaning where the place is -1."""
    return jnp.take_along_axis(values, place[..., None], axis=-1)[..., 0]
