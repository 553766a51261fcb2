"""DETR's matching, 100 queries for up to 60 objects in 6 layers of 8 pictures, against four other ways to do it.

Ours is `vitjax.ops.assignment.assign`; all of them run under `jit` on the default device, and the ratio is their time
over ours. `within` is by how much a total exceeds the least one (SciPy's), the worst of all 48 problems, over the
largest cost. The costs are those of boxes: of a model that finds the objects, of one whose boxes are anywhere, and of a
fresh one whose queries all say nearly the same, the hardest for every method.

The share of a training step is the time of one matching over that of a step, which has one: DETR-R50's loss with its
gradient, at 192 by 256 pixels. Larger pictures only make the step longer: 480 by 640 are six times as many pixels.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.report import Options, Row
from vitjax.models import create_model
from vitjax.ops.assignment import assign
from vitjax.ops.set_losses import SetTruth, matching_cost
from vitjax.tasks.set_prediction import SetPrediction

_KINDS = ("trained", "anywhere", "fresh")
_LAYERS, _IMAGES, _QUERIES, _SLOTS, _CLASSES = 6, 8, 100, 60, 91


def draw(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Costs [L, B, Q, T] and masks [L, B, T] of predictions that are `trained`, `anywhere` or `fresh`."""
    generator = np.random.default_rng(seed)
    mask = np.arange(_SLOTS) < generator.integers(0, _SLOTS + 1, _IMAGES)[:, None]
    boxes = _boxes(generator, _IMAGES, _SLOTS)
    logits = generator.normal(size=(_LAYERS, _IMAGES, _QUERIES, _CLASSES + 1)).astype(np.float32)
    found = {
        "trained": lambda: (
            np.concatenate([boxes, _boxes(generator, _IMAGES, _QUERIES - _SLOTS)], axis=1)
            + generator.normal(0, 0.02, (_LAYERS, _IMAGES, _QUERIES, 4))
        ),
        "anywhere": lambda: _boxes(generator, _LAYERS, _IMAGES, _QUERIES),
        "fresh": lambda: generator.normal(0.5, 0.05, (_LAYERS, _IMAGES, _QUERIES, 4)),
    }[kind]()
    truth = SetTruth(generator.integers(0, _CLASSES, mask.shape).astype(np.int32), _corners(boxes), mask)
    cost = jax.jit(matching_cost)(logits, np.clip(found, 0.01, 0.99).astype(np.float32), truth)
    return np.asarray(cost), np.broadcast_to(mask, (_LAYERS, *mask.shape))


def _boxes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    centre, size = generator.uniform(0.2, 0.8, (*shape, 2)), generator.uniform(0.05, 0.4, (*shape, 2))
    return np.concatenate([centre, size], axis=-1)


def _corners(boxes: np.ndarray) -> np.ndarray:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1).astype(np.float32)


def with_optax(cost: Any, mask: Any) -> Any:
    """`optax.assignment.hungarian_algorithm`, mapped over all problems; objects under the mask cost nothing."""

    def one(cost: Any, mask: Any) -> Any:
        queries, targets = optax.assignment.hungarian_algorithm(jnp.where(mask, cost, 0.0))
        return jnp.where(mask, jnp.zeros(len(mask), jnp.int32).at[targets].set(queries), -1)

    return jax.vmap(jax.vmap(one))(cost, mask)


def on_the_host(cost: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """SciPy's `linear_sum_assignment`, one problem after the other."""
    from scipy.optimize import linear_sum_assignment

    found = np.full(mask.shape, -1, np.int32)
    for place in np.ndindex(mask.shape[:-1]):
        queries, targets = linear_sum_assignment(cost[place][:, mask[place]])
        found[(*place, np.flatnonzero(mask[place])[targets])] = queries
    return found


def with_callback(cost: Any, mask: Any) -> Any:
    """The same from within `jit`; on a mesh it would gather the whole batch in one place."""

    def host(cost: Any, mask: Any) -> np.ndarray:
        return on_the_host(np.asarray(cost), np.asarray(mask))

    return jax.pure_callback(host, jax.ShapeDtypeStruct(mask.shape, jnp.int32), cost, mask)


def by_auction(cost: Any, mask: Any, *, step: float) -> Any:
    """All objects without a query bid at once (Bertsekas 1988); totals are at most `T step` above the least.

    Prices rise by at least `step` with each bid, so that the number of rounds grows as it shrinks, and only whole
    numbers, for which less than 1/T is enough, ever become exact.
    """
    value = jnp.where(mask[..., None, :], -cost, 0.0).swapaxes(-1, -2)  # *B T Q
    numbers = jnp.arange(value.shape[-1])

    def bids(state: tuple[Any, Any]) -> tuple[Any, Any]:
        price, chosen = state
        worth = value - price[..., None, :]
        best, places = jax.lax.top_k(worth, 2)
        query, lead = places[..., 0], best[..., 0] - best[..., 1]
        wants = (mask & (chosen < 0))[..., None] & (query[..., None] == numbers)
        raises = jnp.where(wants, (lead + step)[..., None], -1.0)
        highest = jnp.max(raises, axis=-2)
        sold = highest > 0
        winner = jnp.argmax(raises, axis=-2)
        loses = (sold[..., None, :] & (chosen[..., None] == numbers)).any(axis=-1)
        wins = wants & (winner[..., None, :] == jnp.arange(value.shape[-2])[:, None])
        chosen = jnp.where(wins.any(axis=-1), query, jnp.where(loses, -1, chosen))
        return jnp.where(sold, price + highest, price), chosen

    start = jnp.zeros(value.shape[:-2] + value.shape[-1:]), jnp.full(mask.shape, -1, jnp.int32)
    return jax.lax.while_loop(lambda state: (mask & (state[1] < 0)).any(), bids, start)[1]


_WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "optax.assignment": with_optax,
    "callback to SciPy": with_callback,
    "auction, step 1e-2": partial(by_auction, step=1e-2),
    "auction, step 1e-3": partial(by_auction, step=1e-3),
}


