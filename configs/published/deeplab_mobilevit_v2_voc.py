"""DeepLabv3 on MobileViTv2, PASCAL VOC 2012, in 50 epochs at 512 px; here at a width of 1.

    python train.py --config configs/published/deeplab_mobilevit_v2_voc.py --config.data=voc:VOCdevkit/VOC2012

Paper: "Separable Self-attention for Mobile Vision Transformers", Mehta, Rastegari, 2022, arXiv:2206.02680, and the
configuration of apple/ml-cvnets: output stride 16, 512 channels, an auxiliary head with weight 0.4, AdamW at 5e-4 for
all, averaged weights. It starts from the classifier of its own recipe. Other widths:
`--config.model.backbone.width_multiplier=0.5` and the run to start from.
Data: VOC 2012 with the annotations of Hariharan et al. (10,582 training images, 1,449 for validation).
Cost: about 5.6e16 floating-point operations, counted as 3 passes of 17.7 billion multiply-adds per image: a minute on
8 A100 at 40 % of their peak; reading the images will take longer.
Expected: less than the 78.94 % mean IoU of ml-cvnets' model zoo, for which images of COCO are used as well.

Departures: no images of COCO, and no Gaussian noise among the augmentations. Images of validation are stretched to 512
by 512 px, and the mean IoU is that of the stretched pixels. The schedule warms up from 0 instead of 5e-5.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.augmentation import PhotometricDistortion
from vitjax.data.scene_batching import ClassMapTargets, SceneBatches
from vitjax.data.scene_transforms import (
    OnImage,
    SceneCrop,
    SceneHorizontalFlip,
    SceneResize,
    SceneRotate,
    SceneScaleJitter,
)
from vitjax.data.segmentation_sources import open_class_maps
from vitjax.inference.foreign import initial_weights
from vitjax.layers.segmentation_head import AuxiliaryHead, to_corners
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.tasks.segmentation import Segmentation
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/deeplab_mobilevit_v2_voc"
    config.data = "voc:VOCdevkit/VOC2012"
    config.steps = 50 * 10_582 // 128

    config.model = spec(
        DeepLabV3,
        backbone=factory(MobileViTV2Trunk, width_multiplier=1.0, depths=(2, 4, 3)),
        num_classes=21,
        image_size=512,
        aspp_width=512,
        rates=(6, 12, 18),
        output_stride=16,
        auxiliary=factory(AuxiliaryHead),
        upsample=factory(to_corners),
    )
    config.initial = factory(initial_weights, path="runs/published/mobilevit_v2_i1k")
    config.task = spec(Segmentation)

    config.train = spec(
        SceneBatches,
        source=spec(open_class_maps, data=config.get_ref("data"), split="train"),
        batch_size=128,
        workers=16,
        targets=spec(ClassMapTargets),
        transforms=(
            spec(SceneScaleJitter, sides=(256, 1024)),
            spec(SceneCrop, size=512),
            spec(SceneHorizontalFlip),
            spec(OnImage, transform=spec(PhotometricDistortion)),
            spec(SceneRotate, degrees=10),
        ),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(open_class_maps, data=config.get_ref("data"), split="validation"),
        batch_size=128,
        workers=16,
        targets=spec(ClassMapTargets),
        transforms=(spec(SceneResize, size=512),),
    )

    config.optimizer = spec(AdamW, lr=5e-4, weight_decay=0.05)
    config.schedule = spec(Cosine, warmup_steps=500, final=1e-6 / 5e-4)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 10.0
    config.accumulate_steps = 1
    config.ema_decay = 0.9995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 413
    config.checkpoint_every = 413
    config.keep_checkpoints = 2
    config.best_metric = "mean_iou"
    return config
