"""DETR with a narrow ResNet, both from scratch, on scenes of digits: twelve queries find up to four digits.

    python train.py --config configs/detr.py

Data: scenes of 0 to 4 scanned digits, 32 to 72 px high on 96 to 128 px a side, squashed to 96 by 96 px; the digits of
held-back scenes are held-back scans. Cost: 0.2 to 0.3 s a step on 2 CPU cores that had other work as well. Expected:
AP 0.60 and AP50 0.90 on 256 held-back scenes is the aim; no run has got to its first evaluation yet.
`AP_nms` in the log is AP without duplicates, which is to be the same.

End-to-End Object Detection with Transformers (Carion et al., 2020, arXiv:2005.12872). What differs from the paper is
sizes, the missing pre-training, dropout and weight decay of biases, and the schedule.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.digits import DigitScenes
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.models.detr import DETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.programs.detection import train_and_draw
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/detr"
    config.data = "digits"
    config.size = 96
    config.steps = 6000
    config.program = factory(train_and_draw, images=12, threshold=0.5)

    config.model = spec(
        DETR,
        image_size=config.get_ref("size"),
        num_queries=12,
        width=96,
        num_heads=4,
        mlp_width=256,
        encoder_depth=2,
        decoder_depth=3,
        dropout_rate=0.0,
        backbone=factory(ResNetTrunk, depths=(1, 1, 1, 1), width=16, output_stride=16),
    )
    config.task = spec(SetPrediction, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), nms_threshold=0.5)

    scenes = {"sides": (96, 128), "digit_sides": (32, 72), "max_digits": 4}
    config.train = spec(
        SceneBatches,
        source=spec(DigitScenes, split="train", num_scenes=50_000, **scenes),
        batch_size=32,
        workers=1,
        targets=spec(BoxTargets, max_boxes=4),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(DigitScenes, split="validation", num_scenes=256, **scenes),
        batch_size=32,
        targets=spec(BoxTargets, max_boxes=4),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )

    config.optimizer = spec(AdamW, lr=5e-4, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=200)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
