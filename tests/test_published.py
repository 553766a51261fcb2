"""The papers' recipes in `configs/published/`: at full size they build, in small they train for two steps on fakes."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from vitjax.config import build, from_json, load_config_file, override, spec, to_json
from vitjax.data.coco import FakeBoxes
from vitjax.data.coco_panoptic import FakeSegments
from vitjax.data.segmentation_sources import FakeClassMaps
from vitjax.data.sources import FakeImages
from vitjax.data.transforms import pair
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten
from vitjax.training.program import run_config

FOLDER = Path(__file__).parent.parent / "configs" / "published"
CONFIGS = sorted(FOLDER.glob("*.py"))

I1K, I21K, COCO, VOC, ADE20K = 1_281_167, 14_197_122, 118_287, 10_582, 20_210
# What the papers say of each: classes, parameters, and passes over how many training images.
PUBLISHED = {
    "vit_s16_i1k_90ep": {"classes": 1000, "parameters": 22_050_664 - 198 * 384, "epochs": (90, 0.99 * I1K)},
    "vit_augreg_i1k": {"classes": 1000, "parameters": 86_567_656 + 769 * 768, "epochs": (300, 0.99 * I1K)},
    "vit_augreg_i21k": {"classes": 21_843, "parameters": 86_567_656 + 20_843 * 769, "epochs": (300, I21K - 51_200)},
    "vit_finetune_i1k": {
        "classes": 1000,
        "parameters": 86_567_656 + (24**2 - 14**2) * 768,
        "epochs": (8.07, 0.99 * I1K),
    },
    "deepvit_32b_i1k": {"classes": 1000, "parameters": 48_096_232, "epochs": (310, I1K)},
    "deepvit_s_i1k": {"classes": 1000, "parameters": 27_310_000, "epochs": (310, I1K)},
    "flexivit_b_i21k": {"classes": 21_843, "parameters": 86_011_624 + 20_843 * 769, "epochs": (90, I21K - 51_200)},
    "flexivit_s_i1k": {
        "classes": 1000,
        "parameters": 22_878_568 - (32**2 - 16**2) * 3 * 384,
        "epochs": (90, 0.99 * I1K),
    },
    **{
        name: {"classes": classes, "parameters": 88_224_232 - 1000 * 769 + classes * 769 + 5 * 9216}
        | {"epochs": (20_000 * 512 / images, images)}
        for name, classes, images in (
            ("memory_cifar100", 100, 50_000),
            ("memory_inaturalist", 5089, 579_184),
            ("memory_places365", 365, 1_803_460),
            ("memory_sun397", 397, 76_128),
        )
    },
    "navit_b16_jft": {"classes": 29_593},
    **{
        # A step has 1382.4 images on average over the sampler's sizes, and 1024 at 256 px.
        f"mobilevit_{name}_i1k": {"classes": 1000, "parameters": parameters, "epochs": (300 * 1024 / 1382.4, I1K)}
        for name, parameters in (("xxs", 1_272_024), ("xs", 2_317_848), ("s", 5_578_632))
    },
    "mobilevit_v2_i1k": {"classes": 1000, "parameters": 4_901_841, "epochs": (300, I1K)},
    "mobilevit_v2_i21k": {"classes": 10_450, "parameters": 17_424_329 + 10_450 * 1025, "epochs": (80, 11_060_223)},
    "mobilevit_v2_finetune_i1k": {"classes": 1000, "parameters": 18_449_329, "epochs": (50, I1K)},
    "mobilevit_v2_finetune_384": {"classes": 1000, "parameters": 4_901_841, "epochs": (10, I1K)},
    "efficientvit_imagenet": {"classes": 1000, "parameters": 12_473_772, "epochs": (300, I1K)},
    "deeplab_mobilevit_s_voc": {"classes": 21, "parameters": 6_357_941, "epochs": (50, VOC)},
    # The zoo's 13.3 million, and the auxiliary head.
    "deeplab_mobilevit_v2_voc": {"classes": 21, "parameters": 13_318_654 + 445_333, "epochs": (50, VOC)},
    "deeplab_mobilevit_v2_ade20k": {"classes": 150, "parameters": 13_384_831 + 461_974, "epochs": (120, ADE20K)},
    "ssdlite_mobilevit_s_coco": {"classes": 80, "parameters": 5_738_826, "epochs": (200, COCO)},
    "ssdlite_mobilevit_v2_coco": {"classes": 80, "parameters": 5_608_883, "epochs": (200, COCO)},
    **{
        # Of the authors' layout, and the scales and biases of the frozen norms, which they count as buffers.
        f"detr_{name}_coco": {"classes": 91, "parameters": parameters, "epochs": (500, COCO)}
        for name, parameters in (
            ("resnet50", 41_524_768 + 53_120),
            ("resnet50_dc5", 41_524_768 + 53_120),
            ("resnet101", 60_464_672 + 105_344),
            ("resnet101_dc5", 60_464_672 + 105_344),
        )
    },
    **{
        f"detr_resnet50_panoptic_{name}": {"classes": 201, "epochs": (epochs, COCO)}
        | {"parameters": 41_524_768 + 53_120 + (201 - 91) * 257 + masks}
        for name, epochs, masks in (("boxes_coco", 300, 0), ("coco", 25, 1_202_073 + 131_584))
    },
}
SIDE = 64  # of small images, pixels

# What makes a run small enough for a test, and leaves its structure as it is.
SMALL = {
    "steps": 2,
    "log_every": 1,
    "evaluate_every": 2,
    "checkpoint_every": 2,
    "schedule.warmup_steps": 1,
    "train.workers": 0,
    "evaluation.workers": 0,
    "mesh.data": 1,
}
SMALL_IMAGES = SMALL | {"train.batch_size": 8, "evaluation.batch_size": 8}
VIT = SMALL_IMAGES | {"model.width": 48, "model.depth": 1, "model.num_heads": 3, "model.mlp_width": 64}
MOBILEVIT_V2 = SMALL_IMAGES | {"model.width_multiplier": 0.25, "model.depths": (1, 1, 1), "schedule.warmup_steps": 0}
SSDLITE = SMALL_IMAGES | {
    "schedule.warmup_steps": 0,
    "model.backbone.depths": (1, 1, 1),
    "model.extra_widths": (16, 8, 8),
    "model.pooled_width": 8,
    "model.head_widths": (16, 16, 16, 8, 8),
    "task.max_candidates": 4,
    "task.max_detections": 4,
}
DETR = SMALL_IMAGES | {
    "schedule.warmup_steps": 0, "model.backbone.depths": (1, 1, 1, 1), "model.backbone.width": 8, "model.width": 16,
    "model.num_heads": 2, "model.mlp_width": 16, "model.encoder_depth": 1, "model.decoder_depth": 2,
    "model.num_queries": 8, "train.targets.max_boxes": 4, "evaluation.targets.max_boxes": 4,
    "train.shapes": ((64, 96), (96, 64)), "evaluation.shapes": ((64, 96), (96, 64)),
}  # fmt: skip
PANOPTIC = SMALL_IMAGES | {
    "schedule.warmup_steps": 0,
    **{
        f"model.detector.{name.removeprefix('model.')}": value
        for name, value in DETR.items()
        if name.startswith("model.")
    },
    "model.detector.num_heads": 8, "train.targets.max_segments": 4, "evaluation.targets.max_segments": 4,
    "train.shapes": ((64, 96), (96, 64)), "evaluation.shapes": ((64, 96), (96, 64)),
}  # fmt: skip
DEEPLAB = SMALL_IMAGES | {
    "schedule.warmup_steps": 0, "model.backbone.depths": (1, 1, 1), "model.aspp_width": 8, "model.rates": (1, 2),
}  # fmt: skip
MOBILEVIT = {"widths": (8, 8, 8, 16, 16, 24), "transformer_widths": (8, 8, 16), "depths": (1, 1, 1)}
MEMORY = VIT | {"model.patch_size": 16}
FLEXIVIT = VIT | {"train.grids": (2, 4)}
DEEPVIT = VIT | {"model.num_heads": 12, "schedule.cooldown_steps": 1, "schedule.warmup_steps": 0}
MOBILEVIT_V1 = (
    SMALL_IMAGES
    | {f"model.{name}": value for name, value in MOBILEVIT.items()}
    | {"model.final_width": 24, "schedule.warmup_steps": 0}
    | {"train.base": 64, "train.smallest": 32, "train.largest": 64, "train.count": 2, "train.multiple": 4}
)
REDUCED = {
    "vit_s16_i1k_90ep": VIT,
    "vit_augreg_i1k": VIT | {"model.representation_size": 48},
    "vit_augreg_i21k": VIT,
    "vit_finetune_i1k": VIT,
    "deepvit_32b_i1k": DEEPVIT,
    "deepvit_s_i1k": DEEPVIT | {"model.depth": 2, "model.num_reattention": 1},
    "flexivit_b_i21k": FLEXIVIT,
    "flexivit_s_i1k": FLEXIVIT
    | {"task.teacher_size": (SIDE, SIDE), "task.teacher.name": None, "initial.name": None, "initial.layout": None},
    "memory_cifar100": MEMORY,
    "memory_inaturalist": MEMORY,
    "memory_places365": MEMORY,
    "memory_sun397": MEMORY,
    **{name: MOBILEVIT_V1 for name in PUBLISHED if name.startswith("mobilevit_") and name.endswith("s_i1k")},
    "efficientvit_imagenet": SMALL_IMAGES | {
        "model.widths": (8, 16), "model.depths": (1, 1), "model.num_heads": (1, 2), "model.query_kernels": (3, 3),
    },
    **{name: MOBILEVIT_V2 for name in PUBLISHED if name.startswith("mobilevit_v2_")},
    "deeplab_mobilevit_s_voc": DEEPLAB | {f"model.backbone.{name}": value for name, value in MOBILEVIT.items()},
    "deeplab_mobilevit_v2_voc": DEEPLAB | {"model.backbone.width_multiplier": 0.25},
    "deeplab_mobilevit_v2_ade20k": DEEPLAB | {"model.backbone.width_multiplier": 0.25},
    "ssdlite_mobilevit_s_coco": SSDLITE | {f"model.backbone.{name}": value for name, value in MOBILEVIT.items()},
    "ssdlite_mobilevit_v2_coco": SSDLITE | {"model.backbone.width_multiplier": 0.25},
    **{name: DETR for name in PUBLISHED if name.startswith("detr")},
    "detr_resnet50_panoptic_coco": PANOPTIC,
    "navit_b16_jft": SMALL | {
        "model.width": 48, "model.depth": 1, "model.mlp_width": 64, "schedule.cooldown_steps": 0,
        "train.rows": 4, "train.packers": 2, "train.length": 32,
        "train.resolution.low": 32, "train.resolution.high": 80,
        "evaluation.rows": 4, "evaluation.packers": 2, "evaluation.resolution.side": 80,
    },
}  # fmt: skip


STARTS = {name: "mobilevit_v2_checkpoint" for name, settings in REDUCED.items() if settings is MOBILEVIT_V2} | {
    "deeplab_mobilevit_s_voc": "mobilevit_checkpoint",
    "deeplab_mobilevit_v2_voc": "mobilevit_v2_checkpoint",
    "deeplab_mobilevit_v2_ade20k": "mobilevit_v2_checkpoint",
    "ssdlite_mobilevit_s_coco": "mobilevit_checkpoint",
    "ssdlite_mobilevit_v2_coco": "mobilevit_v2_checkpoint",
    **{name: "resnet_checkpoint" for name, settings in REDUCED.items() if settings is DETR},
    "detr_resnet50_panoptic_coco": "detr_checkpoint",
}
FAKES = {
    "vitjax.data.scene_batching:BoxTargets": FakeBoxes,
    "vitjax.data.scene_batching:ClassMapTargets": FakeClassMaps,
    "vitjax.data.panoptic_targets:PanopticTargets": FakeSegments,
}  # by what the batches hold beside images


def small_config(path, workdir):
    config = load_config_file(path)
    for name, value in ({"workdir": str(workdir)} | REDUCED[path.stem]).items():
        override(config, name, value)
    for name in ("train", "evaluation"):
        fakes = spec(
            FAKES.get(config[name].get("targets", {}).get("target"), FakeImages),
            num_examples=16,
            num_classes=PUBLISHED[path.stem]["classes"],
            shapes=((48, 72), (80, 80), (90, 60)),
        )
        override(config, f"{name}.source", fakes)
    if isinstance(config.model.get("image_size"), int):
        share = SIDE / config.model.image_size
        config.model.image_size = SIDE
        for transform in (*config.train.transforms, *config.evaluation.transforms):
            if "size" in transform:
                transform.size = round(transform.size * share)
    return config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ViT of the reduced size with half the grid, in place of what is downloaded: what `vitjax.load` opens."""
    folder = tmp_path_factory.mktemp("published") / "start"
    sizes = {"width": 48, "depth": 1, "num_heads": 3, "mlp_width": 64}
    vitjax.create_model("vit_base_patch16_224", **sizes, image_size=32, num_classes=1000).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def mobilevit_v2_checkpoint(tmp_path_factory):
    """The same for the mobile networks, whose weights fit any image."""
    folder = tmp_path_factory.mktemp("published") / "mobile_start"
    vitjax.create_model("mobilevitv2_100", width_multiplier=0.25, depths=(1, 1, 1), num_classes=1000).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def mobilevit_checkpoint(tmp_path_factory):
    """The same of the first version."""
    folder = tmp_path_factory.mktemp("published") / "mobilevit_start"
    vitjax.create_model("mobilevit_xxs", **MOBILEVIT, expansion=4, final_width=32, num_classes=1000).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def resnet_checkpoint(tmp_path_factory):
    """The same of a ResNet."""
    folder = tmp_path_factory.mktemp("published") / "resnet_start"
    vitjax.create_model("resnet50", depths=(1, 1, 1, 1), width=8, num_classes=1000).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def detr_checkpoint(tmp_path_factory):
    """The same of a DETR, for masks on top of it."""
    folder = tmp_path_factory.mktemp("published") / "detr_start"
    found = {name.removeprefix("model."): value for name, value in DETR.items() if name.startswith("model.")}
    found |= {"num_heads": 8, "num_classes": 201}
    trunk = {name: found.pop(f"backbone.{name}") for name in ("depths", "width")}
    backbone = functools.partial(ResNetTrunk, norm=functools.partial(BatchNorm, frozen=True), **trunk)
    vitjax.create_model("detr_resnet50", **found, backbone=backbone).save(folder)
    return str(folder)


