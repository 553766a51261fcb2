"""Fine-tuning MobileViTv2 of width 2 from ImageNet-21k-P to ImageNet-1k at 256 px.

    python train.py --config configs/published/mobilevit_v2_finetune_i1k.py --config.data_dir=DIR

Paper: "Separable Self-attention for Mobile Vision Transformers", Mehta, Rastegari, 2022, arXiv:2206.02680;
settings of apple/ml-cvnets, docs/source/en/models/classification/README-mobilevit-v2.md, the same for all widths.
Start: the run folder of configs/published/mobilevit_v2_i21k.py; any file of one that `vitjax.load` opens does as well.
The head is new.
Data: imagenet2012 of TFDS (1,281,167 training images), prepared as array_record files.
Cost: about 2.8e18 floating-point operations, counted as 3 passes of 7.22 billion multiply-adds per image: 47 minutes on
8 A100 at 40 % of their peak, which depthwise convolutions are far from reaching.
Expected: 82.36 % top-1 with the averaged weights (81.94 % at width 1.75, 81.46 % at 1.5; model zoo of ml-cvnets).

Departures: as configs/published/mobilevit_v2_i1k.py. SGD's decay does not pass through the momentum here, so 4e-4
stands for the authors' 4e-5. The batch is that of the authors' file; their command runs on twice as many devices.
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
from vitjax.training.optimizers import SGD
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/mobilevit_v2_finetune_i1k"
    config.data = "tfds:imagenet2012"
    config.data_dir = placeholder(str)
    config.steps = 50 * 1_281_167 // 256

    config.model = spec(MobileViTV2, num_classes=1000, image_size=256, width_multiplier=2.0)
    config.initial = factory(initial_weights, path="runs/published/mobilevit_v2_i21k")
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
        batch_size=256,
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

    config.optimizer = spec(SGD, lr=1e-2, weight_decay=4e-4)
    config.schedule = spec(Cosine, final=0.1)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = None
    config.accumulate_steps = 1
    config.ema_decay = 0.9995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 5004
    config.checkpoint_every = 5004
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
