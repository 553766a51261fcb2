"""FlexiViT-B on ImageNet-21k with labels, 90 epochs: ten patch sizes, one set of weights.

    python train.py --config configs/published/flexivit_b_i21k.py --config.data=folder:PATH

Paper: "FlexiViT: One Model for All Patch Sizes", Beyer, Izmailov, Kolesnikov, Caron, Kornblith, Zhai, Minderer,
Tschannen, Alabdulmohsin, Pavetic, 2023, arXiv:2212.08013; the settings are those of big_vision's
configs/proj/flexivit/i21k_sup.py: images of 240 px, each step with patches of 48, 40, 30, 24, 20, 16, 15, 12, 10 or 8
px.
Data: ImageNet-21k as a folder with a subfolder per class; TFDS has no public copy. The paper's has 14.2 million
images of 21,843 classes, of which 51,200 are held back.
Cost: about 1.9e20 floating-point operations, counted as 3 passes of 24 billion multiply-adds per image on average
over the patch sizes: two to three days on 8 A100 at 40 % of their peak. Ten programs are compiled.
Expected: no number is printed for this run. What it is for shows in its scores at all patch sizes: a ViT-B/16 is of
no use far from 16 px, this model is smooth from 48 to 8.

The published weights (flexivit_b_i21k_*.npz) are distilled from AugReg's ViT-B/8 at a tenth of this learning rate and
decay, with mixup of 1 and the student starting from the teacher; see configs/published/flexivit_s_i1k.py for the form
of such a run.

Departures: Pillow's resizing in place of TensorFlow's, which the resizing of the patch kernel is made for;
RandAugment's operations those of its own paper; the images held back are other ones. The evaluation here is at 16 px
alone. The underlying kernel is 8x8 as in the configuration file; the text of the paper has 32x32. big_vision's weight
decay of 1e-4 is not multiplied by the learning rate of 1e-3, ours is: hence 0.1.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.augmentation import RandAugment
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, HorizontalFlip, InceptionCrop, ResizeShorterSide
from vitjax.models.flexivit import flexivit
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/flexivit_b_i21k"
    config.data = "folder:imagenet21k"
    config.validation_share = 51_200 / 14_197_122
    config.steps = 90 * (14_197_122 - 51_200) // 4096

    config.model = spec(
        flexivit,
        num_classes=None,  # copies of ImageNet-21k differ in it
        image_size=240,
        kernel_size=8,
        position_grid=7,
        patch_size=16,  # where a batch has no `grid`
        width=768,
        depth=12,
        num_heads=12,
        mlp_width=3072,
        head_bias=-10.0,
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
        grids=(5, 6, 8, 10, 12, 15, 16, 20, 24, 30),
        transforms=(
            spec(InceptionCrop, size=240, area=(0.05, 1.0), interpolation="bilinear"),
            spec(HorizontalFlip),
            spec(RandAugment, layers=2, magnitude=10),
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
        transforms=(spec(ResizeShorterSide, size=272, interpolation="bilinear"), spec(CentreCrop, size=240)),
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
