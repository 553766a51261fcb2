"""DETR on ResNet-50 for boxes of things and stuff, COCO 2017: the first half of panoptic segmentation, 300 epochs.

    python train.py --config configs/published/detr_resnet50_panoptic_boxes_coco.py --config.data=DIR

Paper: "End-to-End Object Detection with Transformers", Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, 2020,
arXiv:2005.12872, section 4.4: the recipe of the boxes (see `detr_resnet50_coco.py`) on boxes around things and stuff
alike; a tenth of both rates after 200 of 300 epochs. `detr_resnet50_panoptic_coco.py` goes on from this run.
Classes are COCO's category ids, 201 with the unused ones.
Data: COCO 2017 with panoptic annotations (118,287 training images, 5,000 for validation): DIR has
annotations/panoptic_{train,val}2017.json, the PNGs in folders of these names beside them, train2017/ and val2017/.
Cost: about 2.4e19 floating-point operations, counted as those of `detr_resnet50_coco.py`: 7 hours on 8 A100 at 40 % of
their bfloat16 peak (`model.dtype`).
Expected: 38.8 AP of things with the masks trained on top (the authors' table of weights); the numbers of this run count
stuff as well, and nobody published them.

Departures: those of `detr_resnet50_coco.py`. The authors have 250 classes, of which 49 more are never used, and train
on crowds as on single objects, which here count for nothing.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.coco_panoptic import CocoPanopticFolder
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.scene_transforms import (
    SceneHorizontalFlip,
    SceneRandomSizeCrop,
    SceneResizeShorterSide,
    SceneSometimes,
)
from vitjax.inference.detection_weights import backbone_weights
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Step


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/detr_resnet50_panoptic_boxes_coco"
    config.data = "coco"
    config.steps = 300 * 118_287 // 64

    config.model = spec(
        DETR,
        num_classes=201,
        num_queries=100,
        width=256,
        num_heads=8,
        mlp_width=2048,
        encoder_depth=6,
        decoder_depth=6,
        dropout_rate=0.1,
        backbone=factory(
            ResNetTrunk, depths=(3, 4, 6, 3), width=64, output_stride=32, norm=factory(BatchNorm, frozen=True)
        ),
    )
    config.initial = factory(backbone_weights, path="resnet50.tv_in1k")
    config.task = spec(SetPrediction)

    shapes = ((544, 768), (672, 896), (800, 1088), (800, 1344), (768, 544), (896, 672), (1088, 800), (1344, 800))
    config.train = spec(
        PaddedSceneBatches,
        source=spec(CocoPanopticFolder, path=config.get_ref("data"), split="train", keep_ids=True),
        batch_size=64,
        workers=16,
        targets=spec(BoxTargets, max_boxes=100),
        shapes=shapes,
        transforms=(
            spec(SceneHorizontalFlip),
            spec(
                SceneSometimes,
                transforms=(
                    spec(SceneResizeShorterSide, size=(400, 500, 600)),
                    spec(SceneRandomSizeCrop, smallest=384, largest=600),
                ),
                rate=0.5,
            ),
            spec(SceneResizeShorterSide, size=tuple(range(480, 801, 32)), longest=1333),
        ),
    )
    config.evaluation = spec(
        PaddedSceneBatches,
        source=spec(CocoPanopticFolder, path=config.get_ref("data"), split="validation", keep_ids=True),
        batch_size=64,
        workers=16,
        targets=spec(BoxTargets, max_boxes=100),
        shapes=shapes,
        transforms=(spec(SceneResizeShorterSide, size=800, longest=1333),),
    )

    config.optimizer = spec(AdamW, lr=1e-4, weight_decay=1e-4)
    config.schedule = spec(Step, boundaries=(200 * 118_287 // 64,), factor=0.1)
    config.decay_rules = ((".*", 1.0),)
    config.rate_rules = (
        (r"backbone/(stem|stage_1_block_\d+)/.*", 0.0),
        (r"backbone/.*/norm/.*", 0.0),
        (r"backbone/.*", 0.1),
        (".*", 1.0),
    )
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 18_482
    config.checkpoint_every = 1848
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
