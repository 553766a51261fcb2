"""The matching against SciPy's on random and degenerate costs, under masks, on a mesh, and with costs that are none."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.optimize import linear_sum_assignment

from vitjax.errors import UserError
from vitjax.ops.assignment import assign

QUERIES, TARGETS, PROBLEMS = 24, 12, 400
found_by = jax.jit(assign)


def normal(generator, *shape):
    return generator.normal(size=(PROBLEMS, *shape))


# Name -> costs [B, Q, T].
COSTS = {
    "random": lambda g: normal(g, QUERIES, TARGETS),
    "positive": lambda g: normal(g, QUERIES, TARGETS) ** 2,
    "whole numbers, many ties": lambda g: g.integers(0, 3, (PROBLEMS, QUERIES, TARGETS)),
    "all equal": lambda g: np.full((PROBLEMS, QUERIES, TARGETS), 0.7),
    "zero": lambda g: np.zeros((PROBLEMS, QUERIES, TARGETS)),
    "equal targets": lambda g: np.broadcast_to(normal(g, QUERIES, 1), (PROBLEMS, QUERIES, TARGETS)),
    "equal queries": lambda g: np.broadcast_to(normal(g, 1, TARGETS), (PROBLEMS, QUERIES, TARGETS)),
    "everybody wants the same": lambda g: normal(g, QUERIES, 1) + 1e-3 * normal(g, QUERIES, TARGETS),
    "products": lambda g: np.arange(1.0, QUERIES + 1)[:, None] * np.arange(1.0, TARGETS + 1) + 0 * normal(g, 1, 1),
    "huge": lambda g: 3e38 * g.uniform(-1, 1, (PROBLEMS, QUERIES, TARGETS)),
    "tiny": lambda g: 1e-37 * normal(g, QUERIES, TARGETS),
    "wide range": lambda g: 10.0 ** g.uniform(-6, 1, (PROBLEMS, QUERIES, TARGETS)),
}


def check(cost, mask, found):
    """Totals are SciPy's, up to the resolution that `assign` promises."""
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[~mask], -1)
    for every, real, numbers in zip(cost.astype(np.float64), mask, found, strict=True):
        costs, queries = every[:, real], numbers[real]
        assert len(set(queries)) == len(queries)
        least = costs[linear_sum_assignment(costs)].sum()
        total = costs[queries, np.arange(len(queries))].sum()
        assert abs(total - least) <= len(queries) * 2.0**-28 * np.abs(costs).max(initial=0)


@pytest.mark.parametrize("name", COSTS)
def test_totals_are_scipys(name):
    generator = np.random.default_rng(0)
    cost = COSTS[name](generator).astype(np.float32)
    counts = generator.integers(0, TARGETS + 1, PROBLEMS)
    mask = generator.permuted(np.arange(TARGETS) < counts[:, None], axis=1)
    mask[0], mask[1] = True, False
    check(cost, mask, np.asarray(found_by(cost, mask)))


@pytest.mark.parametrize(("queries", "targets"), [(1, 1), (7, 7), (9, 1), (3, 0)])
def test_edges_of_shape(queries, targets):
    cost = np.random.default_rng(1).normal(size=(50, queries, targets)).astype(np.float32)
    mask = np.ones((50, targets), bool)
    check(cost, mask, np.asarray(found_by(cost, mask)))


def test_random_costs_give_scipys_pairs_and_ignore_what_is_masked():
    generator = np.random.default_rng(2)
    cost = generator.normal(size=(PROBLEMS, QUERIES, TARGETS)).astype(np.float32)
    mask = generator.random((PROBLEMS, TARGETS)) < 0.6
    expected = np.full((PROBLEMS, TARGETS), -1)
    for row, real in enumerate(mask):
        queries, targets = linear_sum_assignment(cost[row][:, real])
        expected[row, np.flatnonzero(real)[targets]] = queries
    np.testing.assert_array_equal(found_by(cost, mask), expected)
    cost = np.where(mask[:, None], cost, generator.choice([np.nan, np.inf, -np.inf, 3e38], cost.shape))
    np.testing.assert_array_equal(found_by(cost.astype(np.float32), mask), expected)


def test_order_of_queries_does_not_matter():
    generator = np.random.default_rng(3)
    cost = generator.normal(size=(PROBLEMS, QUERIES, TARGETS)).astype(np.float32)
    mask, order = np.ones((PROBLEMS, TARGETS), bool), generator.permutation(QUERIES)
    np.testing.assert_array_equal(order[found_by(cost[:, order], mask)], found_by(cost, mask))


def test_axes_in_front_are_problems_of_their_own():
    cost = np.random.default_rng(4).normal(size=(PROBLEMS, QUERIES, TARGETS)).astype(np.float32)
    mask = np.ones((PROBLEMS, TARGETS), bool)
    stacked = found_by(cost.reshape(4, 100, QUERIES, TARGETS), mask.reshape(4, 100, TARGETS))
    np.testing.assert_array_equal(stacked.reshape(PROBLEMS, TARGETS), found_by(cost, mask))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_the_last_choice_and_never_an_endless_loop(value):
    generator = np.random.default_rng(5)
    cost = generator.normal(size=(PROBLEMS, QUERIES, TARGETS)).astype(np.float32)
    mask = np.ones((PROBLEMS, TARGETS), bool)
    cost[0] = value  # all of a problem
    cost[1:200, :5] = value  # some queries: enough others are left
    cost[200:][generator.random(cost[200:].shape) < 0.5] = value
    found = np.asarray(found_by(cost, mask))
    assert all(len(set(queries)) == TARGETS for queries in found)
    assert found[1:200].min() >= 5


def test_a_batch_on_eight_devices_stays_there():
    generator = np.random.default_rng(6)
    cost = generator.normal(size=(3, 16, QUERIES, TARGETS)).astype(np.float32)
    mask = generator.random((3, 16, TARGETS)) < 0.7
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    program = jax.jit(assign, in_shardings=(rows, rows), out_shardings=rows).lower(cost, mask).compile()
    text = program.as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    found = program(*jax.device_put((cost, mask), rows))
    assert found.sharding.is_equivalent_to(rows, found.ndim)
    np.testing.assert_array_equal(found, found_by(cost, mask))


def test_more_targets_than_queries():
    with pytest.raises(UserError, match="3 targets cannot each have one of 2 queries"):
        jax.eval_shape(assign, np.zeros((1, 2, 3), np.float32), np.ones((1, 3), bool))
