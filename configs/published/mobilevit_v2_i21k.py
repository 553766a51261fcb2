"""MobileViTv2 of width 2 on ImageNet-21k-P, 80 epochs at 256 px, starting from ImageNet-1k.

    python train.py --config configs/published/mobilevit_v2_i21k.py --config.data=folder:PATH

Paper: "Separable Self-attention for Mobile Vision Transformers", Mehta, Rastegari, 2022, arXiv:2206.02680;
settings of apple/ml-cvnets, docs/source/en/models/classification/README-mobilevit-v2.md. Width 1.75 takes
`--config.model.width_multiplier=1.75 --config.optimizer.weight_decay=0.039`.
Start: the run folder of configs/published/mobilevit_v2_i1k.py at width 2, or any file of one that `vitjax.load` opens
(`--config.initial.path=hf-hub:timm/mobilevitv2_200.cvnets_in1k`).
Data: ImageNet-21k-P ("ImageNet-21K Pretraining for the Masses", Ridnik et al., 2021, arXiv:2104.10972), the winter
release processed by its authors' script to 10,450 classes, as folders train/CLASS and val/CLASS: about 11,060,000
training images and 522,500 others. TFDS has no copy of it.
Cost: about 3.8e19 floating-point operations, counted as 3 passes of 7.22 billion multiply-adds per image: eleven hours
on 8 A100 at 40 % of their peak, which depthwise convolutions are far from reaching.
Expected: nothing is published for ImageNet-21k-P itself; 82.36 % top-1 on ImageNet-1k after
configs/published/mobilevit_v2_finetune_i1k.py.

Departures: as configs/published/mobilevit_v2_i1k.py. The authors' text gives a batch of 4,096, their command 32 devices
of 128, which is that, and a comment in their file twice as much.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.augmentation import RandAugment, RandomErasing
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, HorizontalFlip, InceptionCrop, ResizeShorterSide
from vitjax.inference.foreign import initial_weights
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/mobilevit_v2_i21k"
    config.data = "folder:imagenet21k_p"
    config.data_dir = placeholder(str)
    config.steps = 80 * 11_060_223 // 4096

    config.model = spec(MobileViTV2, num_classes=10_450, image_size=256, width_multiplier=2.0)
    config.initial = factory(initial_weights, path="runs/published/mobilevit_v2_i1k")
    config.task = spec(
        Classification,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    )

    config.train = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir")),
        batch_size=4096,
        workers=16,
        transforms=(
            spec(InceptionCrop, size=256, area=(0.08, 1.0)),
            spec(HorizontalFlip),
            spec(RandAugment, layers=2, magnitude=3),
            spec(RandomErasing, rate=0.25, mode="black"),
        ),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=1024,
        workers=16,
        transforms=(spec(ResizeShorterSide, size=288), spec(CentreCrop, size=256)),
    )

    config.optimizer = spec(AdamW, lr=3e-4, weight_decay=0.05)
    config.schedule = spec(Cosine, final=1 / 300)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 10.0
    config.accumulate_steps = 1
    config.ema_decay = 0.9995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 2700
    config.checkpoint_every = 2700
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
