"""Panoptic DETR on ResNet-50, COCO 2017: masks on top of trained boxes, 25 epochs.

    python train.py --config configs/published/detr_resnet50_panoptic_coco.py --config.data=DIR

Paper: "End-to-End Object Detection with Transformers", Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, 2020,
arXiv:2005.12872, section 4.4: of a DETR that was trained on boxes of things and stuff
(`detr_resnet50_panoptic_boxes_coco.py`, whose run is `initial.path`) everything stays as it is, and the mask head
learns for 25 epochs, at a tenth of its rate after 15.
Data: COCO 2017 with panoptic annotations (118,287 training images, 5,000 for validation): DIR has
annotations/panoptic_{train,val}2017.json, the PNGs in folders of these names beside them, train2017/ and val2017/.
Cost: about 1.3e18 floating-point operations, counted as 86 billion multiply-adds per image of the boxes, forward only,
four times 21 billion of the masks of 20 queries, and a third more for padding: less than an hour on 8 A100 at 40 % of
their bfloat16 peak (`model.detector.dtype`), after the 7 hours of the boxes.
Expected: 43.4 PQ, 79.3 SQ, 53.8 RQ, 48.2 PQ of things, 36.3 PQ of stuff (table 5).

Departures: those of `detr_resnet50_panoptic_boxes_coco.py`. The paper does not say of how many images a batch is; it is
that of the boxes, with their rate.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.coco_panoptic import CocoPanopticFolder
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
from vitjax.data.scene_transforms import (
    SceneHorizontalFlip,
    SceneRandomSizeCrop,
    SceneResizeShorterSide,
    SceneSometimes,
)
from vitjax.inference.detection_weights import detector_weights
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Step


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/detr_resnet50_panoptic_coco"
    config.data = "coco"
    config.steps = 25 * 118_287 // 64

    config.model = spec(
        PanopticDETR,
        num_classes=201,
        detector=factory(
            DETR,
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
        ),
        query_chunk=20,
    )
    config.initial = factory(detector_weights, path="runs/published/detr_resnet50_panoptic_boxes_coco")
    # COCO's ids of stuff begin behind those of things, which end with 90.
    config.task = spec(Panoptic, stuff=tuple(range(91, 201)), detection=spec(SetPrediction))

    shapes = ((544, 768), (672, 896), (800, 1088), (800, 1344), (768, 544), (896, 672), (1088, 800), (1344, 800))
    config.train = spec(
        PaddedSceneBatches,
        source=spec(CocoPanopticFolder, path=config.get_ref("data"), split="train", keep_ids=True),
        batch_size=64,
        workers=16,
        targets=spec(PanopticTargets, max_segments=100),
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
        targets=spec(PanopticTargets, max_segments=100, map_size=(640, 640)),
        shapes=shapes,
        transforms=(spec(KeepSegmentMap), spec(SceneResizeShorterSide, size=800, longest=1333)),
    )

    config.optimizer = spec(AdamW, lr=1e-4, weight_decay=1e-4)
    config.schedule = spec(Step, boundaries=(15 * 118_287 // 64,), factor=0.1)
    config.decay_rules = ((".*", 1.0),)
    config.rate_rules = ((r"mask_(attention|head)/.*", 1.0), (".*", 0.0))
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 9241
    config.checkpoint_every = 1848
    config.keep_checkpoints = 2
    config.best_metric = "PQ"
    return config
