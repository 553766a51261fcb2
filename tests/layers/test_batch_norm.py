"""Torch's batch norm: what it returns, what it remembers, and over whom it averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(1.5, 2.0, shape).astype(np.float32)


def made(x, **settings):
    module = BatchNorm(**settings)
    return module, module.init(jax.random.key(0), x, False)


def step(module, variables, x):
    outputs, changed = module.apply(variables, x, True, mutable=["batch_stats"])
    return outputs, {**variables, **changed}


def test_two_steps_and_evaluation_are_torchs():
    torch = pytest.importorskip("torch")
    reference = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
        reference.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    module, variables = made(values(2, 4, 5, 3))
    variables["params"] = {"scale": jnp.array([0.5, 1.5, 2.0]), "bias": jnp.array([0.1, -0.2, 0.3])}
    for seed in range(2):
        x = values(2, 4, 5, 3, seed=seed)
        theirs = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        ours, variables = step(module, variables, x)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], reference.running_mean, rtol=1e-6)
    np.testing.assert_allclose(variables["batch_stats"]["var"], reference.running_var, rtol=1e-6)
    x = values(1, 2, 2, 3, seed=7)
    theirs = reference.eval()(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(module.apply(variables, x, False), theirs.detach().numpy(), atol=2e-6)


def test_large_means_cost_no_digits():
    x = values(64, 2) * 1e-2 + 1e3
    ours, _ = step(*made(x, epsilon=0.0), x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(0)) / exact.std(0)
    np.testing.assert_allclose(ours, exact, atol=5e-3)


def test_the_running_variance_is_unbiased():
    x = values(5, 2)
    _, variables = step(*made(x, momentum=1.0), x)
    np.testing.assert_allclose(variables["batch_stats"]["var"], x.var(axis=0, ddof=1), rtol=1e-5)


def test_frozen_uses_and_keeps_the_running_statistics():
    x = values(4, 3)
    module, variables = made(x, frozen=True)
    outputs, after = step(module, variables, x)
    np.testing.assert_array_equal(outputs, module.apply(variables, x, False))
    np.testing.assert_array_equal(after["batch_stats"]["mean"], 0)


def test_initialisation_in_training_mode_leaves_fresh_statistics():
    x = values(4, 3)
    variables = BatchNorm().init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


def test_a_sharded_batch_has_the_statistics_of_the_whole():
    x = values(16, 3, 3)
    module, variables = made(x)
    expected, after = step(module, variables, x)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    run = jax.jit(functools.partial(step, module), in_shardings=(None, NamedSharding(mesh, PartitionSpec("data"))))
    outputs, sharded = run(variables, x)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(sharded["batch_stats"]["var"], after["batch_stats"]["var"], rtol=1e-6)


def test_a_mapped_axis_shares_its_statistics():
    x = values(4, 2, 3)
    module, variables = made(x, axis_name="shards")
    mapped, after = jax.vmap(functools.partial(step, module), in_axes=(None, 0), axis_name="shards")(variables, x)
    expected, whole = step(BatchNorm(), variables, x.reshape(8, 3))
    np.testing.assert_allclose(mapped.reshape(8, 3), expected, atol=1e-6)
    np.testing.assert_allclose(after["batch_stats"]["var"][1], whole["batch_stats"]["var"], rtol=1e-6)
    alone, _ = jax.vmap(functools.partial(step, BatchNorm()), in_axes=(None, 0))(variables, x)
    assert np.abs(alone.reshape(8, 3) - expected).max() > 0.1


def test_bfloat16_out_float32_inside():
    x = values(64, 3)
    outputs, after = step(*made(x, dtype="bfloat16"), jnp.asarray(x, jnp.bfloat16))
    assert outputs.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(outputs.astype(jnp.float32).mean(0), 0, atol=0.01)


def test_a_single_value_per_channel_is_refused():
    x = values(1, 3)
    with pytest.raises(UserError, match="one value per channel"):
        step(*made(x), x)
