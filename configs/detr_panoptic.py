"""DETR with a mask for every object, on scenes of digits: every pixel in a digit or in one of three grounds.

    python train.py --config configs/detr_panoptic.py

Data: scenes of 0 to 4 scanned digits on one to three grounds (plain, striped, checked), resized to 96 by 96 px; the
digits of held-back scenes are held-back scans. Boxes and masks are trained together, from nothing. Cost: not measured
on a quiet machine yet; the limit is 25 minutes on two cores. Expected: PQ of things and of stuff beside the box AP on
256 held-back scenes, at the pictures' own sizes; `plots/predictions.png` shows twelve of them, with boxes, true and
found segments.

The paper trains boxes first and the masks on top of them: give `config.initial` the run of a `DETR` with the same
settings, whose variables have the same paths, set `rate_rules = (("mask_.*", 1.0), (".*", 0.0))`, and the backbone's
`norm=factory(BatchNorm, frozen=True)`.

End-to-End Object Detection with Transformers (Carion et al., 2020, arXiv:2005.12872, section 4.4), much smaller.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.digit_panoptic import DigitPanoptic
from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
from vitjax.data.scene_batching import SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.programs.panoptic import train_and_draw
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/detr_panoptic"
    config.data = "digits"
    config.size = 96
    config.steps = 3000
    config.program = factory(train_and_draw, images=12)

    config.model = spec(
        PanopticDETR,
        image_size=config.get_ref("size"),
        detector=factory(
            DETR,
            num_queries=16,
            width=128,
            num_heads=8,
            mlp_width=256,
            encoder_depth=2,
            decoder_depth=3,
            dropout_rate=0.0,
            backbone=factory(ResNetTrunk, depths=(1, 1, 2, 1), width=16, output_stride=16),
        ),
        query_chunk=None,
    )
    config.task = spec(
        Panoptic,
        stuff=(10, 11, 12),
        detection=spec(SetPrediction, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25)),
    )

    config.train = spec(
        SceneBatches,
        source=spec(DigitPanoptic, split="train", num_scenes=50_000),
        batch_size=32,
        workers=1,
        targets=spec(PanopticTargets, max_segments=7),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(DigitPanoptic, split="validation", num_scenes=256),
        batch_size=32,
        targets=spec(PanopticTargets, max_segments=7, map_size=(144, 144)),
        transforms=(spec(KeepSegmentMap), spec(SceneResize, size=config.get_ref("size"))),
    )

    config.optimizer = spec(AdamW, lr=1e-3, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=100)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.best_metric = "PQ"
    return config
