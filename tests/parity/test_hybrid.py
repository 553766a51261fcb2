"""Hybrid ViT against timm: forward, stages and gradients, within 30 times the reference's own noise; sizes; weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch

from benchmarks.comparison import compare, misfits, random_weights
from benchmarks.parity_cases_hybrid import HYBRID_CASES
from vitjax.models import create_model
from vitjax.weights.rules import export_weights, import_weights


@pytest.mark.parametrize("name", HYBRID_CASES)
def test_hybrid_is_the_reference(name):
    case = HYBRID_CASES[name]()
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


def test_every_part_is_compared():
    compared = {difference.name: difference for difference in compare(HYBRID_CASES["Hybrid vs timm, two stages"](), 3)}
    stages = {"root", "stage_0", "stage_1", "embedded", "block_0_output", "normed", "pooled", "logits"}
    assert stages < set(compared)
    assert "gradient of params/patch_embedding/network/stage_1_unit_0/shortcut_conv/kernel" in compared
    assert all(difference.magnitude > 0 for difference in compared.values())


@pytest.mark.parametrize("name", HYBRID_CASES)
def test_state_dicts_come_back_bit_for_bit(name):
    case = HYBRID_CASES[name]()
    random_weights(case.reference, 0)
    foreign = {key: tensor.detach().numpy() for key, tensor in case.reference.state_dict().items()}
    back = export_weights(case.table, import_weights(case.table, foreign, case.variables))
    assert set(back) == set(foreign)
    for key, array in foreign.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def parameters(name, depth):
    module = create_model(name, depth=depth)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_r_s16_p8_224",
        "vit_small_r26_s32_224",
        "vit_base_r26_s32_224",
        "vit_base_r50_s16_224",
        "vit_large_r50_s32_224",
    ],
)
def test_variants_have_timms_sizes(name):
    with torch.device("meta"):  # shapes without numbers
        reference = timm.create_model(name, num_classes=1000)
    # Blocks are alike: two depths give the cost of one.
    one, two = (parameters(name, depth) for depth in (1, 2))
    expected = sum(parameter.numel() for parameter in reference.parameters())
    assert one + (two - one) * (create_model(name).depth - 1) == expected
