import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.errors import UserError
from vitjax.training.optimizers import SGD, Adafactor, AdamW, Lion, make_optimizer
from vitjax.training.schedules import Constant, Linear

ALL = ((".*", 1.0),)
CONSTANT = Constant()


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "embedding": {"kernel": jax.random.normal(keys[0], (40, 48))},
        "head": {"kernel": jax.random.normal(keys[1], (48, 3)), "bias": jax.random.normal(keys[2], (3,))},
    }


def optimize(optimizer, params, steps=4):
    state = optimizer.init(params)
    for number in range(steps):
        gradient = jax.tree.map(lambda leaf, number=number: jnp.sin(leaf * (number + 1)), params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def ours(settings, params, *, schedule=CONSTANT, decay=ALL, rates=ALL, clip=None, adaptive=None):
    return make_optimizer(
        settings, schedule.multiplier(10), params, decay_rules=decay, rate_rules=rates, clip_norm=clip,
        adaptive_clip=adaptive,
    )  # fmt: skip


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), one, other)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (AdamW(0.1, 0.3, b2=0.95), optax.adamw(0.1, b2=0.95, weight_decay=0.3)),
        (AdamW(0.1, momentum_dtype="bfloat16"), optax.adamw(0.1, weight_decay=0.0, mu_dtype="bfloat16")),
        (SGD(0.1), optax.sgd(0.1, momentum=0.9)),
        (SGD(0.1, nesterov=True), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        (SGD(0.1, momentum=0.0), optax.sgd(0.1)),
        (Lion(0.01, 0.3), optax.lion(0.01, weight_decay=0.3)),
    ],
)
def test_equals_optax(settings, reference, params):
    assert_close(optimize(ours(settings, params), params)[0], optimize(reference, params)[0])


def test_schedule_scales_step_and_decay(params):
    """The decay is decoupled: with a zero gradient, a parameter shrinks by lr * multiplier * decay exactly."""
    optimizer = ours(AdamW(0.1, 0.5), params, schedule=Linear())
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    for number in range(3):
        updates, state = optimizer.update(zero, state, params)
        factor = -0.1 * 0.5 * (1 - number / 10)
        assert_close(updates, jax.tree.map(lambda leaf, factor=factor: factor * leaf, params))


def test_decay_and_rate_rules(params):
    decay = ((".*/kernel", 2.0), (".*", 0.0))
    rates = (("embedding/.*", 0.5), (".*", 1.0))
    optimizer = ours(SGD(0.1, 0.3, momentum=0.0), params, decay=decay, rates=rates)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["embedding"]["kernel"], -0.1 * 0.5 * 0.6 * params["embedding"]["kernel"], 1e-6)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1 * 0.6 * params["head"]["kernel"], 1e-6)
    assert not np.any(updates["head"]["bias"])


@pytest.mark.parametrize("settings", [AdamW(0.1, 0.1), SGD(0.1, 0.1), Adafactor(0.1, 0.1), Lion(0.1, 0.1)])
def test_frozen_parameters_stay_and_have_no_moments(settings, params):
    rates = (("embedding/.*", 0.0), (".*", 1.0))
    after, state = optimize(ours(settings, params, rates=rates, clip=1.0), params)
    np.testing.assert_array_equal(after["embedding"]["kernel"], params["embedding"]["kernel"])
    assert np.any(after["head"]["kernel"] != params["head"]["kernel"])
    assert all(leaf.shape[:1] != (40,) for leaf in jax.tree.leaves(state) if leaf.ndim)


def test_clip_counts_trained_parameters_only(params):
    rates = (("embedding/.*", 0.0), (".*", 1.0))
    optimizer = ours(SGD(1.0, momentum=0.0), params, rates=rates, clip=1e-3)
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(1e-3, rel=1e-5)


def test_adafactor_follows_its_equations(params):
    """Shazeer and Stern, algorithm 4, with the decay of equation 10 of section 7.2 capped; momentum in float32 here."""
    settings = Adafactor(0.1, momentum=0.5, momentum_dtype=None, b2_cap=0.3)
    (after, state), kernel = optimize(ours(settings, params), params, 3), np.float64(params["embedding"]["kernel"])
    rows, columns, momentum = 0.0, 0.0, 0.0
    for number in range(3):
        decay = min(1 - (number + 1.0) ** -0.8, 0.3)
        gradient = np.sin(kernel * (number + 1))
        squared = gradient**2 + 1e-30
        rows = decay * rows + (1 - decay) * squared.mean(1, keepdims=True)
        columns = decay * columns + (1 - decay) * squared.mean(0, keepdims=True)
        scaled = gradient / np.sqrt(rows * columns / rows.mean())
        momentum = 0.5 * momentum + 0.5 * scaled
        kernel = kernel - 0.1 * momentum
    np.testing.assert_allclose(after["embedding"]["kernel"], kernel, rtol=2e-4, atol=2e-5)
    # The second moments of the 40 x 48 matrix take 40 + 48 numbers; only the momentum is as large as the matrix.
    assert sum(leaf.size == 40 * 48 for leaf in jax.tree.leaves(state)) == 1


def test_adafactor_keeps_momentum_in_half_precision(params):
    _, state = optimize(ours(Adafactor(0.1), params), params, 1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.size == 40 * 48} == {"bfloat16"}


def test_adaptive_clipping_is_by_the_norm_of_each_outputs_weights(params):
    after, _ = optimize(ours(SGD(1.0, momentum=0.0), params, adaptive=0.02), params, 1)
    kernel = np.float64(params["head"]["kernel"])
    gradient, limit = np.sin(kernel), 0.02 * np.linalg.norm(kernel, axis=0)
    clipped = gradient * np.minimum(1, limit / np.linalg.norm(gradient, axis=0))
    np.testing.assert_allclose(after["head"]["kernel"], kernel - clipped, rtol=1e-5)


def test_uncovered_parameters_are_listed(params):
    with pytest.raises(UserError, match=r"`decay_rules`.*embedding/kernel, head/kernel"):
        ours(AdamW(0.1), params, decay=((".*/bias", 0.0),))
    with pytest.raises(UserError, match=r"`rate_rules`.*head/bias, head/kernel"):
        ours(AdamW(0.1), params, rates=(("embedding/.*", 1.0),))


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (AdamW(-0.1), {}, "optimizer.lr=-0.1"),
        (AdamW(0.1), {"clip": 0.0}, "clip_norm=0.0"),
        (AdamW(0.1), {"adaptive": -0.1}, "adaptive_clip=-0.1"),
        (AdamW(0.1), {"rates": ((".*", 0.0),)}, "freeze every parameter"),
    ],
)
def test_bad_settings(settings, changes, message, params):
    with pytest.raises(UserError, match=message):
        ours(settings, params, **changes)
