"""MobileViT against timm and transformers, in evaluation and in training; weights in everybody's layouts."""

import re

import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights, shapes_of
from benchmarks.parity_cases_mobilevit import MOBILEVIT_CASES, MOBILEVIT_VARIANTS, SMALL, small_huggingface, small_timm
from vitjax.errors import UserError
from vitjax.models import layouts_of
from vitjax.models.mobilevit import MobileViT
from vitjax.weights.rules import export_weights, import_weights

MODEL = MobileViT(**SMALL)
LAYOUTS = {layout.name: layout for layout in layouts_of(MobileViT)}
QUICK = "MobileViT vs timm, odd maps"  # each case compiles for half a minute


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in MOBILEVIT_CASES if name != QUICK)]
)
def test_mobilevit_is_the_reference(name):
    differences = compare(MOBILEVIT_CASES[name](), 0)
    assert misfits(differences) == []
    found = {difference.name for difference in differences}
    assert {"stem_output", "stage_1", "stage_3", "stage_5", "logits", "gradient of input images"} < found
    assert "gradient of params/trunk/stage_3_block/layer_1/attention/key/kernel" in found
    statistics = {name for name in found if name.startswith("batch_stats/")}
    assert ("training" in name) == ("batch_stats/trunk/stage_5_block/fusion/norm/var" in statistics)


@pytest.mark.long
@pytest.mark.parametrize("name", MOBILEVIT_VARIANTS)
def test_every_variant_is_timms(name):
    assert misfits(compare(MOBILEVIT_VARIANTS[name](), 0)) == []


def state_of(module):
    random_weights(module, 1)
    random_batch_norms(module, 1)
    return {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}


_DEPTHS = dict(zip(("2", "3", "4"), SMALL["depths"], strict=True))
_AUTHORS = (
    # timm's names, and those of apple/ml-cvnets at `cvnets-v0.1`
    (r"^stem\.", "conv_1.block."),
    (r"^final_conv\.", "conv_1x1_exp.block."),
    (r"^head\.", "classifier."),
    (r"\.(conv1_1x1|conv2_kxk|conv3_1x1)\.", r".block.\1.block."),
    (r"conv1_1x1", "exp_1x1"),
    (r"conv2_kxk", "conv_3x3"),
    (r"conv3_1x1", "red_1x1"),
    (r"\.conv_kxk\.", ".local_rep.conv_3x3.block."),
    (r"\.1\.conv_1x1\.", ".1.local_rep.conv_1x1.block.conv."),
    (r"\.conv_proj\.", ".conv_proj.block."),
    (r"\.conv_fusion\.", ".fusion.block."),
    (r"\.bn\.", ".norm."),
    (r"transformer\.(\d)\.norm1\.", r"global_rep.\1.pre_norm_mha.0."),
    (r"transformer\.(\d)\.attn\.qkv\.", r"global_rep.\1.pre_norm_mha.1.qkv_proj."),
    (r"transformer\.(\d)\.attn\.proj\.", r"global_rep.\1.pre_norm_mha.1.out_proj."),
    (r"transformer\.(\d)\.norm2\.", r"global_rep.\1.pre_norm_ffn.0."),
    (r"transformer\.(\d)\.mlp\.fc1\.", r"global_rep.\1.pre_norm_ffn.1."),
    (r"transformer\.(\d)\.mlp\.fc2\.", r"global_rep.\1.pre_norm_ffn.4."),
    (r"^stages\.(\d)\.1\.norm\.", lambda found: f"stages.{found[1]}.1.global_rep.{_DEPTHS[found[1]]}."),
    (r"^stages\.(\d)\.", lambda found: f"layer_{int(found[1]) + 1}."),
)


def authors_key(key):
    for pattern, name in _AUTHORS:
        key = re.sub(pattern, name, key)
    return key


@pytest.fixture(scope="module")
def files():
    """What each layout's file holds, all of the same sizes, and our shapes; the authors' is timm's, renamed."""
    timm = state_of(small_timm())
    authors = {authors_key(key): array for key, array in timm.items()}
    shapes = shapes_of(MODEL, np.zeros((1, 32, 32, 3), np.float32))
    return {"timm": timm, "authors": authors, "huggingface": state_of(small_huggingface())}, shapes


@pytest.mark.parametrize("name", ["timm", "huggingface", "authors"])
def test_state_dicts_come_back_bit_for_bit(files, name):
    foreign, rules = files[0][name], LAYOUTS[name].rules(MODEL)
    back = export_weights(rules, import_weights(rules, foreign, files[1]))
    kept = {key: array for key, array in foreign.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for key, array in kept.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_the_authors_arrays_lie_where_timms_do(files):
    foreign = {f"module.{key}": array for key, array in files[0]["authors"].items()}
    ours = import_weights(LAYOUTS["authors"].rules(MODEL), LAYOUTS["authors"].prepare(foreign), files[1])
    timms = import_weights(LAYOUTS["timm"].rules(MODEL), files[0]["timm"], files[1])
    for path, array in timms.items():
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


def test_a_file_without_classifier_has_no_prefix(files):
    whole = files[0]["huggingface"]
    bare = {key.removeprefix("mobilevit."): array for key, array in whole.items() if not key.startswith("classifier")}
    prepared = LAYOUTS["huggingface"].prepare(bare)
    assert prepared.keys() == {key for key in whole if not key.startswith("classifier")}
    assert LAYOUTS["huggingface"].prepare(whole) is whole


def test_a_file_of_another_width_is_refused(files):
    other = MobileViT(**{**SMALL, "widths": (8, 8, 16, 24, 24, 40)})
    shapes = shapes_of(other, np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(UserError, match=r"wrong shapes .*final_conv\.conv\.weight \(40, 32, 1, 1\)"):
        import_weights(LAYOUTS["timm"].rules(other), files[0]["timm"], shapes)
