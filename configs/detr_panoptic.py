"""DETR with a mask for every object, on scenes of digits: every pixel in a digit or in one of three grounds.

    python train.py --config configs/detr_panoptic.py

Data: scenes of 0 to 3 scanned digits, 30 to 64 px high on 72 to 96 px a side, on one to three grounds (plain, striped,
checked), resized to 72 by 72 px; the digits of held-back scenes are held-back scans. First the ResNet learns to
classify single digits (800 steps); then boxes and masks are trained together. Masks have a pixel per 4 by 4.
Cost: 29 minutes on a single CPU core that had other work as well (0.2 s a step).
Expected: PQ 0.66 (things 0.60, stuff 0.86) and box AP 0.66 at step 5000, PQ 0.37 at step 2000, on 256 held-back scenes
at the pictures' own sizes; `plots/predictions.png` shows twelve of them, with boxes, true and found segments.

Your own pictures, in COCO's panoptic format (`vitjax.data.coco_panoptic`): `--config.data=coco:DIR`, with as many
`model.detector.num_queries` and `train.targets.max_segments` as a picture has segments, the evaluation's likewise, and
its `map_size` as large as the largest picture. Classes, and which of them are stuff, are the data's; the backbone still
comes from digits.

The paper trains boxes first and the masks on top of them, as `configs/published/detr_resnet50_panoptic_coco.py` does.

End-to-End Object Detection with Transformers (Carion et al., 2020, arXiv:2005.12872, section 4.4), much smaller.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.coco_panoptic import open_panoptic
from vitjax.data.digits import DigitImages
from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
from vitjax.data.scene_batching import SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import ResNet, ResNetTrunk
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.programs.panoptic import train_and_draw
from vitjax.programs.pretraining import pretrain_backbone
from vitjax.tasks.classification import Classification
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/detr_panoptic"
    config.data = "digits"
    config.size = 72
    config.steps = 6000
    config.program = factory(pretrain_backbone, then=factory(train_and_draw, images=12))

    trunk = {"depths": (1, 1, 1, 1), "width": 16, "output_stride": 8}
    config.model = spec(
        PanopticDETR,
        image_size=config.get_ref("size"),
        detector=factory(
            DETR,
            num_queries=12,
            width=128,
            num_heads=8,
            mlp_width=256,
            encoder_depth=2,
            decoder_depth=3,
            dropout_rate=0.0,
            backbone=factory(ResNetTrunk, **trunk),
        ),
        query_chunk=None,
    )
    config.task = spec(
        Panoptic,
        stuff=None,
        detection=spec(SetPrediction, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25)),
    )

    scenes = {"sides": (72, 96), "digit_sides": (30, 64), "max_digits": 3}
    config.train = spec(
        SceneBatches,
        source=spec(open_panoptic, data=config.get_ref("data"), split="train", num_scenes=100_000, **scenes),
        batch_size=16,
        workers=1,
        targets=spec(PanopticTargets, max_segments=6),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(open_panoptic, data=config.get_ref("data"), split="validation", num_scenes=256, **scenes),
        batch_size=32,
        targets=spec(PanopticTargets, max_segments=6, map_size=(96, 96)),
        transforms=(spec(KeepSegmentMap), spec(SceneResize, size=config.get_ref("size"))),
    )

    config.pretraining = ConfigDict()
    config.pretraining.steps = 800
    config.pretraining.model = spec(ResNet, image_size=40, **trunk)
    config.pretraining.task = spec(
        Classification,
        mean=(0.65, 0.65, 0.65),
        std=(0.25, 0.25, 0.25),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )
    config.pretraining.train = spec(
        ImageBatches,
        source=spec(DigitImages, split="train", copies=50, sides=(24, 48)),
        batch_size=64,
        workers=1,
        transforms=(spec(InceptionCrop, size=40, area=(0.5, 1.0)),),
    )
    config.pretraining.evaluation = spec(
        ImageBatches,
        source=spec(DigitImages, split="validation", sides=(24, 48)),
        batch_size=64,
        transforms=(spec(Resize, size=40),),
    )
    config.pretraining.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.01)
    config.pretraining.clip_norm = 1.0
    config.pretraining.evaluate_every = 200
    config.pretraining.best_metric = "top1"

    config.optimizer = spec(AdamW, lr=5e-4, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=200)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 100
    config.log_examples = False
    config.evaluate_every = 1000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "PQ"
    return config
