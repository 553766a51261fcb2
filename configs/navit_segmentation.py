"""NaViT with a linear decoder: a class for every pixel of digit scenes of many sizes and shapes, packed into rows.

    python train.py --config configs/navit_segmentation.py

Data: rendered scenes of 32 to 64 px a side with up to four digits of 24 to 32 px; class 0 is the background; the digits
of held-back scenes are held-back scans. First the NaViT learns to classify single digits, as the paper's has learned
JFT's classes.
Cost: 11 minutes on a single CPU core, 2 of them for the classifier (96.7 %).
Expected: mean IoU 0.55 and pixel accuracy 0.955 on 256 held-back scenes (0.24 at step 300, 0.52 at 900), and still
rising. `plots/predictions.png` shows scenes, truth, and what was found.

NaViT (Dehghani et al., 2023, arXiv:2307.06304) transfers to ADE20k with the linear decoder of Segmenter (Strudel et
al., 2021, arXiv:2105.05633): per patch one set of logits, interpolated in between. Sizes are drawn anew in training,
and some tokens are dropped. The pixels' loss is focal, for most of them are background.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.digits import DigitImages
from vitjax.data.packed_scenes import ClassMapPatches
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, NativeSize, TruncatedNormalSide, UniformSide
from vitjax.data.segmentation_sources import open_class_maps
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis
from vitjax.models.navit import NaViT
from vitjax.models.navit_segmentation import NaViTSegmenter
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.programs.pretraining import pretrain_backbone
from vitjax.programs.segmentation import train_and_draw
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.tasks.packed_segmentation import PackedSegmentation
from vitjax.tasks.segmentation import Segmentation
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_segmentation"
    config.data = "digits"
    config.steps = 1200
    config.program = factory(pretrain_backbone, then=factory(train_and_draw, images=12), trunk="")

    trunk = {
        "patch_size": 4,
        "max_grid": (24, 24),
        "width": 128,
        "depth": 4,
        "num_heads": 4,
        "mlp_width": 256,
        "positions": factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5)),
    }
    pixels = {"mean": (0.65, 0.65, 0.65), "std": (0.25, 0.25, 0.25)}
    rows = {"patch_size": trunk["patch_size"], "max_grid": trunk["max_grid"]}

    config.model = spec(NaViTSegmenter, trunk=factory(NaViT, **trunk))
    config.task = spec(PackedSegmentation, pixels=spec(Segmentation, focusing=2.0, **pixels))

    scenes = {"data": config.get_ref("data"), "sides": (32, 64), "digit_sides": (24, 32), "max_digits": 4}
    config.train = spec(
        PackedBatches,
        source=spec(open_class_maps, split="train", num_scenes=50_000, **scenes),
        length=256,
        rows=8,
        max_images=8,
        workers=1,
        resolution=spec(UniformSide, low=32, high=56),
        token_drop=spec(BetaDrop, mean=0.1, maximum=0.4),
        targets=spec(ClassMapPatches),
        **rows,
    )
    config.evaluation = spec(
        PackedBatches,
        source=spec(open_class_maps, split="validation", num_scenes=256, **scenes),
        length=256,
        rows=8,
        max_images=8,
        resolution=spec(NativeSize, maximum=64),
        targets=spec(ClassMapPatches),
        **rows,
    )

    config.pretraining = ConfigDict()
    config.pretraining.steps = 800
    config.pretraining.model = spec(NaViT, head_bias=-2.2, **trunk)
    config.pretraining.task = spec(PackedClassification, criterion=spec(SigmoidCrossEntropy), **pixels)
    config.pretraining.train = spec(
        PackedBatches,
        source=spec(DigitImages, split="train", copies=50, sides=(16, 48)),
        length=64,
        rows=32,
        max_images=10,
        workers=1,
        resolution=spec(TruncatedNormalSide, low=12, high=32),
        token_drop=spec(BetaDrop, mean=0.1, maximum=0.4),
        **rows,
    )
    config.pretraining.evaluation = spec(
        PackedBatches,
        source=spec(DigitImages, split="validation", sides=(16, 48)),
        length=256,
        rows=8,
        max_images=16,
        resolution=spec(FixedSide, side=26),
        **rows,
    )
    config.pretraining.optimizer = spec(AdamW, lr=3e-3, weight_decay=0.05, b2=0.98)
    config.pretraining.ema_decay = 0.98
    config.pretraining.evaluate_every = 400
    config.pretraining.best_metric = "top1"

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.05, b2=0.98)
    config.schedule = spec(Cosine, warmup_steps=40)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.99

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 20
    config.log_examples = False
    config.evaluate_every = 300
    config.checkpoint_every = 300
    config.keep_checkpoints = 2
    config.best_metric = "mean_iou"
    return config
