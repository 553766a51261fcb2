"""MobileNetV2's block: its sizes, when it adds its input, and that it computes what its parts say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.conv_norm import FoldedConv, fold_norms
from vitjax.layers.inverted_residual import InvertedResidual
from vitjax.paths import flatten, unflatten


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def shapes_of(module, x):
    variables = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}


def test_submodules_and_widths():
    found = shapes_of(InvertedResidual(10, expansion=3.5), pictures(1, 4, 4, 6))
    kernels = {path: shape for path, shape in found.items() if path.endswith("kernel")}
    # 6 * 3.5 = 21 is nearest to 24
    assert kernels == {
        "expand/conv/kernel": (1, 1, 6, 24),
        "depthwise/conv/kernel": (3, 3, 1, 24),
        "reduce/conv/kernel": (1, 1, 24, 10),
    }


def test_without_expansion_there_is_no_first_convolution():
    found = shapes_of(InvertedResidual(8, expansion=1), pictures(1, 4, 4, 8))
    assert not any(path.startswith("expand") for path in found)
    assert found["depthwise/conv/kernel"] == (3, 3, 1, 8)


@pytest.mark.parametrize(("features", "stride", "adds"), [(8, 1, True), (16, 1, False), (8, 2, False)])
def test_the_input_is_added_where_the_shape_stays(features, stride, adds):
    x = pictures(2, 5, 7, 8)
    module = InvertedResidual(features, stride, expansion=2)
    variables = module.init(jax.random.key(0), x, False)
    params = flatten(variables["params"])
    params["reduce/norm/scale"] = jnp.zeros_like(params["reduce/norm/scale"])  # the branch gives nothing
    y = module.apply({**variables, "params": unflatten(params)}, x, False)
    assert y.shape == (2, -(-5 // stride), -(-7 // stride), features)
    np.testing.assert_array_equal(y, x if adds else np.zeros(y.shape))


def test_dilation_and_folding():
    x = pictures(2, 6, 6, 8)
    module = InvertedResidual(8, expansion=2, dilation=2)
    variables = flatten(module.init(jax.random.key(0), x, False))
    rng = np.random.default_rng(1)
    variables |= {p: rng.uniform(0.5, 2, v.shape).astype(np.float32) for p, v in variables.items() if "/norm/" in p}
    expected = module.apply(unflatten(variables), x, False)
    folded = module.clone(conv_norm=FoldedConv)
    found = folded.apply(unflatten(fold_norms(variables)), x, False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # One pixel reaches as far as the dilation, and only where the kernel has weights.
    touched = np.zeros((1, 7, 7, 8), np.float32)
    touched[0, 3, 3] = 1
    change = module.apply(unflatten(variables), touched, False) - module.apply(unflatten(variables), 0 * touched, False)
    rows, columns = np.nonzero(np.abs(np.asarray(change)[0]).max(axis=-1) > 1e-6)
    assert set(zip(rows, columns, strict=True)) == {(r, c) for r in (1, 3, 5) for c in (1, 3, 5)}
