"""A COCO-json folder of another program trains, evaluates and predicts with its own names; weights to start from."""

import functools
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vitjax
from vitjax.config import describe, load_config_file, spec
from vitjax.data.coco import CocoFolder
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.detection_weights import backbone_weights, detector_weights
from vitjax.inference.detr_preparation import detr_batches
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten, unflatten
from vitjax.programs import detr_finetune
from vitjax.programs.detr_finetune import finetune_detector
from vitjax.tasks.set_prediction import SetPrediction

CONFIG = Path(__file__).parent.parent.parent / "configs" / "detr_finetune.py"
CATEGORIES = [{"id": 41, "name": "skateboard"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]  # gaps, no order


def write_coco(folder):
    """Four pictures of two sizes, one of them without objects, one with a crowd; ids are no counts."""
    for split, count in (("train", 4), ("val", 4)):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            rows, columns = ((40, 60), (60, 40))[number % 2]
            Image.fromarray(np.full((rows, columns, 3), 50 * number, np.uint8)).save(folder / split / f"{number}.png")
            images.append({"id": 900 - number, "file_name": f"{number}.png", "height": rows, "width": columns})
            for place in range(number):  # none in the first
                category = CATEGORIES[(number + place) % 3]["id"]
                entry = {"id": 7 * len(annotations) + 5, "image_id": 900 - number, "category_id": category}
                crowd = int(number == 3 and place == 0)
                annotations.append(entry | {"bbox": [4 + 9 * place, 5, 8, 12], "area": 60.5, "iscrowd": crowd})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return folder


def tiny(classes, **changes):
    settings = {"num_queries": 6, "width": 16, "num_heads": 2, "mlp_width": 16, "encoder_depth": 1, "decoder_depth": 1}
    return DETR(num_classes=classes, backbone=_trunk, **(settings | changes))


def _trunk(**settings):
    return ResNetTrunk(depths=(1, 1, 1, 1), width=4, **settings)


def shapes_of(module):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flatten(variables).items()}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_folder_of_another_program_trains_evaluates_and_predicts(tmp_path, monkeypatch):
    folder = write_coco(tmp_path / "data")
    sizes = {
        "model.num_queries": 6, "model.width": 16, "model.num_heads": 2, "model.mlp_width": 16,
        "model.encoder_depth": 1, "model.decoder_depth": 1, "model.backbone.depths": (1, 1, 1, 1),
        "model.backbone.width": 4, "train.targets.max_boxes": 4, "evaluation.targets.max_boxes": 4,
        "train.shapes": ((64, 64),), "evaluation.shapes": ((64, 64),),
    }  # fmt: skip
    monkeypatch.setattr(detr_finetune, "_TRIAL", sizes)
    config = load_config_file(
        CONFIG,
        [
            f"data=coco:{folder}", f"workdir={tmp_path / 'run'}", "steps=2", "schedule.warmup_steps=1",
            "evaluate_every=2", "train.batch_size=2", "evaluation.batch_size=4", "train.workers=0",
            "evaluation.workers=0", "mesh.data=1",
        ],
    )  # fmt: skip
    done = finetune_detector(config, images=2)
    assert done.run.step == 2
    assert done.picture is not None
    assert done.picture.is_file()
    assert {"AP", "AP50", "AR100"} <= set(done.run.scores)
    assert np.isfinite(done.run.scores["loss"])

    model = vitjax.load(tmp_path / "run")
    assert model.labels == ("car", "cat", "skateboard")  # by id
    source = CocoFolder(str(folder), "validation")
    assert dict(zip(source.category_ids, model.labels, strict=True)) == {3: "car", 17: "cat", 41: "skateboard"}
    (result,) = model.predict([np.full((30, 90, 3), 9, np.uint8)])
    assert len(result) == 6
    assert {found.label for found in result} <= set(model.labels)
    assert (result.boxes_xyxy_pixels[:, [0, 2]] <= 90 + 1e-3).all()
    assert (result.boxes_xyxy_pixels[:, [1, 3]] <= 30 + 1e-3).all()

    # Its weights, for two other classes and fewer queries.
    other = model.module.clone(num_classes=2, num_queries=4)
    shapes = shapes_of(other)
    given = detector_weights(other, shapes, path=str(tmp_path / "run"))
    missing = {"params/class_head/kernel", "params/class_head/bias", "params/query_embedding"}
    assert set(shapes) - set(given) == missing
    np.testing.assert_array_equal(given["params/projection/bias"], model.variables["params"]["projection"]["bias"])
    wider = model.module.clone(width=32)
    with pytest.raises(UserError, match=r"DETR does not fit DETR: params/.* is .*, expected"):
        detector_weights(wider, shapes_of(wider), path=str(tmp_path / "run"))


def test_a_classifier_is_a_backbone(tmp_path):
    bundle = vitjax.create_model("resnet50", depths=(1, 1, 1, 1), width=4, num_classes=5)
    bundle.save(tmp_path / "start")
    detector = tiny(3)
    shapes = shapes_of(detector)
    given = backbone_weights(detector, shapes, path=str(tmp_path / "start"))
    assert set(given) == {path for path in shapes if path.split("/")[1] == "backbone"}
    assert any(path.startswith("batch_stats/") for path in given)
    trunk = flatten(bundle.variables)
    for path, array in given.items():
        np.testing.assert_array_equal(array, trunk[path.replace("/backbone/", "/trunk/")])
    with pytest.raises(UserError, match=r"ResNet does not fit the backbone of DETR: .* is missing"):
        backbone_weights(detector, shapes, path=str(tmp_path / "start"), trunk="stem")


def test_masks_start_anew_on_top_of_boxes(tmp_path, caplog):
    # Of parts of the package alone, as `load` builds no others.
    boxes = tiny(3, num_heads=8).clone(backbone=functools.partial(ResNetTrunk, depths=(1, 1, 1, 1), width=4))
    arrays = {path: np.full(shape, 0.5, np.float32) for path, shape in shapes_of(boxes).items()}
    names = ("a", "b", "c")
    Bundle(boxes, SetPrediction(), detr_batches(64), names, lambda: unflatten(arrays)).save(tmp_path / "boxes")
    masks = PanopticDETR(3, detector=lambda num_classes, **parts: tiny(num_classes, num_heads=8, **parts))
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        given = detector_weights(masks, shapes_of(masks), path=str(tmp_path / "boxes"))
    assert given.keys() == arrays.keys()
    assert {path.split("/")[1] for path in shapes_of(masks).keys() - given.keys()} == {"mask_attention", "mask_head"}
    (message,) = caplog.messages
    assert "has no params/mask_attention/" in message


def test_batches_are_stored_with_a_bundle():
    batches = PaddedSceneBatches(None, 2, BoxTargets(4), ((64, 64),))
    assert describe(batches) == spec(
        PaddedSceneBatches, source=None, batch_size=2, targets=spec(BoxTargets, max_boxes=4), shapes=((64, 64),),
        transforms=(), window=64, threads=4, workers=0, prefetch=2, max_broken=0.01,
    )  # fmt: skip
