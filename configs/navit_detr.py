"""DETR's decoder on a NaViT, in rows of packed scenes of many sizes: ten queries an image find up to three digits.

    python train.py --config configs/navit_detr.py

Data: scenes of 0 to 3 scanned digits, 24 to 40 px high on 40 to 80 px a side, at their own aspect ratio, and held-back
ones at their own size; the digits of held-back scenes are held-back scans. First the NaViT learns to classify single
digits (`configs/navit.py`); its blocks are then backbone and encoder in one.
Cost: 11 minutes on a single CPU core, 3 of them for the classifier (96 %).
Expected: AP 0.58, AP50 0.80, AP75 0.69 on 256 held-back scenes; AP 0.17 at step 1000, 0.47 at 2000.
`plots/predictions.png` shows twelve of the scenes.

NaViT (Dehghani et al., 2023, arXiv:2307.06304) detects with OWL-ViT's heads; this is the set loss and the decoder of
End-to-End Object Detection with Transformers (Carion et al., 2020, arXiv:2005.12872), as in `configs/detr.py`.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.digits import DigitImages, DigitScenes
from vitjax.data.packed_scenes import BoxSlots
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, NativeSize, TruncatedNormalSide, UniformSide
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis
from vitjax.models.navit import NaViT
from vitjax.models.navit_detr import PackedDETR
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.programs.detection import train_and_draw
from vitjax.programs.pretraining import pretrain_backbone
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.tasks.packed_set_prediction import PackedSetPrediction
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_detr"
    config.data = "digits"
    config.steps = 3500
    config.program = factory(pretrain_backbone, then=factory(train_and_draw, images=12, threshold=0.5), trunk="")

    trunk = {
        "patch_size": 8,
        "max_grid": (32, 32),
        "width": 128,
        "depth": 5,
        "num_heads": 4,
        "mlp_width": 256,
        "positions": factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5)),
    }
    pixels = {"mean": (0.65, 0.65, 0.65), "std": (0.25, 0.25, 0.25)}
    rows = {"patch_size": trunk["patch_size"], "max_grid": trunk["max_grid"]}

    config.model = spec(
        PackedDETR,
        trunk=factory(NaViT, **trunk),
        num_queries=10,
        width=128,
        num_heads=8,
        mlp_width=256,
        decoder_depth=3,
        dropout_rate=0.0,
    )
    config.task = spec(PackedSetPrediction, images=spec(SetPrediction, nms_threshold=0.5, **pixels))

    scenes = {"sides": (40, 80), "digit_sides": (24, 40), "max_digits": 3}
    config.train = spec(
        PackedBatches,
        source=spec(DigitScenes, split="train", num_scenes=100_000, **scenes),
        length=192,
        rows=4,
        max_images=8,
        workers=1,
        resolution=spec(UniformSide, low=40, high=64),
        targets=spec(BoxSlots, max_boxes=3),
        **rows,
    )
    config.evaluation = spec(
        PackedBatches,
        source=spec(DigitScenes, split="validation", num_scenes=256, **scenes),
        length=256,
        rows=8,
        max_images=8,
        resolution=spec(NativeSize, maximum=80),
        targets=spec(BoxSlots, max_boxes=3),
        **rows,
    )

    config.pretraining = ConfigDict()
    config.pretraining.steps = 800
    config.pretraining.model = spec(NaViT, head_bias=-2.2, **trunk)
    config.pretraining.task = spec(PackedClassification, criterion=spec(SigmoidCrossEntropy), **pixels)
    config.pretraining.train = spec(
        PackedBatches,
        source=spec(DigitImages, split="train", copies=100),
        length=64,
        rows=32,
        max_images=10,
        workers=1,
        resolution=spec(TruncatedNormalSide, low=24, high=48),
        token_drop=spec(BetaDrop, mean=0.1, maximum=0.4),
        **rows,
    )
    config.pretraining.evaluation = spec(
        PackedBatches,
        source=spec(DigitImages, split="validation"),
        length=256,
        rows=8,
        max_images=16,
        resolution=spec(FixedSide, side=44),
        **rows,
    )
    config.pretraining.optimizer = spec(AdamW, lr=3e-3, weight_decay=0.05, b2=0.98)
    config.pretraining.clip_norm = 1.0
    config.pretraining.ema_decay = 0.98
    config.pretraining.evaluate_every = 400
    config.pretraining.best_metric = "top1"

    config.optimizer = spec(AdamW, lr=5e-4, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=100)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 100
    config.log_examples = False
    config.evaluate_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