def test_every_config_is_listed():
    assert {path.stem for path in CONFIGS} == set(PUBLISHED) == set(REDUCED)


# Their siblings, here or among the small configs, run the same code.
LONG = "deeplab|detr|mobilevit|ssdlite|memory|deepvit|flexivit|efficientvit|vit_augreg|vit_s16"


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.long) if re.match(LONG, path.stem) else path for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_two_steps_on_fakes(path, tmp_path, request):
    config = small_config(path, tmp_path / "run")
    for name, node in (("initial", config.get("initial")), ("task.teacher", config.task.get("teacher"))):
        if node is not None:
            start = request.getfixturevalue(STARTS.get(path.stem, "checkpoint"))
            override(config, f"{name}.path", start)
    summary = run_config(config)
    assert summary.step == 2
    assert np.isfinite(summary.scores["loss"])
    bundle = json.loads((tmp_path / "run" / "best" / "bundle.json").read_text())
    assert len(bundle["labels"]) == PUBLISHED[path.stem]["classes"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_and_json(path):
    docstring = path.read_text().split('"""')[1]
    assert f"python train.py --config configs/published/{path.name}" in docstring
    for word in ("Paper:", "arXiv:", "Data:", "Cost:", "Expected:"):
        assert word in docstring
    config = load_config_file(path)
    assert config.workdir == f"runs/published/{path.stem}"
    assert to_json(from_json(to_json(config))) == to_json(config)


@pytest.mark.parametrize("name", [name for name, facts in PUBLISHED.items() if "epochs" in facts])
def test_length_and_size_are_the_published_ones(name):
    config, facts = load_config_file(FOLDER / f"{name}.py"), PUBLISHED[name]
    epochs, images = facts["epochs"]
    assert config.steps * config.train.batch_size / images == pytest.approx(epochs, rel=1e-3)
    if config.model.num_classes is None:
        override(config, "model.num_classes", facts["classes"])
    assert config.model.num_classes == facts["classes"]
    module, size = build(config.model), pair(config.model.get("image_size", SIDE))
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, images: module.init(key, images, train=False), jax.random.key(0), images)
    count = sum(leaf.size for leaf in flatten(shapes["params"]).values())
    assert count == pytest.approx(facts["parameters"], rel=2e-4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_weights_that_decay(path):
    """Kernels and nothing else, as in big_vision: no biases, norms, positions; MobileViT and DETR decay all."""
    rules = load_config_file(path).decay_rules
    if any(REDUCED[path.stem] is settings for settings in (MOBILEVIT_V1, DETR, PANOPTIC)):
        assert rules == ((".*", 1.0),)
        return
    for name in ("block_0/mlp_norm/scale", "head/bias", "class_token", "position_embedding/table"):
        assert next(value for pattern, value in rules if re.fullmatch(pattern, name)) == 0.0
