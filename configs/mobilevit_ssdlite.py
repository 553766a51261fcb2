"""SSDLite on a small MobileViT, on scenes of digits: a box and a label for every digit.

    python train.py --config configs/mobilevit_ssdlite.py

Data: scenes of 0 to 8 scanned digits, 16 to 64 px high on 96 to 224 px a side, squashed to 128 by 128 px; the digits of
held-back scenes are held-back scans. Cost: 8 minutes on two CPU cores (0.45 s a step on a machine that was busy with
other work), a minute of them compilation. Expected: AP 0.49, AP50 0.64, AP75 0.62 on 256 held-back scenes;
`plots/predictions.png` shows twelve of them with what is found in them.

The same on your own pictures (set `--config.workdir` too): `source=spec(CocoFolder, path=...)` in both batches, at 320
px and with the anchors, stages and heads of configs/published/ssdlite_mobilevit_s_coco.py.

MobileViT (Mehta and Rastegari, 2022, arXiv:2110.02178, section 4.2.1) on three of its stages, without further maps.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.digits import DigitScenes
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.ssdlite import SSDLite
from vitjax.ops.anchors import SSDAnchors
from vitjax.programs.detection import train_and_draw
from vitjax.tasks.detection import AnchorDetection
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/mobilevit_ssdlite"
    config.data = "digits"
    config.size = 128
    config.steps = 1000
    config.program = factory(train_and_draw, images=12, threshold=0.3)

    config.model = spec(
        SSDLite,
        backbone=factory(
            MobileViTTrunk,
            widths=(16, 16, 24, 48, 64, 80),
            transformer_widths=(48, 64, 80),
            depths=(1, 1, 1),
            expansion=2,
            transformer_dropout_rate=0.0,
        ),
        image_size=config.get_ref("size"),
        stages=("stage_3", "stage_4", "stage_5"),
        extra_widths=(),
        pooled_width=None,
        head_widths=(96, 96, 96),
        anchors=spec(SSDAnchors, aspect_ratios=((2,), (2,), (2,)), smallest=0.12, largest=0.7),
    )
    config.task = spec(AnchorDetection, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25))

    config.train = spec(
        SceneBatches,
        source=spec(DigitScenes, split="train", num_scenes=20_000),
        batch_size=32,
        workers=1,
        targets=spec(BoxTargets, max_boxes=8),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(DigitScenes, split="validation", num_scenes=256),
        batch_size=32,
        targets=spec(BoxTargets, max_boxes=8),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.05)
    config.schedule = spec(Cosine, warmup_steps=50)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 10.0
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 20
    config.log_examples = False
    config.evaluate_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
