"""ResNet against timm and transformers: outputs, stages, gradients, running statistics; both layouts of weights."""

import jax
import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, shapes_of
from benchmarks.parity_cases_resnet import RESNET_CASES, SMALL
from vitjax.models import layouts_of
from vitjax.models.resnet import VARIANTS, ResNet
from vitjax.weights.rules import export_weights, import_weights


@pytest.mark.parametrize("name", RESNET_CASES)
def test_resnet_is_the_reference(name):
    case = RESNET_CASES[name]()
    found = compare(case, 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"stem_output", "stage_1", "stage_4", "logits", "gradient of input images"} < names
    assert (len(case.statistics) > 0 and set(case.statistics) < names) == case.training
    assert all(difference.magnitude > 0 for difference in found)


@pytest.mark.parametrize(("layout", "name"), [("timm", "ResNet vs timm"), ("huggingface", "ResNet vs Hugging Face")])
def test_state_dicts_come_back_bit_for_bit(layout, name):
    case = RESNET_CASES[name]()
    found = next(one for one in layouts_of(ResNet) if one.name == layout)
    weights = {key: tensor.detach().numpy() for key, tensor in case.reference.state_dict().items()}
    table = found.rules(ResNet(**SMALL))
    back = export_weights(table, import_weights(table, found.prepare(weights), case.variables))
    assert set(back) == {key for key in weights if not key.endswith("num_batches_tracked")}
    for key, array in back.items():
        np.testing.assert_array_equal(array, weights[key], err_msg=key)


def test_a_file_without_classifier_has_no_prefix():
    case = RESNET_CASES["ResNet vs Hugging Face"]()
    found = next(one for one in layouts_of(ResNet) if one.name == "huggingface")
    headless = ResNet(**{**SMALL, "num_classes": 0})
    weights = {key: tensor.detach().numpy() for key, tensor in case.reference.resnet.state_dict().items()}
    shapes = {path: shape for path, shape in case.variables.items() if not path.startswith("params/head")}
    assert import_weights(found.rules(headless), found.prepare(weights), shapes).keys() == shapes.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_take_timms_weights(name):
    import timm
    import torch

    with torch.device("meta"):  # shapes without numbers
        reference = timm.create_model(name)
    module = ResNet(**VARIANTS[name])
    shapes = shapes_of(module, jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    weights = {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in reference.state_dict().items()}
    assert import_weights(layouts_of(ResNet)[0].rules(module), weights, shapes).keys() == shapes.keys()
