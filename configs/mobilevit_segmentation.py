"""DeepLabv3 on a small MobileViT, on scenes of digits: a class for every pixel.

    python train.py --config configs/mobilevit_segmentation.py

Data: rendered scenes of 96 by 96 px with up to 4 digits of 40 to 72 px; class 0 is the background.
Cost: 8 to 9 minutes on two CPU cores (0.4 to 0.5 s a step, measured on a busy machine).
Expected: mean IoU 0.80 and pixel accuracy 0.98 on 128 held-back scenes. For 350 steps ink and ground are told apart,
but not the digits (mean IoU 0.08); then it goes fast. `plots/predictions.png` shows scenes, truth, and what was found.

The same config on other pictures (set `--config.workdir` too): `--config.data=folder:PATH`, `--config.size=512`,
`--config.model.output_stride=16`, `--config.model.rates=(6,12,18)`.

MobileViT (Mehta and Rastegari, 2022, arXiv:2110.02178, section 4.2.2), DeepLabv3 (Chen et al., 2017, arXiv:1706.05587).
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.scene_batching import ClassMapTargets, SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.data.segmentation_sources import open_class_maps
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.programs.segmentation import train_and_draw
from vitjax.tasks.segmentation import Segmentation
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/mobilevit_segmentation"
    config.data = "digits"
    config.size = 96
    config.steps = 1000
    config.program = factory(train_and_draw, images=12)

    config.model = spec(
        DeepLabV3,
        backbone=factory(
            MobileViTTrunk,
            widths=(16, 16, 24, 48, 64, 80),
            transformer_widths=(48, 64, 80),
            depths=(1, 1, 1),
            expansion=2,
            transformer_dropout_rate=0.0,
        ),
        image_size=config.get_ref("size"),
        aspp_width=64,
        rates=(1, 2, 3),
        output_stride=8,
        dropout_rate=0.0,
    )
    config.task = spec(Segmentation, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), focusing=2.0)

    config.train = spec(
        SceneBatches,
        source=spec(
            open_class_maps,
            data=config.get_ref("data"),
            split="train",
            num_scenes=20_000,
            sides=(96, 96),
            digit_sides=(40, 72),
            max_digits=4,
        ),
        batch_size=32,
        workers=1,
        targets=spec(ClassMapTargets),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(
            open_class_maps,
            data=config.get_ref("data"),
            split="validation",
            num_scenes=128,
            sides=(96, 96),
            digit_sides=(40, 72),
            max_digits=4,
        ),
        batch_size=32,
        targets=spec(ClassMapTargets),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.05)
    config.schedule = spec(Cosine, warmup_steps=30)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.99

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 20
    config.log_examples = False
    config.evaluate_every = 100
    config.checkpoint_every = 100
    config.keep_checkpoints = 2
    config.best_metric = "mean_iou"
    return config
