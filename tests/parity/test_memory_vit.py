"""Learnable-memory ViT against vit-pytorch's Adapter: rows of both tasks, logits, and all gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_weights
from benchmarks.parity_cases_memory_vit import MEMORY_VIT_CASES, _our_stages
from vitjax.errors import UserError
from vitjax.models.memory_vit import normed_memory, shared_position
from vitjax.models.memory_vit_pytorch import vit_pytorch_adapter
from vitjax.paths import flatten
from vitjax.weights.rules import export_weights, import_weights

FIRST = "Memory ViT vs vit-pytorch, 5 cells"
SIZES = {"image_size": 32, "patch_size": 8, "num_classes": 7, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
SIZES |= {"dim_head": 8, "adapter_classes": 3, "num_memories_per_layer": 5}


@pytest.mark.parametrize("name", MEMORY_VIT_CASES)
def test_memory_vit_is_the_reference(name):
    case = MEMORY_VIT_CASES[name]()
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


def test_every_part_is_compared():
    compared = {difference.name for difference in compare(MEMORY_VIT_CASES[FIRST](), 3)}
    assert {"block_0_tasks", "block_1_tasks", "block_1_output", "logits", "gradient of input images"} < compared
    new = {"class_token", "memory", "norm/scale", "norm/bias", "head/kernel", "head/bias"}
    assert {f"gradient of params/task_adapter/{name}" for name in new} < compared


@pytest.mark.parametrize(
    ("keywords", "first_wrong"),
    [
        ({"prepare_memory": normed_memory}, "block_0_tasks"),
        ({"place_class_token": shared_position}, "block_0_tasks"),
        ({"task_norm": None}, None),
    ],
)
def test_the_tolerance_sees_the_papers_form(keywords, first_wrong):
    case, module = MEMORY_VIT_CASES[FIRST](), vit_pytorch_adapter(**SIZES, **keywords)
    if first_wrong is None:  # a norm that the model lacks is a parameter that has no place
        shapes = jax.eval_shape(module.init, jax.random.key(0), case.inputs(0)["images"])
        variables = {path: leaf.shape for path, leaf in flatten({"params": shapes["params"]}).items()}
        with pytest.raises(UserError, match="task_adapter/norm/scale"):
            compare(dataclasses.replace(case, variables=variables), 0)
        return
    found = misfits(compare(dataclasses.replace(case, stages=lambda v, inputs: _our_stages(module, v, inputs)), 0))
    assert found[0].startswith(first_wrong)
    assert not any(line.startswith("block_1_output") for line in found)  # the backbone sees nothing of it


def test_weights_go_back_bit_for_bit():
    case = MEMORY_VIT_CASES[FIRST]()
    random_weights(case.reference, 5)
    state = {name: tensor.numpy() for name, tensor in case.reference.state_dict().items()}
    written = export_weights(case.table, import_weights(case.table, state, case.variables))
    assert set(state) - set(written) == {"attn_mask"}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])
