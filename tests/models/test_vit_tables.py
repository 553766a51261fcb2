"""ViT's layouts: there and back bit for bit for any model that a layout can express, and old forms of the JAX files."""

import functools
import logging

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.models.vit import AttentionPooling, AveragePooling, ClassTokenPooling, SinCosPositions, ViT
from vitjax.models.vit_tables import LAYOUTS, big_vision_names, huggingface_names, vit_jax_names
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.ops.positions import resample_bicubic, resample_bicubic_antialias, resample_corners
from vitjax.paths import flatten
from vitjax.weights.rules import export_weights, import_weights

BY_NAME = {layout.name: layout for layout in LAYOUTS}
MAP = functools.partial(AttentionPooling, num_heads=2, mlp_width=24)
TOKEN = {"use_class_token": True, "pool": ClassTokenPooling}
AVERAGE = {"use_class_token": False, "pool": AveragePooling}
ATTENTION = {"use_class_token": False, "pool": MAP}
AFTER = {"use_class_token": True, "pool": AveragePooling, "norm_after_pooling": True}
POOLINGS = {
    "timm": (TOKEN, AVERAGE, AFTER, ATTENTION),
    "huggingface": (TOKEN,),
    "vit_jax": (TOKEN, AVERAGE),
    "big_vision": (TOKEN, AVERAGE, ATTENTION),
}


def vit(layout, **keywords) -> ViT:
    sizes = {"image_size": 12, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 3, "mlp_width": 20}
    if keywords.get("pool") is MAP:
        keywords["pool"] = functools.partial(MAP, activation=layout.settings["activation"])
    return ViT(**{"num_classes": 5, **sizes, **layout.settings, **keywords})


def shapes(module, channels=3) -> dict[str, tuple[int, ...]]:
    images = np.zeros((1, *module.image_shape, channels), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flatten({"params": variables["params"]}).items()}


