"""Every form of a convolution against XLA's own, values and gradients, in float64 and within float32's noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vitjax.layers.convolution import choose_form
from vitjax.ops.convolution import (
    convolve_by_columns,
    convolve_by_pairs,
    convolve_by_shifts,
    convolve_directly,
    convolve_points,
    output_side,
)


def arrays(image_shape, kernel_shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(image_shape), rng.standard_normal(kernel_shape)


def outputs_and_gradients(form, images, kernel, **steps):
    """In one program: the result and what its cosines, as an outer gradient, give to both arguments."""

    def run(images, kernel):
        outputs, pull = jax.vjp(lambda *arguments: form(*arguments, **steps), images, kernel)
        return outputs, *pull(jnp.cos(outputs.astype(jnp.float32)).astype(outputs.dtype))

    return [np.asarray(each, np.float64) for each in jax.jit(run)(images, kernel)]


def by_definition(images, kernel, *, stride, dilation, padding, groups):
    """The definition, in float64, with its gradients for the same outer gradient."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    rows, columns, depth, outputs = kernel.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (
        output_side(side, size, stride=stride, dilation=dilation, padding=padding)
        for side, size in zip(images.shape[1:3], (rows, columns), strict=True)
    )
    weights = kernel.reshape(rows, columns, depth, groups, outputs // groups)
    result = np.zeros((images.shape[0], height, width, groups, outputs // groups))

    def at(row, column):
        top, left = row * dilation, column * dilation
        return (
            slice(None),
            slice(top, top + stride * (height - 1) + 1, stride),
            slice(left, left + stride * (width - 1) + 1, stride),
        )

    places = [(row, column) for row in range(rows) for column in range(columns)]
    grouped = padded.reshape(*padded.shape[:3], groups, depth)
    for row, column in places:
        result += np.einsum("bhwgi,igo->bhwgo", grouped[at(row, column)], weights[row, column])
    outer = np.cos(result)
    images_gradient, kernel_gradient = np.zeros_like(grouped), np.zeros_like(weights)
    for row, column in places:
        kernel_gradient[row, column] = np.einsum("bhwgi,bhwgo->igo", grouped[at(row, column)], outer)
        images_gradient[at(row, column)] += np.einsum("bhwgo,igo->bhwgi", outer, weights[row, column])
    inner = slice(padding, padded.shape[1] - padding), slice(padding, padded.shape[2] - padding)
    return [
        result.reshape(*result.shape[:3], outputs),
        images_gradient.reshape(padded.shape)[:, inner[0], inner[1]],
        kernel_gradient.reshape(kernel.shape),
    ]


def assert_as_defined(form, images, kernel, **steps):
    """Within 30 times the noise of XLA's own float32 result, and of float32 itself where that happens to be exact."""
    found = outputs_and_gradients(form, np.float32(images), np.float32(kernel), **steps)
    direct = outputs_and_gradients(convolve_directly, np.float32(images), np.float32(kernel), **steps)
    truth = by_definition(np.float32(images), np.float32(kernel), **steps)
    for ours, xla, true in zip(found, direct, truth, strict=True):
        assert ours.shape == true.shape
        noise = max(np.abs(xla - true).max(), np.finfo(np.float32).eps * np.abs(true).max())
        assert np.abs(ours - true).max() <= 30 * noise


FORMS = {  # form, groups, inputs of a group, outputs
    "depthwise": (convolve_by_shifts, 4, 1, 8),
    "grouped": (convolve_by_columns, 2, 2, 6),
    "dense": (convolve_by_columns, 1, 3, 5),
    "pairs": (convolve_by_pairs, 1, 3, 5),
    "points": (convolve_points, 1, 3, 5),
}


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMS)),
    kernel_side=st.sampled_from([1, 2, 3, 5]),
    steps=st.fixed_dictionaries(
        {"stride": st.integers(1, 3), "dilation": st.integers(1, 2), "padding": st.integers(0, 5)}
    ),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
)
def test_a_form_is_the_convolution(name, kernel_side, steps, size):
    form, groups, depth, outputs = FORMS[name]
    kernel_side = 1 if form is convolve_points else kernel_side
    steps |= {"dilation": 1} if form is convolve_by_pairs else {}
    assume(min(output_side(side, kernel_side, **steps) for side in size) > 0)
    images, kernel = arrays((2, *size, groups * depth), (kernel_side, kernel_side, depth, outputs))
    assert_as_defined(form, images, kernel, **steps, groups=groups)


