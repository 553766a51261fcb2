"""DETR on ResNet-101, COCO 2017, in 500 epochs.

    python train.py --config configs/published/detr_resnet101_coco.py --config.data=DIR

Paper: "End-to-End Object Detection with Transformers", Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, 2020,
arXiv:2005.12872, section 4, appendix A.4 and table 1: AdamW for batches of 64, 1e-4 for the transformer and 1e-5 for
the backbone, a tenth of both after 400 epochs, weight decay 1e-4 on everything, gradients clipped at a norm of 0.1.
The backbone is torchvision's classifier; its stem, its first stage and all its norms stay as they are. Classes are
COCO's category ids, 91 with the unused ones, as in the authors' weights.
Data: COCO 2017 (118,287 training images, 5,000 for validation): DIR has annotations/, train2017/ and val2017/.
Cost: about 7e19 floating-point operations, counted as 3 passes of 152 billion multiply-adds per image, and a third
more for padding: 19 hours on 8 A100 at 40 % of their bfloat16 peak (`model.dtype`).
Expected: 43.5 AP, 63.8 AP50 (table 1).

Departures: batches are padded to one of 8 shapes instead of to their largest image, and gather images of like size:
with sizes like COCO's 23 % of the pixels are empty, 34 % with the authors' 4 images a device. A padded image gives what
it gives alone. Cross-entropies are divided by the weights of the whole batch, not of each device's part.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.coco import CocoFolder
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
    config.workdir = "runs/published/detr_resnet101_coco"
    config.data = "coco"
    config.steps = 500 * 118_287 // 64

    config.model = spec(
        DETR,
        num_classes=91,
        num_queries=100,
        width=256,
        num_heads=8,
        mlp_width=2048,
        encoder_depth=6,
        decoder_depth=6,
        dropout_rate=0.1,
        backbone=factory(
            ResNetTrunk, depths=(3, 4, 23, 3), width=64, output_stride=32, norm=factory(BatchNorm, frozen=True)
        ),
    )
    config.initial = factory(backbone_weights, path="resnet101.tv_in1k")
    config.task = spec(SetPrediction)

    shapes = ((544, 768), (672, 896), (800, 1088), (800, 1344), (768, 544), (896, 672), (1088, 800), (1344, 800))
    config.train = spec(
        PaddedSceneBatches,
        source=spec(CocoFolder, path=config.get_ref("data"), split="train", keep_ids=True),
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
        source=spec(CocoFolder, path=config.get_ref("data"), split="validation", keep_ids=True),
        batch_size=64,
        workers=16,
        targets=spec(BoxTargets, max_boxes=100),
        shapes=shapes,
        transforms=(spec(SceneResizeShorterSide, size=800, longest=1333),),
    )

    config.optimizer = spec(AdamW, lr=1e-4, weight_decay=1e-4)
    config.schedule = spec(Step, boundaries=(400 * 118_287 // 64,), factor=0.1)
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