def excess(cost: np.ndarray, mask: np.ndarray, found: np.ndarray) -> float:
    """By how much the worst total exceeds the least one, over the largest cost."""
    totals = []
    for assigned in (found, on_the_host(cost, mask)):
        taken = np.take_along_axis(cost.astype(np.float64), np.maximum(assigned, 0)[..., None, :], axis=-2)[..., 0, :]
        totals.append(np.where(mask, taken, 0).sum(axis=-1))
    return float((totals[0] - totals[1]).max() / np.abs(cost).max())


def rows(options: Options) -> Iterator[Row]:
    """The time of one call of each way, in turns with ours, and how exact each is."""
    ours = jax.jit(assign)
    for kind in _KINDS:
        cost, mask = draw(kind)
        placed = jax.device_put((cost, mask))
        for name, way in ({"ours": assign} | _WAYS).items():
            case = f"{kind} queries, {name}"
            if not options.wants(case):
                continue
            theirs = jax.jit(way)
            found = np.asarray(theirs(*placed))
            if way is not assign:
                times = [(_milliseconds(ours, placed), _milliseconds(theirs, placed)) for _ in range(options.repeats)]
                mine, other = (list(column) for column in zip(*times, strict=True))
                yield Row.faster(f"{case} vs ours", mine, other, "ms")
            yield Row.alone(f"{case}: within", excess(cost, mask, found), "of the largest cost")
    yield from _shares(options)


def _shares(options: Options) -> Iterator[Row]:
    cases = {kind: f"share of a DETR-R50 step, batch 8 at 192x256, {kind} queries (bound 10)" for kind in _KINDS}
    if not any(map(options.wants, cases.values())):
        return
    step, arguments = _training_step((192, 256))
    jax.block_until_ready(step(*arguments))
    steps = [_once(step, arguments) for _ in range(max(2, options.repeats))]
    yield Row.alone("DETR-R50 loss and gradient, batch 8 at 192x256", steps, "ms")
    for kind, case in cases.items():
        if options.wants(case):
            placed, ours = jax.device_put(draw(kind)), jax.jit(assign)
            matching = [_milliseconds(ours, placed) for _ in range(options.repeats)]
            yield Row.alone(case, [100 * taken / statistics.median(steps) for taken in matching], "%", peer=10.0)


def _training_step(size: tuple[int, int]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The jitted gradient of DETR-R50's loss, and its arguments."""
    model: Any = create_model("detr_resnet50")
    generator, task = np.random.default_rng(0), SetPrediction()
    boxes = _boxes(generator, _IMAGES, _SLOTS)
    batch = {
        "image": generator.integers(0, 256, (_IMAGES, *size, 3), np.uint8),
        "image_mask": np.ones(_IMAGES, bool),
        "boxes": _corners(boxes),
        "labels": generator.integers(0, _CLASSES, (_IMAGES, _SLOTS)).astype(np.int32),
        "box_mask": np.arange(_SLOTS) < generator.integers(0, _SLOTS + 1, _IMAGES)[:, None],
    }
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))()
    params, rest = variables["params"], {name: leaf for name, leaf in variables.items() if name != "params"}

    @jax.jit
    def gradient(params: Any, rest: Any, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = model.apply(
                {"params": params, **rest}, **task.inputs(batch), train=True,
                rngs={"dropout": jax.random.key(1)}, mutable=list(rest),
            )  # fmt: skip
            return task.loss(outputs, batch)[0]

        return jax.value_and_grad(loss)(params)

    return gradient, jax.device_put((params, rest, batch))


def _milliseconds(program: Callable[..., Any], arguments: tuple[Any, Any]) -> float:
    """The median of five calls; of a program that is slow anyway one."""
    jax.block_until_ready(program(*arguments))
    first = _once(program, arguments)
    return first if first > 100 else statistics.median([first, *(_once(program, arguments) for _ in range(4))])


def _once(program: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return 1000 * (time.perf_counter() - began)