@pytest.mark.parametrize(
    ("name", "side", "steps"),
    [
        ("depthwise", 7, (1, 1, 3)),
        ("depthwise", 3, (2, 1, 1)),
        ("depthwise", 3, (1, 2, 2)),
        ("depthwise", 3, (1, 1, 3)),  # more zeros than the kernel is wide
        ("dense", 7, (2, 1, 3)),
        ("pairs", 3, (2, 1, 1)),
        ("pairs", 2, (3, 1, 0)),  # pixels between the pairs that nobody sees
        ("pairs", 5, (1, 1, 4)),
        ("grouped", 3, (1, 2, 2)),
        ("points", 1, (2, 1, 0)),
        ("points", 1, (1, 1, 1)),
    ],
)
def test_the_models_convolutions(name, side, steps):
    form, groups, depth, outputs = FORMS[name]
    images, kernel = arrays((2, 9, 8, groups * depth), (side, side, depth, outputs))
    stride, dilation, padding = steps
    assert_as_defined(form, images, kernel, stride=stride, dilation=dilation, padding=padding, groups=groups)


@pytest.mark.parametrize(
    ("form", "groups", "depth", "side"),
    [(convolve_by_shifts, 8, 1, 5), (convolve_by_columns, 1, 8, 3), (convolve_points, 1, 8, 1)],
)
def test_bfloat16_adds_up_in_float32(form, groups, depth, side):
    """The error stays that of rounding the arguments and the result; sums in bfloat16 would be off by far more."""
    images, kernel = arrays((2, 24, 24, 8), (side, side, depth, 8))
    steps = {"stride": 1, "dilation": 1, "padding": side // 2, "groups": groups}
    images, kernel = jnp.asarray(images, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    found = jax.jit(
        lambda images, kernel: jax.vjp(lambda *arguments: form(*arguments, **steps), images, kernel)[1](
            jnp.ones((2, 24, 24, 8), jnp.bfloat16)
        )
    )(images, kernel)
    exact = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    outputs, _, _ = by_definition(*exact, **steps)
    ours = np.asarray(form(images, kernel, **steps), np.float64)
    assert np.abs(ours - outputs).max() <= 2**-7 * np.abs(outputs).max()
    assert [each.dtype for each in found] == [jnp.bfloat16, jnp.bfloat16]
    pixels = np.pad(exact[0], ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))[:, :24, :24]
    first = np.asarray(found[1], np.float64)[0, 0]
    wanted = np.broadcast_to(pixels.sum(axis=(0, 1, 2))[: 8 if depth == 8 else None, None], (8, 8))
    wanted = wanted if depth == 8 else np.diagonal(wanted)[None]
    assert np.abs(first - wanted).max() <= 2**-7 * np.abs(wanted).max() + 1e-6


def test_forms_go_through_vmap():
    images, kernels = arrays((3, 1, 6, 6, 4), (3, 5, 5, 1, 4))
    steps = {"stride": 1, "dilation": 1, "padding": 2, "groups": 4}

    def gradient(form):
        def loss(images, kernel):
            return jnp.sin(form(images, kernel, **steps)).sum()

        return jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(np.float32(images), np.float32(kernels))

    for ours, direct in zip(gradient(convolve_by_shifts), gradient(convolve_directly), strict=True):
        np.testing.assert_allclose(ours, direct, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "images", "steps", "form"),
    [
        ((1, 1, 64, 128), (8, 56, 56, 64), {}, convolve_points),
        ((1, 1, 64, 128), (8, 56, 56, 64), {"stride": 2}, convolve_points),
        ((3, 3, 1, 64), (8, 56, 56, 64), {"groups": 64}, convolve_by_shifts),
        ((1, 1, 1, 64), (8, 56, 56, 64), {"groups": 64}, convolve_by_shifts),
        ((3, 3, 1, 128), (8, 56, 56, 64), {"groups": 64, "stride": 2}, convolve_by_shifts),
        ((3, 3, 4, 64), (8, 56, 56, 64), {"groups": 16}, convolve_by_columns),
        ((1, 1, 4, 64), (8, 56, 56, 64), {"groups": 16}, convolve_by_columns),
        ((3, 3, 3, 32), (8, 224, 224, 3), {"stride": 2}, convolve_by_pairs),
        ((3, 3, 3, 32), (8, 224, 224, 3), {}, convolve_by_columns),
        ((3, 3, 512, 512), (8, 7, 7, 512), {}, convolve_by_columns),
        ((3, 3, 64, 64), (8, 56, 56, 64), {}, convolve_directly),
        ((7, 7, 3, 64), (8, 224, 224, 3), {"stride": 2}, convolve_directly),
    ],
)
def test_the_choice_depends_on_backend_and_shape(kernel, images, steps, form):
    assert choose_form("cpu", kernel, images, **steps) is form
    assert choose_form("gpu", kernel, images, **steps) is convolve_directly
    assert choose_form("tpu", kernel, images, **steps) is convolve_directly