def random_arrays(template, seed=0, dtype=np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {path: draw.normal(size=shape).astype(dtype) for path, shape in template.items()}


def assert_same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def plain(name, **keywords):
    """Random weights of a small model, in a layout and as ours."""
    layout = BY_NAME[name]
    module = vit(layout, **keywords)
    ours = random_arrays(shapes(module))
    return layout, module, export_weights(layout.rules(module), ours), ours


def read_back(layout, module, foreign):
    return import_weights(layout.rules(module), layout.prepare(foreign), shapes(module))


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_weights_come_back_bit_for_bit(name, data):
    layout = BY_NAME[name]
    module = vit(
        layout,
        **data.draw(st.sampled_from(POOLINGS[name])),
        depth=data.draw(st.integers(1, 2)),
        num_heads=data.draw(st.sampled_from((1, 2, 6))),
        patch_size=data.draw(st.sampled_from((2, 6))),
        image_size=data.draw(st.sampled_from((12, (6, 18)))),
        num_classes=data.draw(st.sampled_from((0, 5))),
        representation_size=data.draw(st.sampled_from((None, 7))),
        use_qkv_bias=data.draw(st.booleans()),
    )
    template = shapes(module, data.draw(st.sampled_from((1, 3))))
    ours = random_arrays(template, dtype=data.draw(st.sampled_from((np.float32, np.float16))))
    foreign = export_weights(layout.rules(module), ours)
    again = import_weights(layout.rules(module), layout.prepare(foreign), template)
    assert_same(again, ours)
    assert_same(export_weights(layout.rules(module), again), foreign)


def test_settings_are_the_numbers_of_each_implementation():
    found = {
        name: (
            layout.settings["norm_epsilon"],
            layout.settings["activation"],
            vit(layout).positions().resampling,
            vit(layout).positions().embed_class,
        )
        for name, layout in BY_NAME.items()
    }
    assert found == {
        "timm": (1e-6, gelu, resample_bicubic_antialias, True),
        "huggingface": (1e-12, gelu, resample_bicubic, True),
        "vit_jax": (1e-6, gelu_tanh, resample_corners, True),
        "big_vision": (1e-6, gelu_tanh, resample_corners, False),
    }


def test_each_key_has_the_published_name_and_shape():
    # The forms that papers/vit.md 2.1 and 2.2 list: heads have an axis of their own.
    _, _, vit_jax, _ = plain("vit_jax", representation_size=7)
    block = "Transformer/encoderblock_1"
    assert vit_jax["embedding/kernel"].shape == (4, 4, 3, 12)
    assert vit_jax["Transformer/posembed_input/pos_embedding"].shape == (1, 10, 12)
    assert vit_jax[f"{block}/MultiHeadDotProductAttention_1/key/kernel"].shape == (12, 3, 4)
    assert vit_jax[f"{block}/MultiHeadDotProductAttention_1/key/bias"].shape == (3, 4)
    assert vit_jax[f"{block}/MultiHeadDotProductAttention_1/out/kernel"].shape == (3, 4, 12)
    assert {f"{block}/LayerNorm_2/scale", f"{block}/MlpBlock_3/Dense_1/bias", "pre_logits/kernel"} <= set(vit_jax)
    _, _, big_vision, _ = plain("big_vision", **ATTENTION)
    assert big_vision["pos_embedding"].shape == (1, 9, 12)
    assert big_vision["MAPHead_0/probe"].shape == (1, 1, 12)
    assert big_vision["MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"].shape == (12, 2, 6)
    assert f"{block}/MlpBlock_0/Dense_0/kernel" in big_vision


def test_averages_take_timms_name_of_the_last_norm():
    _, _, before, _ = plain("timm", **AVERAGE)
    _, _, behind, _ = plain("timm", **AFTER)
    assert {key.split(".")[0] for key in set(before) - set(behind)} == {"norm"}
    assert {key.split(".")[0] for key in set(behind) - set(before)} == {"fc_norm", "cls_token"}


@pytest.mark.parametrize("prefix", ["opt/target/", "params/", "params/img/", "img/"])
@pytest.mark.parametrize("name", ["vit_jax", "big_vision"])
def test_prefixes_are_taken_off_and_the_rest_is_counted(name, prefix, caplog):
    layout, module, foreign, ours = plain(name)
    wrapped = {f"{prefix}{key}": array for key, array in foreign.items()}
    with caplog.at_level(logging.INFO, "vitjax"):
        assert_same(read_back(layout, module, wrapped), ours)
        assert not caplog.messages
        others = {"opt/state/step": np.int32(3), "txt/embedding": np.ones(3)}
        assert_same(read_back(layout, module, wrapped | others), ours)
    assert caplog.messages == [f"2 arrays are not under `{prefix}` and not read: opt/state/step, txt/embedding"]


def test_counters_of_either_age_are_understood():
    layout, module, foreign, ours = plain("vit_jax")
    linen = {
        key.replace("Attention_1", "Attention_0").replace("LayerNorm_2", "LayerNorm_1").replace("Block_3", "Block_0"): v
        for key, v in foreign.items()
    }
    assert set(linen) != set(foreign)
    assert_same(read_back(layout, module, linen), ours)
    # The same weights as a big_vision file: its table has no row for the class token.
    other = BY_NAME["big_vision"]
    for names in (foreign, linen):
        folded = read_back(other, vit(other), names)
        table, token = "params/position_embedding/table", "params/class_token"
        np.testing.assert_array_equal(folded[table], ours[table][1:])
        np.testing.assert_array_equal(folded[token], ours[token] + ours[table][:1])
        rest = {path: array for path, array in ours.items() if path not in (table, token)}
        assert_same({path: folded[path] for path in rest}, rest)


def test_a_file_with_both_counters_is_refused():
    layout, module, foreign, _ = plain("vit_jax")
    key = "Transformer/encoderblock_0/LayerNorm_2/scale"
    foreign[key.replace("_2", "_1")] = foreign[key]
    with pytest.raises(UserError, match=r"unexpected keys \(1\): Transformer/encoderblock_0/LayerNorm_1/scale"):
        read_back(layout, module, foreign)


@pytest.mark.parametrize("old", ["Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"])
def test_old_places_of_big_visions_positions(old):
    layout, module, foreign, ours = plain("big_vision")
    foreign[old] = foreign.pop("pos_embedding")
    assert_same(read_back(layout, module, foreign), ours)


def test_stacked_blocks_are_taken_apart():
    layout, module, foreign, ours = plain("big_vision")
    first = "Transformer/encoderblock_0/"
    stacked = {key: array for key, array in foreign.items() if "/encoderblock_" not in key}
    for key in [key for key in foreign if key.startswith(first)]:
        inside = key.removeprefix(first)
        layers = [foreign[f"Transformer/encoderblock_{number}/{inside}"] for number in range(2)]
        stacked[f"Transformer/encoderblock/{inside}"] = np.stack(layers)
    assert_same(read_back(layout, module, stacked), ours)
    with pytest.raises(UserError, match=r"encoderblock_1/LayerNorm_0/bias"):
        read_back(layout, vit(layout, depth=1), stacked)


def test_an_inlined_attention_pooling_goes_to_its_place():
    layout, module, foreign, ours = plain("big_vision", **ATTENTION)
    inlined = {key.removeprefix("MAPHead_0/"): array for key, array in foreign.items()}
    assert "probe" in inlined
    assert_same(read_back(layout, module, inlined), ours)


def test_odd_shapes_of_the_position_table_reach_the_one_error():
    layout, module, foreign, _ = plain("big_vision")
    for shape in ((1, 0, 12), (10,), (1, 10, 11), (1, 11, 12), (2, 10, 12)):
        with pytest.raises(UserError, match="pos_embedding"):
            read_back(layout, module, foreign | {"pos_embedding": np.zeros(shape, np.float32)})
    stacked = {"Transformer/encoderblock/LayerNorm_0/scale": np.float32(1)}
    with pytest.raises(UserError, match=r"encoderblock/LayerNorm_0/scale \(\)"):
        read_back(layout, module, foreign | stacked)


def test_hugging_faces_other_names():
    layout, module, foreign, ours = plain("huggingface", num_classes=0, representation_size=12)
    bare = {key.removeprefix("vit."): array for key, array in foreign.items()}
    assert_same(read_back(layout, module, bare), ours)
    assert_same(huggingface_names(foreign), foreign)
    masked = foreign | {"vit.embeddings.mask_token": np.zeros((1, 1, 12), np.float32)}
    assert_same(read_back(layout, module, masked), ours)


def test_models_that_a_layout_cannot_express_are_refused():
    for name, keywords, path in (
        ("vit_jax", ATTENTION, "params/pooling/attention/probe"),
        ("huggingface", ATTENTION, "params/pooling/attention/probe"),
    ):
        with pytest.raises(UserError, match=path):
            plain(name, **keywords)


def test_fixed_positions_want_no_table():
    layout = BY_NAME["big_vision"]
    _, module, foreign, _ = plain("big_vision", positions=SinCosPositions, **AVERAGE)
    assert "pos_embedding" not in foreign
    with pytest.raises(UserError, match=r"pos_embedding \(1, 9, 12\) for params/position_embedding/table"):
        read_back(layout, module, foreign | {"pos_embedding": np.zeros((1, 9, 12), np.float32)})


def test_names_are_left_alone_where_nothing_is_old():
    for name, names in (("vit_jax", vit_jax_names), ("big_vision", big_vision_names)):
        _, _, foreign, _ = plain(name)
        assert list(names(foreign)) == list(foreign)


def test_two_old_names_of_one_array_are_refused():
    layout, module, foreign, _ = plain("big_vision", **ATTENTION)
    twice = {key.removeprefix("MAPHead_0/"): array for key, array in foreign.items()} | foreign
    with pytest.raises(UserError, match=r"unexpected keys \(\d+\): .*probe"):
        read_back(layout, module, twice)
    table = foreign.pop("pos_embedding")
    foreign |= dict.fromkeys(("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"), table)
    with pytest.raises(UserError, match=r"unexpected keys \(1\): Transformer/pos_embedding"):
        read_back(layout, module, foreign)


@pytest.mark.parametrize(
    ("name", "keywords", "said"),
    [
        ("big_vision", {"activation": gelu}, r"`pool` has `activation` \(=gelu\), expected the model's \(=gelu_tanh\)"),
        ("timm", {"norm_epsilon": 1e-5}, r"`pool` has `norm_epsilon` \(=1e-05\), expected the model's \(=1e-06\)"),
    ],
)
def test_a_pooling_with_numerics_of_its_own_is_refused(name, keywords, said):
    layout = BY_NAME[name]
    with pytest.raises(UserError, match=said):
        layout.rules(vit(layout, use_class_token=False, pool=functools.partial(MAP, **keywords)))
