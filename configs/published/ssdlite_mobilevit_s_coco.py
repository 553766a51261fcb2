"""SSDLite on MobileViT-S, COCO 2017, in 200 epochs at 320 px.

    python train.py --config configs/published/ssdlite_mobilevit_s_coco.py --config.data=DIR

Paper: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer", Mehta, Rastegari, 2022,
arXiv:2110.02178, section 4.2.1, and the configuration of apple/ml-cvnets, detection/ssd_coco/mobilevit.yaml: AdamW at
9e-4 for batches of 128, averaged weights. It starts from the classifier of its own recipe. XXS and XS: the trunk's
sizes are those of `vitjax.models.mobilevit.VARIANTS`.
Data: COCO 2017 (118,287 training images, 5,000 for validation): DIR has annotations/, train2017/ and val2017/.
Cost: about 5e17 floating-point operations, counted as 3 passes of 3.5 billion multiply-adds per image: 10 minutes on
8 A100 at 40 % of their peak; reading the images will take longer.
Expected: 27.7 % AP (the paper's table of mobile detectors).

Departures: norms and biases do not decay. The schedule warms up from 0 instead of 9e-5.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.augmentation import PhotometricDistortion
from vitjax.data.coco import CocoFolder
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_transforms import OnImage, SceneHorizontalFlip, SceneResize, SSDCrop
from vitjax.inference.foreign import initial_weights
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.ssdlite import SSDLite
from vitjax.tasks.detection import AnchorDetection
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/ssdlite_mobilevit_s_coco"
    config.data = "coco"
    config.steps = 200 * 118_287 // 128

    config.model = spec(
        SSDLite,
        backbone=factory(
            MobileViTTrunk,
            widths=(16, 32, 64, 96, 128, 160),
            transformer_widths=(144, 192, 240),
            depths=(2, 4, 3),
            expansion=4,
        ),
        num_classes=80,
        image_size=320,
        stages=("stage_4", "stage_5"),
        extra_widths=(256, 128, 128),
        pooled_width=64,
        head_widths=(512, 256, 256, 128, 128),
    )
    config.initial = factory(initial_weights, path="runs/published/mobilevit_s_i1k")
    config.task = spec(AnchorDetection, match_threshold=0.5)

    config.train = spec(
        SceneBatches,
        source=spec(CocoFolder, path=config.get_ref("data"), split="train"),
        batch_size=128,
        workers=16,
        targets=spec(BoxTargets, max_boxes=100),
        transforms=(
            spec(SSDCrop),
            spec(SceneHorizontalFlip),
            spec(SceneResize, size=320, interpolation="bicubic"),
            spec(OnImage, transform=spec(PhotometricDistortion)),
        ),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(CocoFolder, path=config.get_ref("data"), split="validation"),
        batch_size=128,
        workers=16,
        targets=spec(BoxTargets, max_boxes=100),
        transforms=(spec(SceneResize, size=320, interpolation="bicubic"),),
    )

    config.optimizer = spec(AdamW, lr=9e-4, weight_decay=0.01)
    config.schedule = spec(Cosine, warmup_steps=500, final=1e-6 / 9e-4)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = None
    config.accumulate_steps = 1
    config.ema_decay = 0.9995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 9240
    config.checkpoint_every = 924
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
