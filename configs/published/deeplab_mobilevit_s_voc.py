"""DeepLabv3 on MobileViT-S, PASCAL VOC 2012, in 50 epochs at 512 px.

    python train.py --config configs/published/deeplab_mobilevit_s_voc.py --config.data=voc:VOCdevkit/VOC2012

Paper: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer", Mehta, Rastegari, 2022,
arXiv:2110.02178, section 4.2.2, and the configuration of apple/ml-cvnets 0.1: output stride 16, 256 channels, AdamW at
9e-4 and ten times that for the head, averaged weights. It starts from the classifier of its own recipe. XXS and XS: the
trunk's sizes are those of `vitjax.models.mobilevit.VARIANTS`.
Data: VOC 2012 with the annotations of Hariharan et al. (10,582 training images, 1,449 for validation).
Cost: about 4.3e16 floating-point operations, counted as 3 passes of 13.7 billion multiply-adds per image: a minute on
8 A100 at 40 % of their peak; reading the images will take longer.
Expected: less than the 79.1 % mean IoU of the authors' card, for which they train on images of COCO as well.

Departures: no images of COCO. Norms and biases do not decay. Images of validation are stretched to 512 by 512 px, and
the mean IoU is that of the stretched pixels. The schedule warms up from 0 instead of 9e-5.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.scene_batching import ClassMapTargets, SceneBatches
from vitjax.data.scene_transforms import SceneCrop, SceneHorizontalFlip, SceneResize, SceneScaleJitter
from vitjax.data.segmentation_sources import open_class_maps
from vitjax.inference.foreign import initial_weights
from vitjax.layers.segmentation_head import to_corners
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.tasks.segmentation import Segmentation
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/deeplab_mobilevit_s_voc"
    config.data = "voc:VOCdevkit/VOC2012"
    config.steps = 50 * 10_582 // 128

    config.model = spec(
        DeepLabV3,
        backbone=factory(
            MobileViTTrunk,
            widths=(16, 32, 64, 96, 128, 160),
            transformer_widths=(144, 192, 240),
            expansion=4,
            depths=(2, 4, 3),
        ),
        num_classes=21,
        image_size=512,
        aspp_width=256,
        rates=(6, 12, 18),
        output_stride=16,
        upsample=factory(to_corners),
    )
    config.initial = factory(initial_weights, path="runs/published/mobilevit_s_i1k")
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

    config.optimizer = spec(AdamW, lr=9e-4, weight_decay=0.01)
    config.schedule = spec(Cosine, warmup_steps=500, final=1e-6 / 9e-4)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = (("trunk/.*", 1.0), (".*", 10.0))
    config.clip_norm = None
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
