"""DETR against transformers and against the authors' form; their layouts of weights, in and out."""

import functools

import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights
from benchmarks.parity_cases_detr import DETR_CASES, LAYOUT, authors_form, small, small_huggingface
from vitjax.errors import UserError
from vitjax.models.detr import DETR
from vitjax.models.detr_backbones import ViTBackbone
from vitjax.models.detr_tables import sizes_of
from vitjax.ops.padded_maps import nearest_pixels
from vitjax.weights.rules import export_weights, import_weights

QUICK = ("DETR vs Hugging Face, its own ResNet, padded", "DETR vs authors' form, all layers of the decoder")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DETR_CASES]
)
def test_detr_is_the_reference(name):
    case = DETR_CASES[name]()
    found = compare(case, 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"projected", "encoder/block_1_output", "decoder/block_2_output", "boxes", "logits"} < names
    assert {"gradient of params/query_embedding", "gradient of params/backbone/stem/conv/kernel"} < names
    silent = {difference.name for difference in found if not difference.magnitude > 0}
    # The first decoder block's self-attention has zeros for values.
    assert {name for name in silent if "attention/key/bias" not in name} <= {
        "gradient of params/decoder/block_0/attention/value/kernel"
    }


@functools.cache
def foreign_of(layout):
    """The state dict of a reference with random weights."""
    model = {
        "authors": authors_form,
        "huggingface": small_huggingface,
        "huggingface_timm": functools.partial(small_huggingface, use_timm=True),
    }[layout]()
    random_weights(model, 0)
    random_batch_norms(model, 0)
    return {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUT)
def test_state_dicts_come_back_bit_for_bit(layout):
    foreign, table = foreign_of(layout), LAYOUT[layout].rules(small())
    shapes = DETR_CASES[QUICK[0]]().variables
    # Files of the hub count batches in a few norms.
    norm = next(key for key in foreign if key.endswith("running_mean")).removesuffix("running_mean")
    given = foreign | {f"{norm}num_batches_tracked": np.zeros((), np.int64)}
    in_files = LAYOUT[layout].prepare(given)
    back = export_weights(table, import_weights(table, in_files, shapes))
    assert set(back) == {key for key in in_files if not key.endswith("num_batches_tracked")}
    for key, array in back.items():
        np.testing.assert_array_equal(array, in_files[key], err_msg=key)
    assert sizes_of(in_files) == {"num_classes": 5, "num_queries": 7}
    # What is in memory there has other names; what is written has those of files, which are read as they are.
    assert (set(back) <= set(foreign)) == (layout == "authors")
    assert set(LAYOUT[layout].prepare(back)) == set(back)


def test_transformers_writes_the_names_that_we_write(tmp_path):
    from safetensors.numpy import load_file

    small_huggingface().save_pretrained(tmp_path)
    in_files = LAYOUT["huggingface"].prepare(foreign_of("huggingface"))
    assert set(load_file(tmp_path / "model.safetensors")) == set(in_files)


def test_nobody_elses_files_hold_another_backbone():
    module = DETR(num_classes=3, backbone=ViTBackbone)
    for layout in LAYOUT.values():
        with pytest.raises(UserError, match="DETR on ViTBackbone: nobody else's files hold it"):
            layout.rules(module)


def test_masks_are_torchs():
    import torch

    for frame in (31, 96, 97, 491, 1333):
        for cells in (1, 3, 7, 16, 31):
            mask = torch.arange(frame, dtype=torch.float32)[None, None, None]
            found = torch.nn.functional.interpolate(mask, size=(1, cells))[0, 0, 0]
            np.testing.assert_array_equal(nearest_pixels(frame, cells), found.numpy())
