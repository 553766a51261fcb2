"""Fine-tuning ViT-B/16 from ImageNet-21k to ImageNet-1k at 384 px.

    python train.py --config configs/published/vit_finetune_i1k.py --config.data_dir=DIR

Paper: "How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers", Steiner, Kolesnikov,
Zhai, Wightman, Uszkoreit, Beyer, 2022, arXiv:2106.10270, which fine-tunes as "An Image is Worth 16x16 Words",
Dosovitskiy et al., 2021, arXiv:2010.11929, table 4 and section B.1.1: SGD with momentum, 20,000 steps of 512 images,
cosine, no decay; 500 steps of warm-up as in google-research/vision_transformer. The head starts at zero, the
positions are resampled.
Start: the AugReg checkpoint of configs/published/vit_augreg_i21k.py as timm publishes it; the run folder of that
config, or any file that `vitjax.load` opens, does as well (`--config.initial.path=runs/published/vit_augreg_i21k`).
Data: imagenet2012 of TFDS, 99 % of its training images, prepared as array_record files.
Cost: about 3.4e18 floating-point operations, counted as 3 passes of 55 billion multiply-adds per image: an hour on 8
A100 at 40 % of their peak.
Expected: 85.49 % top-1 on ImageNet's validation images (README of vision_transformer, B_16 with learning rate 0.03).

For other data sets the ViT paper takes 10,000 steps (CIFAR) or 500 (Pets, Flowers), and learning rates from 0.001 to
0.03.

Departures: Pillow's resizing in place of TensorFlow's. timm's copy of the weights is meant for the exact GELU; they
were trained with the approximation used here, and a line of the log says that the two differ.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import HorizontalFlip, InceptionCrop, Resize
from vitjax.inference.foreign import initial_weights
from vitjax.models.vit import ViT
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import SGD
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/vit_finetune_i1k"
    config.data = "tfds:imagenet2012"
    config.data_dir = placeholder(str)
    config.steps = 20_000

    config.model = spec(
        ViT,
        num_classes=1000,
        image_size=384,
        patch_size=16,
        width=768,
        depth=12,
        num_heads=12,
        mlp_width=3072,
        activation=factory(gelu_tanh),
    )
    config.initial = factory(initial_weights, path="vit_base_patch16_224.augreg_in21k")
    config.task = spec(Classification, criterion=spec(SoftmaxCrossEntropy))

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source,
            data=config.get_ref("data"),
            split="train",
            tfds_split="train[:99%]",
            data_dir=config.get_ref("data_dir"),
        ),
        batch_size=512,
        workers=16,
        transforms=(
            spec(InceptionCrop, size=384, area=(0.05, 1.0), interpolation="bilinear"),
            spec(HorizontalFlip),
        ),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=512,
        workers=16,
        transforms=(spec(Resize, size=384, interpolation="bilinear"),),
    )

    config.optimizer = spec(SGD, lr=0.03, momentum=0.9, momentum_dtype="bfloat16")
    config.schedule = spec(Cosine, warmup_steps=500)
    config.decay_rules = ((".*", 0.0),)
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 2000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
