"""EfficientViT against timm: outputs, stages, gradients, running statistics; both layouts of weights."""

import jax
import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights, shapes_of
from benchmarks.parity_cases_efficientvit import EFFICIENTVIT_CASES, SMALL
from vitjax.errors import UserError
from vitjax.layers.cascaded_attention import offset_numbers
from vitjax.models import efficientvit_tables, layouts_of
from vitjax.models.efficientvit import VARIANTS, EfficientViT
from vitjax.weights.rules import export_weights, import_weights


# The case with whole windows only has nothing that the other two have not; the tables are tried on it.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name == "EfficientViT vs timm" else [])
        for name in EFFICIENTVIT_CASES
    ],
)
def test_efficientvit_is_the_reference(name):
    case = EFFICIENTVIT_CASES[name]()
    found = compare(case, 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"stage_1", "stage_2", "pooled", "logits", "gradient of input images"} < names
    assert "gradient of params/trunk/stage_2_block_0/attention/windows/biases" in names
    assert (len(case.statistics) > 0 and set(case.statistics) < names) == case.training
    assert all(difference.magnitude > 0 for difference in found)


def weights_of(case):
    random_weights(case.reference, 1)
    random_batch_norms(case.reference, 1)
    return {key: tensor.detach().numpy().copy() for key, tensor in case.reference.state_dict().items()}


def layout(name):
    return next(layout for layout in layouts_of(EfficientViT) if layout.name == name)


def small_case():
    case = EFFICIENTVIT_CASES["EfficientViT vs timm"]()
    return case, EfficientViT(num_classes=7, image_size=80, **SMALL)


def in_creams_names(weights):
    """The keys of timm as Cream has them (two stages, a block each)."""
    names = {}
    for key in weights:
        name = key.replace(".conv.", ".c.").replace("head.linear", "head.l")
        for number in range(1, 5):
            name = name.replace(f"patch_embed.conv{number}.", f"patch_embed.{2 * number - 2}.")
        for number, part in enumerate(("res1", "patchmerge", "res2")):
            name = name.replace(f"stages.1.downsample.{part}.", f"blocks2.{number}.")
        names[key] = name.replace("stages.0.blocks.0.", "blocks1.0.").replace("stages.1.blocks.0.", "blocks2.3.")
    return {names[key]: array for key, array in weights.items()}


def test_timms_state_dicts_come_back_bit_for_bit():
    case, module = small_case()
    weights = weights_of(case)
    table = layout("timm").rules(module)
    back = export_weights(table, import_weights(table, weights, case.variables))
    kept = {key for key in weights if not key.endswith("num_batches_tracked")}
    assert set(back) == kept
    for key in kept:
        np.testing.assert_array_equal(back[key], weights[key], err_msg=key)


def test_the_authors_files():
    case, module = small_case()
    weights = weights_of(case)
    ours = import_weights(layout("timm").rules(module), weights, case.variables)
    theirs = in_creams_names(weights)
    numbers = {f"blocks{stage}.{block}.mixer.m.attn.attention_bias_idxs": offset_numbers(side)
               for stage, block, side in ((1, 0, 5), (2, 3, 3))}  # fmt: skip
    flat = {key: array[:, :, 0, 0] if array.shape[2:] == (1, 1) else array for key, array in theirs.items()}
    table, prepare = layout("authors").rules(module), layout("authors").prepare
    for file in (theirs, flat | numbers):
        found = import_weights(table, prepare(file), case.variables)
        for path, array in ours.items():
            np.testing.assert_array_equal(found[path], array, err_msg=path)
    kept = {key for key in theirs if not key.endswith("num_batches_tracked")}
    assert set(export_weights(table, ours)) == kept
    wrong = {key: array + 1 for key, array in numbers.items()}
    with pytest.raises(UserError, match=r"mixer.m.attn.attention_bias_idxs \(25, 25\) does not number"):
        prepare(flat | wrong)


def test_the_authors_distillation_head():
    case, module = small_case()
    weights = in_creams_names(weights_of(case))
    more = weights | {key.replace("head.", "head_dist."): 2 * array for key, array in weights.items() if "head" in key}
    distilled = module.clone(distilled=True)
    shapes = shapes_of(distilled, np.zeros((1, 80, 80, 3), np.float32))
    found = import_weights(layout("authors").rules(distilled), more, shapes)
    np.testing.assert_array_equal(found["params/distillation_head/bias"], 2 * found["params/head/bias"])
    assert set(export_weights(layout("authors").rules(distilled), found)) < set(more)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_take_timms_weights(name):
    import timm
    import torch

    with torch.device("meta"):  # shapes without numbers
        reference = timm.create_model(name)
    module = EfficientViT(**VARIANTS[name])
    shapes = shapes_of(module, jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    weights = {key: np.zeros(tensor.shape, np.float32) for key, tensor in reference.state_dict().items()}
    assert import_weights(efficientvit_tables.timm(module), weights, shapes).keys() == shapes.keys()
