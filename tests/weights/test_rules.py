"""Weight tables in both directions: whatever fits comes back bit for bit, whatever does not fit is listed at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.weights.rules import (
    Fixed,
    Rule,
    axes,
    conv,
    conv_patches,
    export_weights,
    fused,
    identity,
    import_weights,
    linear,
    linear_patches,
    patch_vector,
)

QKV = tuple(f"block_{{block}}/attention/{part}/kernel" for part in ("query", "key", "value"))
TABLE = (
    Rule("patches.weight", "patches/kernel", conv_patches(3)),
    Rule("cls", "cls", axes("1 1 d -> d")),
    Rule("blocks.{block}.qkv.weight", QKV, fused(linear, 3)),
    Rule("blocks.{block}.{norm:first|second}.weight", "block_{block}/{norm}/scale"),
    Fixed("blocks.{block}.{norm:first|second}.bias", 0.0, like="blocks.{block}.{norm}.weight"),
    Rule("blocks.{block}.counter", None),
    Rule("head.weight", "head/kernel", linear),
)


def foreign_weights(depth: int = 2, width: int = 4, side: int = 2, dtype: type = np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(depth + 10 * width).normal
    weights = {"patches.weight": draw(size=(width, 3, side, side)), "cls": draw(size=(1, 1, width))}
    for block in range(depth):
        weights[f"blocks.{block}.qkv.weight"] = draw(size=(3 * width, width))
        for norm in ("first", "second"):
            weights[f"blocks.{block}.{norm}.weight"] = draw(size=width)
            weights[f"blocks.{block}.{norm}.bias"] = np.zeros(width)
    weights["head.weight"] = draw(size=(5, width))
    return {key: array.astype(dtype) for key, array in weights.items()}


def template(depth: int = 2, width: int = 4, side: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"patches/kernel": (side * side * 3, width), "cls": (width,)}
    for block in range(depth):
        shapes |= {path.replace("{block}", str(block)): (width, width) for path in QKV}
        shapes |= {f"block_{block}/{norm}/scale": (width,) for norm in ("first", "second")}
    return shapes | {"head/kernel": (width, 5)}


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for key, array in one.items():
        assert array.dtype == other[key].dtype, key
        assert array.shape == other[key].shape, key
        assert np.ascontiguousarray(array).tobytes() == np.ascontiguousarray(other[key]).tobytes(), key


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(1, 4), st.sampled_from([np.float32, np.float16, np.float64]))
def test_there_and_back_gives_the_same_bits(depth, width, side, dtype):
    foreign = foreign_weights(depth, width, side, dtype)
    ours = import_weights(TABLE, foreign, template(depth, width, side))
    assert list(ours) == list(template(depth, width, side))
    assert_same_bits(export_weights(TABLE, ours), foreign)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_each_transform_is_undone_by_its_inverse(channels, width, side, parts):
    rng = np.random.default_rng(channels + 10 * width)
    cases = [
        (identity, (width, side)),
        (linear, (width, side)),
        (conv, (width, channels, side, side + 1)),
        (axes("d a k -> d (a k)", a=parts), (width, parts, side)),
        (conv_patches(channels), (width, channels, side, side)),
        (linear_patches(channels), (width, channels * side * side)),
        (patch_vector(channels), (channels * side * side,)),
        (fused(linear, parts), (parts * width, side)),
    ]
    for transform, shape in cases:
        foreign = rng.normal(size=shape)
        ours = transform.forward(foreign)
        np.testing.assert_array_equal(transform.inverse(ours), foreign, err_msg=transform.name)
        again = transform.forward(transform.inverse(ours))
        assert all(np.array_equal(a, b) for a, b in zip(again, ours, strict=True)), transform.name


def test_patch_projections_give_what_the_convolution_gives():
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(3, 4, 4)), rng.normal(size=(5, 3, 4, 4))
    expected = np.einsum("chw,dchw->d", image, weight)
    ours = image.transpose(1, 2, 0).reshape(-1)  # (row, column, channel)
    np.testing.assert_allclose(ours @ conv_patches(3).forward(weight)[0], expected)
    np.testing.assert_allclose(ours @ linear_patches(3).forward(weight.reshape(5, -1))[0], expected)
    scale = rng.normal(size=48)
    scaled = (image.reshape(-1) * scale).reshape(image.shape).transpose(1, 2, 0).reshape(-1)
    np.testing.assert_allclose(ours * patch_vector(3).forward(scale)[0], scaled)


def test_fused_keys_are_split_in_the_order_of_their_rows():
    foreign = foreign_weights(1, 2)
    ours = import_weights(TABLE, foreign, template(1, 2))
    rows = foreign["blocks.0.qkv.weight"]
    for number, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(ours[f"block_0/attention/{part}/kernel"], rows[2 * number : 2 * number + 2].T)


def test_results_are_contiguous_and_keep_scalars():
    table = (Rule("scale", "scale"), Rule("w", "w", linear))
    ours = import_weights(table, {"scale": np.array(2.0), "w": np.ones((2, 3))}, {"scale": (), "w": (3, 2)})
    assert ours["scale"].shape == ()
    assert ours["w"].flags.c_contiguous
    assert all(array.flags.c_contiguous for array in export_weights(table, ours).values())


def test_one_error_lists_every_misfit_of_an_import():
    foreign = foreign_weights(2)
    del foreign["cls"]
    foreign["surprise"] = np.ones((7, 1))
    foreign["blocks.2.first.weight"] = np.ones(4)
    foreign["blocks.1.first.bias"] = np.ones(4)
    foreign["head.weight"] = np.ones((6, 4))
    foreign["blocks.0.qkv.weight"] = np.ones((13, 4))
    text = message(lambda: import_weights(TABLE, foreign, template(2)))
    for part in (
        "unexpected keys (1): surprise (7, 1)",
        "keys for variables that the model lacks (1): blocks.2.first.weight (4,) for block_2/first/scale",
        "buffers that hold something of their own (1): blocks.1.first.bias (4,), expected 0.0",
        "head.weight (6, 4) makes head/kernel (4, 6), expected (4, 5)",
        "blocks.0.qkv.weight (13, 4): fused axes(o i -> i o) needs a first axis of 3 equal parts",
        "variables that nothing fills (1): cls (4,) (wants cls)",
    ):
        assert part in text


def test_a_key_that_two_rules_match_is_an_error():
    text = message(
        lambda: import_weights((*TABLE, Rule("{part:\\w+}.weight", "{part}/scale")), foreign_weights(), template())
    )
    assert "keys that several rules match (2)" in text  # patches.weight as well
    assert "head.weight (5, 4) = head.weight = {part:\\w+}.weight" in text


def test_a_variable_filled_twice_is_an_error():
    table = (Rule("a", "x"), Rule("b", "x"))
    text = message(lambda: import_weights(table, {"a": np.ones(1), "b": np.ones(1)}, {"x": (1,)}))
    assert "variables filled twice (1): x by a and b" in text


def test_one_error_lists_every_misfit_of_an_export():
    ours = import_weights(TABLE, foreign_weights(1), template(1))
    ours |= {"memory": np.ones((3, 4)), "patches/kernel": np.ones((13, 4))}
    del ours["block_0/attention/key/kernel"]
    text = message(lambda: export_weights(TABLE, ours))
    assert "variables without a place in the layout (1): memory (3, 4)" in text
    assert "keys that lack a part (1): blocks.0.qkv.weight without block_{block}/attention/key/kernel" in text
    assert "patches.weight of (13, 4): conv_patches 13 values are no square patch of 3 channels" in text


def test_a_variable_with_two_places_is_an_error_on_the_way_out():
    table = (Rule("norm.weight", "norm/scale"), Rule("fc_norm.weight", "norm/scale"))
    text = message(lambda: export_weights(table, {"norm/scale": np.ones(2)}))
    assert "variables that several rules match (1): norm/scale (2,) = norm.weight = fc_norm.weight" in text


def test_dropped_keys_may_hold_anything_and_are_not_written():
    foreign = foreign_weights(1) | {"blocks.0.counter": np.array(7)}
    exported = export_weights(TABLE, import_weights(TABLE, foreign, template(1)))
    assert set(exported) == set(foreign) - {"blocks.0.counter"}


def test_dots_in_keys_are_dots_and_numbers_are_whole():
    foreign = foreign_weights(1) | {"blocksX0Xfirst.weight": np.ones(4), "blocks.zero.first.weight": np.ones(4)}
    text = message(lambda: import_weights(TABLE, foreign, template(1)))
    assert "unexpected keys (2)" in text


def test_a_repeated_field_has_to_repeat_its_text():
    table = (Rule("stage{n}.block{n}.w", "w_{n}"),)
    assert import_weights(table, {"stage1.block1.w": np.ones(1)}, {"w_1": (1,)})
    assert "unexpected" in message(lambda: import_weights(table, {"stage1.block2.w": np.ones(1)}, {"w_1": (1,)}))


def test_a_rule_that_cannot_be_read_backwards_is_refused_when_it_is_written():
    for make in (
        lambda: Rule("blocks.{block}.w", "block/w"),
        lambda: Rule("w", "block_{block}/w"),
        lambda: Fixed("blocks.{block}.b", 0.0, like="w"),
    ):
        with pytest.raises(ValueError, match="same fields"):
            make()
    assert Rule("blocks.{block}.counter", None).targets == ()
