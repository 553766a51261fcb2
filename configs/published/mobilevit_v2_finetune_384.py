"""Fine-tuning MobileViTv2 on ImageNet-1k at 384 px, 10 epochs without augmentation; here of width 1.

    python train.py --config configs/published/mobilevit_v2_finetune_384.py --config.data_dir=DIR

Paper: "Separable Self-attention for Mobile Vision Transformers", Mehta, Rastegari, 2022, arXiv:2206.02680;
settings of apple/ml-cvnets, docs/source/en/models/classification/README-mobilevit-v2.md, the same for all widths
(`--config.model.width_multiplier=0.5`).
Start: the run folder of configs/published/mobilevit_v2_i1k.py, or of mobilevit_v2_finetune_i1k.py for the models from
ImageNet-21k-P; any file that `vitjax.load` opens does as well.
Data: imagenet2012 of TFDS (1,281,167 training images), prepared as array_record files.
Cost: about 3.2e17 floating-point operations, counted as 3 passes of 4.14 billion multiply-adds per image: minutes on
8 A100 at 40 % of their peak, which depthwise convolutions are far from reaching.
Expected: 79.68 % top-1 with the averaged weights (model zoo of ml-cvnets). By width, from 0.5 to 2: 72.14, 76.98,
79.68, 80.94, 81.50, 82.04 and 82.17 %; from ImageNet-21k-P 82.60 (1.5), 82.93 (1.75) and 83.41 % (2.0).

Departures: SGD's decay does not pass through the momentum here, so 4e-4 stands for the authors' 4e-5.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, HorizontalFlip, InceptionCrop, ResizeShorterSide
from vitjax.inference.foreign import initial_weights
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import SGD
from vitjax.training.schedules import Constant


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/mobilevit_v2_finetune_384"
    config.data = "tfds:imagenet2012"
    config.data_dir = placeholder(str)
    config.steps = 10 * 1_281_167 // 128

    config.model = spec(MobileViTV2, num_classes=1000, image_size=384, width_multiplier=1.0)
    config.initial = factory(initial_weights, path="runs/published/mobilevit_v2_i1k")
    config.task = spec(
        Classification,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

    config.train = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir")),
        batch_size=128,
        workers=16,
        transforms=(spec(InceptionCrop, size=384, area=(0.08, 1.0)), spec(HorizontalFlip)),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=512,
        workers=16,
        transforms=(spec(ResizeShorterSide, size=384), spec(CentreCrop, size=384)),
    )

    config.optimizer = spec(SGD, lr=1e-3, weight_decay=4e-4)
    config.schedule = spec(Constant)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 10.0
    config.accumulate_steps = 1
    config.ema_decay = 0.99995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 10009
    config.checkpoint_every = 10009
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
