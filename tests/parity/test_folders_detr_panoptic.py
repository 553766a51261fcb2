"""A folder of transformers' `DetrForSegmentation`, opened and written; DETRs written for timm's ResNet and authors."""

import copy
import dataclasses
import functools
import json
import logging

import jax
import numpy as np
import pytest

import vitjax
from benchmarks.comparison import TIMES_NOISE, random_batch_norms, random_weights
from benchmarks.parity_cases_detr_panoptic import small, small_huggingface
from vitjax.data.scene_transforms import SceneResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference import foreign_huggingface_detr
from vitjax.inference.bundle import Bundle
from vitjax.inference.detr_preparation import detr_batches
from vitjax.inference.foreign_huggingface_detr import read_detr, with_timms_resnet
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = [f"class of {number}" for number in range(5)]
PROCESSOR = {
    "image_processor_type": "DetrImageProcessor",
    "format": "coco_panoptic",
    "size": {"shortest_edge": 64, "longest_edge": 96},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
CLEAN = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}


def save(folder, *, use_timm=False):
    model = small_huggingface(use_timm=use_timm).eval()
    random_weights(model, 0)
    random_batch_norms(model, 0)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {label: number for number, label in enumerate(NAMES)}
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def theirs_of(model, images, dtype):
    with torch.no_grad():
        made = copy.deepcopy(model).to(dtype)(torch.tensor(images.transpose(0, 3, 1, 2), dtype=dtype))
    found = {"logits": made.logits, "boxes": made.pred_boxes}
    found |= {"masks": made.pred_masks} if "pred_masks" in made else {}
    return {name: value.double().numpy() for name, value in found.items()}


def assert_equal_outputs(bundle, *models):
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    ours = jax.jit(bundle.module.apply)(bundle.variables, images)
    ours |= {name: ours[name][-1] for name in ("logits", "boxes")}
    for model in models:
        found, exact = (theirs_of(model, images, dtype) for dtype in (torch.float32, torch.float64))
        assert found.keys() == ours.keys()
        for key, value in found.items():
            noise = np.abs(value - exact[key]).max()
            assert np.ptp(value) > 0.1
            assert np.abs(ours[key] - value).max() <= TIMES_NOISE * noise, key


@pytest.mark.usefixtures("quick_compilation")
def test_a_folder_is_opened_and_written_with_equal_outputs(tmp_path, caplog):
    model = save(tmp_path / "theirs")
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        bundle = vitjax.load(tmp_path / "theirs")
    assert "by COCO's numbers it is those from 91 on, of which there are 0" in caplog.text
    assert isinstance(bundle.module, PanopticDETR)
    assert bundle.task == Panoptic((), SetPrediction())
    assert bundle.labels == tuple(NAMES)
    assert bundle.batches.transforms == (SceneResizeShorterSide(64, 96),)

    bundle = dataclasses.replace(bundle, task=Panoptic((1, 4), SetPrediction(), threshold=0.0))
    bundle.save(tmp_path / "ours", format="huggingface")
    again, told = transformers.DetrForSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {kind: set(told[kind]) for kind in CLEAN} == CLEAN
    assert again.config.id2label == dict(enumerate(NAMES))
    assert_equal_outputs(bundle, model, again.eval())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    assert processor.format == "coco_panoptic"
    assert vitjax.load(tmp_path / "ours").task.stuff == (1, 4)

    (result,) = bundle.predict([np.random.default_rng(1).integers(0, 256, (32, 50, 3), np.uint8)])
    assert result.error is None
    assert result.segment_map.shape == (32, 50)
    assert len(result.detections) == 5
    assert {segment.label for segment in result.segments} <= set(NAMES)
    assert len(result) > 0


def test_the_names_of_timms_resnet_are_read(tmp_path, monkeypatch):
    """A folder of release 4 says the backbone by its name alone; a small one takes the place of timm's here."""
    model = save(tmp_path, use_timm=True)
    edit(tmp_path / "config.json", backbone_config=None, use_timm_backbone=True, backbone="resnet50")
    monkeypatch.setattr(foreign_huggingface_detr, "RESNETS", {"resnet50": {"depths": (1, 1, 2, 2)}})
    trunk = functools.partial(ResNetTrunk, norm=functools.partial(BatchNorm, frozen=True), width=8)
    monkeypatch.setattr(foreign_huggingface_detr, "_TRUNK", trunk)
    stem = np.asarray(vitjax.load(tmp_path).variables["params"]["backbone"]["stem"]["conv"]["kernel"])
    theirs = model.detr.model.backbone.model.conv1.weight.detach().numpy()
    np.testing.assert_array_equal(stem.transpose(3, 2, 0, 1), theirs)
    edit(tmp_path / "config.json", id2label={"0": "a", "1": "b"})
    with pytest.raises(UserError, match=r"config.json: names 2 classes, but .*model.safetensors has 5"):
        vitjax.load(tmp_path)


