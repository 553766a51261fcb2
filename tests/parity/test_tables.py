"""The weight tables of ViT and NaViT on the references' own state dicts: there and back, bit for bit."""

import numpy as np
import pytest

from benchmarks.comparison import random_weights
from benchmarks.parity_cases import NAVIT_CASES, VIT_CASES
from benchmarks.parity_cases_hybrid import HYBRID_CASES
from vitjax.errors import UserError
from vitjax.models import vit_tables
from vitjax.weights.rules import export_weights, import_weights

CASES = VIT_CASES | HYBRID_CASES | NAVIT_CASES  # the others' tables are tested beside their models


def _weights(module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def _assert_same_bits(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_come_back_bit_for_bit(name):
    case = CASES[name]()
    random_weights(case.reference, 0)
    foreign = _weights(case.reference)
    ours = import_weights(case.table, foreign, case.variables)
    _assert_same_bits(export_weights(case.table, ours), foreign)


def test_hugging_face_files_hold_what_its_modules_hold(tmp_path):
    from safetensors.numpy import load_file

    case = CASES["ViT vs Hugging Face"]()
    random_weights(case.reference, 1)
    case.reference.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    ours = import_weights(vit_tables.huggingface(), stored, case.variables)
    _assert_same_bits(ours, import_weights(case.table, _weights(case.reference), case.variables))
    _assert_same_bits(export_weights(vit_tables.huggingface(), ours), stored)


def test_a_bias_where_the_packed_reference_has_a_zero_buffer_is_an_error():
    case = CASES["NaViT vs vit-pytorch packed, segment mask"]()
    foreign = _weights(case.reference)
    foreign["transformer.norm.beta"] = np.full(32, 0.5, np.float32)
    with pytest.raises(UserError, match=r"transformer\.norm\.beta \(32,\), expected 0\.0"):
        import_weights(case.table, foreign, case.variables)


def test_a_deeper_file_names_every_key_that_has_no_place():
    case = CASES["ViT vs timm, class token"]()
    foreign = _weights(case.reference)
    foreign |= {key.replace("blocks.1.", "blocks.2."): array for key, array in foreign.items()}
    with pytest.raises(UserError) as caught:
        import_weights(case.table, foreign, case.variables)
    keys = [key for key in foreign if key.startswith("blocks.2.")]
    assert keys
    assert all(key in str(caught.value) for key in keys)
