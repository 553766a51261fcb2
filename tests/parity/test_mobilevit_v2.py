"""MobileViTv2 against timm and transformers: outputs, stages, gradients, running statistics; keys."""

import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_weights
from benchmarks.parity_cases_mobilevit_v2 import MOBILEVIT_V2_CASES, MOBILEVIT_V2_VARIANTS
from vitjax.weights.rules import export_weights, import_weights

QUICK = "MobileViTv2 vs timm, training, odd maps"
SLOW = [pytest.param(name, marks=pytest.mark.long) for name in MOBILEVIT_V2_CASES if name != QUICK]


@pytest.mark.parametrize("name", [QUICK, *SLOW])
def test_mobilevit_v2_is_the_reference(name):
    case = MOBILEVIT_V2_CASES[name]()
    compared = {difference.name for difference in compare(case, 0)}
    assert {"stem_output", *(f"stage_{number}" for number in range(1, 6)), "logits"} < compared
    assert "gradient of params/trunk/stage_4_block/unit_0/attention/key/kernel" in compared
    assert ("batch_stats/trunk/stage_5_block/project_out/norm/var" in compared) == case.training
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


@pytest.mark.long
@pytest.mark.parametrize("name", MOBILEVIT_V2_VARIANTS)
def test_timms_models_whole(name):
    assert misfits(compare(MOBILEVIT_V2_VARIANTS[name](), 0)) == []


@pytest.mark.parametrize("name", ["MobileViTv2 vs timm", "MobileViTv2 vs Hugging Face"])
def test_state_dicts_come_back_bit_for_bit(name):
    case = MOBILEVIT_V2_CASES[name]()
    random_weights(case.reference, 0)
    foreign = {key: tensor.detach().numpy() for key, tensor in case.reference.state_dict().items()}
    back = export_weights(case.table, import_weights(case.table, foreign, case.variables))
    assert set(back) == {key for key in foreign if not key.endswith("num_batches_tracked")}
    for key, array in back.items():
        np.testing.assert_array_equal(array, foreign[key], err_msg=key)