@pytest.mark.parametrize("stuff", [5, [5], ["grass"]])
def test_stuff_is_a_list_of_classes(stuff, tmp_path):
    config = {"architectures": ["DetrForSegmentation"], "num_labels": 5, "label_ids_to_fuse": stuff}
    with pytest.raises(UserError, match=r"`label_ids_to_fuse` \(=.*\) must be a list of class numbers, 0 to 4"):
        read_detr(config, tmp_path / "config.json")


def test_stuff_is_cocos_where_nothing_says_it(tmp_path):
    config = {"architectures": ["DetrForSegmentation"], "num_labels": 201}
    found = read_detr(config, tmp_path / "config.json")
    assert found.task.stuff == tuple(range(91, 201))
    assert found.keywords["detector"].keywords["num_queries"] == 100
    assert found.layout == "huggingface_timm"


def test_weights_go_back_to_the_authors_and_come_again(tmp_path):
    module = small()
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), dict(shapes))
    bundle = Bundle(module, Panoptic(()), detr_batches((64, 96)), tuple(NAMES), lambda: variables)
    bundle.save(tmp_path / "authors", format="authors")
    assert [file.name for file in (tmp_path / "authors").iterdir()] == ["model.safetensors"]
    sizes = {key: value for key, value in module.detector.keywords.items() if key != "num_queries"}
    detector = functools.partial(DETR, **sizes)  # the file says how many queries there are, here 5 for 100
    again = vitjax.load(tmp_path / "authors", name="detr_resnet50_panoptic", layout="authors", detector=detector)
    for path, leaf in flatten(again.variables).items():
        np.testing.assert_array_equal(leaf, flatten(variables)[path], err_msg=path)


def test_timms_resnet_has_a_name_or_is_refused():
    assert with_timms_resnet(ResNetTrunk(depths=(3, 4, 23, 3), output_stride=16), ()) == {
        "use_timm_backbone": True, "backbone": "resnet101", "dilation": True,
    }  # fmt: skip
    for sizes in ({"width": 8}, {"depths": (1, 1, 1, 1)}, {"output_stride": 8}):
        with pytest.raises(UserError, match=r"`backbone`: of .*resnet50.*, dilated by 2 or not, none has `depths`"):
            with_timms_resnet(ResNetTrunk(**{"depths": (3, 4, 6, 3), **sizes}), ())


@pytest.mark.long  # timm's ResNet comes in its own size alone
@pytest.mark.parametrize("kind", ["boxes", "segments"])
def test_a_dilated_network_is_written_for_timms_resnet(kind, tmp_path):
    trunk = functools.partial(ResNetTrunk, output_stride=16, norm=functools.partial(BatchNorm, frozen=True))
    sizes = {"num_queries": 4, "width": 32, "num_heads": 8, "mlp_width": 16, "encoder_depth": 1, "decoder_depth": 1}
    detector = functools.partial(DETR, backbone=trunk, **sizes)
    boxes = (detector(num_classes=5), SetPrediction(), transformers.DetrForObjectDetection)
    segments = (PanopticDETR(5, detector=detector), Panoptic((4,)), transformers.DetrForSegmentation)
    module, task, reference = {"boxes": boxes, "segments": segments}[kind]
    images = np.zeros((1, 64, 96, 3), np.float32)
    variables = jax.jit(lambda: module.init(jax.random.key(0), images))()
    bundle = Bundle(module, task, detr_batches((64, 96)), tuple(NAMES), lambda: dict(variables))
    bundle.save(tmp_path / "timm", format="huggingface_timm")
    again, told = reference.from_pretrained(tmp_path / "timm", output_loading_info=True)
    assert {kind: set(told[kind]) for kind in CLEAN} == CLEAN
    assert_equal_outputs(bundle, again.eval())
    assert describe_trunk(vitjax.load(tmp_path / "timm").module) == describe_trunk(module)
    with pytest.raises(UserError, match=r"`output_stride` \(=16\): its own ResNet is never dilated"):
        bundle.save(tmp_path / "own", format="huggingface")


def describe_trunk(module):
    detector = module.detector(parent=None) if isinstance(module, PanopticDETR) else module
    trunk = detector.backbone(parent=None)
    return trunk.depths, trunk.width, trunk.output_stride
