"""ViT against timm and Hugging Face: forward, stages and gradients, within 30 times the reference's own noise."""

import dataclasses
import functools

import jax
import pytest

from benchmarks.comparison import compare, misfits
from benchmarks.parity_cases import VIT_CASES
from vitjax.models.vit import ViT


@pytest.mark.parametrize("name", VIT_CASES)
def test_vit_is_the_reference(name):
    case = VIT_CASES[name]()
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


def test_every_part_is_compared():
    compared = {difference.name for difference in compare(VIT_CASES["ViT vs timm, class token"](), 3)}
    stages = {"embedded", "block_0_output", "block_1_output", "normed", "pooled", "logits"}
    assert stages < compared
    assert "gradient of input images" in compared
    assert sum(name.startswith("gradient of params/") for name in compared) == 2 * (2 * 8) + 8


@pytest.mark.parametrize(
    ("keywords", "first_wrong"),
    [
        ({"activation": functools.partial(jax.nn.gelu, approximate=True)}, "block_0_output"),
        ({"norm_epsilon": 1e-3}, "block_0_output"),
        ({"num_heads": 2}, "block_0_output"),
    ],
)
def test_the_tolerance_sees_a_small_difference(keywords, first_wrong):
    case = VIT_CASES["ViT vs timm, class token"]()
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4, "mlp_width": 128}
    module = ViT(**{"num_classes": 7, **sizes, **keywords})

    def stages(variables, inputs):
        logits, state = module.apply(variables, inputs["images"], mutable=["intermediates"])
        return {k: v[0] for k, v in state["intermediates"].items() if k != "features"} | {"logits": logits}

    found = misfits(compare(dataclasses.replace(case, stages=stages), 0))
    assert found[0].startswith(first_wrong)
    assert any(line.startswith("logits") for line in found)
