"""ViT-B/16 on ImageNet-21k, 300 epochs with AugReg's "medium1" augmentation: the first half of the 85.49 % model.

    python train.py --config configs/published/vit_augreg_i21k.py --config.data=folder:PATH

Paper: "How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers", Steiner, Kolesnikov,
Zhai, Wightman, Uszkoreit, Beyer, 2022, arXiv:2106.10270. The checkpoint is
`B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0` of google-research/vision_transformer.
Data: ImageNet-21k as a folder with a subfolder per class; TFDS has no public copy. The release has 14.2 million
images of 21,843 classes, of which 51,200 are held back.
Cost: about 4.5e20 floating-point operations, counted as 3 passes of 17.6 billion multiply-adds per image: five to six
days on 8 A100 at 40 % of their peak.
Expected: 85.49 % top-1 on ImageNet-1k after configs/published/vit_finetune_i1k.py (README of vision_transformer). For
ImageNet-21k itself nothing is published; scores count one label per image, though more than one class may be right.

Other levels of augmentation, as (RandAugment's magnitude, mixup): light1 (0, 0), light2 (10, 0.2), medium2 (15, 0.5),
strong1 (20, 0.5), strong2 (20, 0.8); big_vision's configs/vit_i21k.py takes light2 for B/16, and averages the tokens.

Departures: Pillow's resizing in place of TensorFlow's, RandAugment's operations those of its own paper; the images
held back are other ones. big_vision's weight decay of 1e-4 is not multiplied by the learning rate of 1e-3, ours is:
hence 0.1.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.augmentation import RandAugment
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, HorizontalFlip, InceptionCrop, ResizeShorterSide
from vitjax.models.vit import ViT
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/vit_augreg_i21k"
    config.data = "folder:imagenet21k"
    config.validation_share = 51_200 / 14_197_122
    config.steps = 300 * (14_197_122 - 51_200) // 4096

    config.model = spec(
        ViT,
        num_classes=None,  # copies of ImageNet-21k differ in it
        image_size=224,
        patch_size=16,
        width=768,
        depth=12,
        num_heads=12,
        mlp_width=3072,
        head_bias=-10.0,  # each class starts at 1 in 22,000
        activation=factory(gelu_tanh),
    )
    config.task = spec(Classification, criterion=spec(SigmoidCrossEntropy), mixup_alpha=0.2)

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source,
            data=config.get_ref("data"),
            split="train",
            validation_share=config.get_ref("validation_share"),
        ),
        batch_size=4096,
        workers=16,
        transforms=(
            spec(InceptionCrop, size=224, area=(0.05, 1.0), interpolation="bilinear"),
            spec(HorizontalFlip),
            spec(RandAugment, layers=2, magnitude=15),
        ),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(
            open_source,
            data=config.get_ref("data"),
            split="validation",
            validation_share=config.get_ref("validation_share"),
        ),
        batch_size=1024,
        workers=16,
        transforms=(spec(ResizeShorterSide, size=256, interpolation="bilinear"), spec(CentreCrop, size=224)),
    )

    config.optimizer = spec(AdamW, lr=1e-3, weight_decay=0.1, momentum_dtype="bfloat16")
    config.schedule = spec(Cosine, warmup_steps=10_000)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 10_000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
