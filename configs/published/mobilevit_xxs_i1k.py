"""MobileViT-XXS on ImageNet-1k in 300 epochs, at a resolution that changes from step to step.

    python train.py --config configs/published/mobilevit_xxs_i1k.py --config.data_dir=DIR

Paper: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer", Mehta, Rastegari, 2022,
arXiv:2110.02178, and config/classification/mobilevit_xx_small.yaml of apple/ml-cvnets at `cvnets-v0.1`: sides of 160 to
320 px with batches of the same number of pixels, crops and flips, everything decays, the averaged weights are judged.
Data: imagenet2012 of TFDS (1,281,167 training images), prepared as array_record files. Pixels are divided by 255 and
not normalised further.
Cost: about 9.7e17 floating-point operations, counted as 3 passes of 0.42 billion multiply-adds per image of 256 px.
Expected: 69.0 % top-1 with the averaged weights.

Departures: pictures are RGB, read by Pillow with antialiasing; the authors' are BGR, read by OpenCV. The schedule warms
up from 0 instead of 2e-4 and falls every step instead of every epoch. Projections of queries, keys and values start
Xavier-uniform instead of normal.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.multiscale import MultiScaleImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, HorizontalFlip, InceptionCrop, ResizeShorterSide
from vitjax.models.mobilevit import MobileViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/mobilevit_xxs_i1k"
    config.data = "tfds:imagenet2012"
    config.data_dir = placeholder(str)
    # A step has one of these numbers of images, each as often as the others; see `train.shapes`.
    config.steps = 300 * 1_281_167 * 5 // (2616 + 1816 + 1024 + 808 + 648)

    config.model = spec(
        MobileViT,
        num_classes=1000,
        image_size=256,
        widths=(16, 16, 24, 48, 64, 80),
        transformer_widths=(64, 80, 96),
        depths=(2, 4, 3),
        expansion=2,
        num_heads=4,
        final_width=320,
        dropout_rate=0.1,
        transformer_dropout_rate=0.05,
    )
    config.task = spec(
        Classification,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

    config.train = spec(
        MultiScaleImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir")),
        batch_size=1024,
        workers=16,
        crop=factory(InceptionCrop, area=(0.08, 1.0), interpolation="bilinear"),
        transforms=(spec(HorizontalFlip),),
        base=256,
        smallest=160,
        largest=320,
        count=5,
        divisor=32,
        multiple=8,
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=1024,
        workers=16,
        transforms=(spec(ResizeShorterSide, size=288, interpolation="bilinear"), spec(CentreCrop, size=256)),
    )

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.01)
    config.schedule = spec(Cosine, warmup_steps=3000, final=0.1)
    config.decay_rules = ((".*", 1.0),)
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 10.0
    config.accumulate_steps = 1
    config.ema_decay = 0.9995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 927
    config.checkpoint_every = 927
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
