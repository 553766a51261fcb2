"""A folder of transformers' DETR, opened and written."""

import copy
import json

import jax
import numpy as np
import pytest

import vitjax
from benchmarks.comparison import TIMES_NOISE
from vitjax.data.scene_transforms import SceneResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference.detr_preparation import detr_batches
from vitjax.inference.foreign_huggingface_detr import read_detr

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROCESSOR = {
    "image_processor_type": "DetrImageProcessor",
    "size": {"shortest_edge": 64, "longest_edge": 96},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network with random weights, as transformers saves it, and the network."""
    from benchmarks.comparison import random_batch_norms, random_weights
    from benchmarks.parity_cases_detr import small_huggingface

    model = small_huggingface().eval()
    random_weights(model, 0)
    random_batch_norms(model, 0)
    model.config.id2label = {number: f"class of {number}" for number in range(5)}
    model.config.label2id = {label: number for number, label in model.config.id2label.items()}
    place = tmp_path_factory.mktemp("detr")
    model.save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return place, model


def theirs_of(model, images, dtype):
    with torch.no_grad():
        made = copy.deepcopy(model).to(dtype)(torch.tensor(images.transpose(0, 3, 1, 2), dtype=dtype))
    return {"logits": made.logits.double().numpy(), "boxes": made.pred_boxes.double().numpy()}


def assert_equal_outputs(bundle, *models):
    images = np.random.default_rng(0).normal(size=(1, 64, 80, 3)).astype(np.float32)
    ours = jax.jit(bundle.module.apply)(bundle.variables, images)
    for model in models:
        found, exact = (theirs_of(model, images, dtype) for dtype in (torch.float32, torch.float64))
        for key, value in found.items():
            noise = np.abs(value - exact[key]).max()
            assert np.ptp(value) > 0.1
            assert np.abs(ours[key][-1] - value).max() <= TIMES_NOISE * noise, key


def test_a_folder_is_opened_and_written_with_equal_outputs(folder, tmp_path):
    place, model = folder
    bundle = vitjax.load(place)
    assert bundle.labels == tuple(f"class of {number}" for number in range(5))
    assert bundle.batches.transforms == (SceneResizeShorterSide(64, 96),)
    bundle.save(tmp_path / "written", format="huggingface")
    again, told = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "written", output_loading_info=True)
    assert {kind: set(told[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")} == {
        "missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(),
    }  # fmt: skip
    assert again.config.id2label == model.config.id2label
    assert_equal_outputs(bundle, model, again.eval())
    picture = np.random.default_rng(1).integers(0, 256, (32, 50, 3), np.uint8)
    (result,) = bundle.predict([picture])
    assert len(result) == 7
    assert result.error is None


def test_older_files_say_it_in_other_words(tmp_path):
    file = tmp_path / "config.json"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "size": 800, "max_size": 1333}))
    found = read_detr({"model_type": "detr", "backbone": "resnet101", "dilation": True, "num_labels": 3}, file)
    assert found.layout == "huggingface_timm"
    assert found.keywords["image_size"] == (800, 1333)
    trunk = found.keywords["backbone"](parent=None)
    assert (trunk.depths, trunk.output_stride, trunk.width) == ((3, 4, 23, 3), 16, 64)
    new = {"model_type": "timm_backbone", "backbone": "resnet50.a1_in1k", "output_stride": None}
    trunk = read_detr({"backbone_config": new, "num_labels": 3}, file).keywords["backbone"](parent=None)
    assert (trunk.depths, trunk.output_stride) == ((3, 4, 6, 3), 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "mobilenetv3_small_050"}, "the backbone 'mobilenetv3_small_050' \\(timm_backbone\\) is unknown"),
        ({"position_embedding_type": "learned"}, "`position_embedding_type` \\(='learned'\\): only 'sine' is known"),
        ({"decoder_ffn_dim": 1024}, "`encoder_ffn_dim` \\(=2048\\) and `decoder_ffn_dim` \\(=1024\\) must be equal"),
        ({"architectures": ["DetrModel"]}, "must be one of DetrForObjectDetection"),
        ({"use_timm_backbone": False, "backbone_config": {"model_type": "swin"}}, "\\(swin\\) is unknown here"),
        (
            {"backbone_config": {"model_type": "resnet", "hidden_sizes": [1, 2, 3, 4]}},
            "`hidden_sizes` \\(=\\(1, 2, 3, 4\\)\\) must begin with 4 `embedding_size` \\(=64\\)",
        ),
    ],
)
def test_what_is_another_network(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_detr({"num_labels": 3, **change}, tmp_path / "config.json")


def test_frames_hold_every_picture():
    batches = detr_batches((800, 1333))
    assert batches.shapes == ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    assert detr_batches(96).shapes == ((96, 96),)
    resize = batches.transforms[0]
    for size in ((480, 640), (640, 480), (333, 500), (500, 500), (100, 900)):
        rows, columns = resize.planned_size(size, np.random.default_rng(0))
        assert any(rows <= high and columns <= wide for high, wide in batches.shapes)
