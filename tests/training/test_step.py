import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_run import Batches, Classify, Net
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.training.optimizers import AdamW, make_optimizer, trained_paths
from vitjax.training.schedules import Constant
from vitjax.training.state import abstract_variables, evaluation_variables, initial_state, moving_average
from vitjax.training.step import make_train_step, split_batch

NUMBERS = np.array([3, 1, 4, 1, 5, -1, -1, -1])  # three of eight rows are padding
NET, TASK = Net(3), Classify()
RATES = ((".*", 1.0),)


@functools.cache
def prepare(net=NET, task=TASK, rates=RATES, **options):
    batch = Batches().rows(NUMBERS)
    params = abstract_variables(net, task, batch)["params"]
    multiplier = Constant().multiplier(10)
    optimizer = make_optimizer(AdamW(0.1, 0.1), multiplier, params, decay_rules=RATES, rate_rules=rates, clip_norm=1.0)
    ema = options.get("ema_decay") is not None
    state = jax.jit(lambda: initial_state(net, task, batch, optimizer, seed=0, ema=ema))()
    trained = trained_paths(params, rates)
    step = make_train_step(net, task, optimizer, lambda s: 0.1, trained=trained, seed=0, **options)
    return state, batch, jax.jit(step)


def assert_trees(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_one_large_batch(parts):
    """Padding falls unevenly on the parts: a plain mean over parts would differ."""
    state, batch, whole = prepare()
    _, _, accumulated = prepare(accumulate_steps=parts)
    (after, result), (after_parts, result_parts) = whole(state, batch), accumulated(state, batch)
    assert_trees(after.params, after_parts.params, rtol=1e-5, atol=1e-6)
    assert_trees(result.metrics, result_parts.metrics, rtol=1e-6)
    assert float(result.metrics["loss"][1]) == int(result.images) == 5
    np.testing.assert_allclose(result.loss, result_parts.loss, rtol=1e-6)
    np.testing.assert_allclose(result.gradient_norm, result_parts.gradient_norm, rtol=1e-5)


def test_a_batch_of_padding_is_finite():
    state, _, step = prepare(accumulate_steps=2)
    after, result = step(state, Batches().rows(np.full(8, -1)))
    assert bool(result.finite)
    assert int(after.step) == 1


def test_average_of_parameters():
    state, batch, step = prepare(ema_decay=0.75)
    after, _ = step(state, batch)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, state.params, after.params)
    assert_trees(after.ema_params, expected, rtol=1e-6)
    assert evaluation_variables(after)["params"] is after.ema_params


def test_average_of_batch_statistics():
    """Its decay at step t is (1 + t) / (10 + t) until that exceeds `ema_decay`."""
    state, batch, step = prepare(Net(3, batch_norm=True), ema_decay=0.75)
    for number, decay in ((0, 0.1), (1, 2 / 11), (26, 0.75)):
        before = state.replace(step=jnp.int32(number))
        state, _ = step(before, batch)
        moved = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, before.ema_collections, state.collections
        )
        assert np.any(state.collections["batch_stats"]["norm"]["mean"] != 0)
        assert_trees(state.ema_collections, moved, rtol=1e-5, atol=1e-6)
    assert evaluation_variables(state)["batch_stats"] is state.ema_collections["batch_stats"]
    assert evaluation_variables(state.replace(ema_params=None))["batch_stats"] is state.collections["batch_stats"]


def test_average_of_a_count_is_the_count():
    average = moving_average(
        {"seen": jnp.int32(3), "mean": jnp.float32(3)}, {"seen": jnp.int32(7), "mean": jnp.float32(7)}, 0.75
    )
    assert int(average["seen"]) == 7
    assert float(average["mean"]) == 4.0


@pytest.mark.parametrize("parts", [1, 2])
def test_batch_statistics_move(parts):
    state, batch, step = prepare(Net(3, batch_norm=True), accumulate_steps=parts)
    after, _ = step(state, batch)
    assert np.any(after.collections["batch_stats"]["norm"]["mean"] != 0)


def test_nonfinite_step_changes_nothing_and_sticks():
    state, batch, step = prepare(task=Classify(poisoned=4), ema_decay=0.9)
    healthy = Batches().rows(np.arange(20, 28))
    after, result = step(state, batch)
    assert not bool(result.finite)
    assert bool(after.halted)
    again, result = step(after, healthy)  # dispatched before the host could look
    assert bool(result.finite)
    for name in ("step", "params", "opt_state", "ema_params", "ema_collections"):
        assert_trees(getattr(again, name), getattr(state, name), rtol=0)


def test_frozen_parameters_keep_their_bits():
    state, batch, step = prepare(rates=(("hidden/.*", 0.0), (".*", 1.0)))
    after, _ = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, after.params["hidden"], state.params["hidden"])
    assert np.any(after.params["head"]["kernel"] != state.params["head"]["kernel"])


def test_dropout_follows_seed_and_step():
    net = Net(3, dropout_rate=0.5)
    state, batch, step = prepare(net)
    first, again = step(state, batch)[1].loss, step(state, batch)[1].loss
    later = step(state.replace(step=jnp.int32(7)), batch)[1].loss
    assert float(first) == float(again)
    assert float(first) != float(later)


def test_traces_once_per_shape():
    state, batch, step = prepare()
    for _ in range(3):
        state, _ = step(state, batch)
    assert step._cache_size() == 1


@given(shards=st.integers(1, 4), parts=st.integers(1, 4), rows=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_parts_keep_rows_with_their_groups(shards, parts, rows):
    """Row r belongs to group r // rows; each part holds the rows of its own groups, from every shard."""
    groups = shards * parts
    row_group = np.repeat(np.arange(groups), rows)
    cut = split_batch({"row": row_group, "buckets": (np.arange(groups)[:, None],)}, parts, shards)
    assert cut["row"].shape == (parts, shards * rows)
    for part in range(parts):
        of_part = cut["buckets"][0][part][:, 0]
        np.testing.assert_array_equal(cut["row"][part], np.repeat(of_part, rows))
        np.testing.assert_array_equal(of_part // parts, np.arange(shards))  # one group of every shard
    assert sorted(np.ravel(cut["row"])) == sorted(np.ravel(row_group))
