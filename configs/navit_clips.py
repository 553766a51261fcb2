"""NaViT on clips of any length and size, cut into tubelets and packed into rows: what does the digit do?

    python train.py --config configs/navit_clips.py

Data: clips of a scanned digit that moves left, right, up or down, shrinks, grows, fades or appears, 4 to 8 frames of 32
to 64 px a side; no single frame tells which. A fifth of the scans is held back; nothing is downloaded. Cost: 5
minutes on one CPU core. Expected: 99.4 % top-1 on clips of held-back digits, 87 % at step 400; guessing has 12.5 %.

The same config on other clips (set `--config.workdir` too):
    --config.data=folder:PATH     one subfolder of animated GIF, WebP or PNG files per class, or train/ and val/ of such

NaViT (Dehghani et al., 2023, arXiv:2307.06304) on Kinetics-400: tubelets, and a factorised position of time beside
those of row and column; here all three are shares of the clip's length and sides. There it starts from a NaViT of
images, with its kernel at the central frame of each tubelet: `config.initial = factory(clip_weights, path=...)` of
`vitjax.transfer.clips`, for a model of the same sizes.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.clip_sources import open_clips
from vitjax.data.clips import Tubelets
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide, TruncatedNormalSide
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis, fractional
from vitjax.models.navit import NaViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_clips"
    config.data = "digits"
    config.steps = 1200

    config.model = spec(
        NaViT,
        patch_size=8,
        max_grid=(4, 16, 16),
        width=96,
        depth=3,
        num_heads=4,
        mlp_width=192,
        positions=factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5), coordinates=factory(fractional)),
    )
    config.task = spec(
        PackedClassification, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), criterion=spec(SoftmaxCrossEntropy)
    )

    config.train = spec(
        PackedBatches,
        source=spec(open_clips, data=config.get_ref("data"), split="train", num_clips=100_000),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        cut=spec(Tubelets, frames=8, depth=2),
        length=128,
        workers=1,
        rows=16,
        max_images=10,
        resolution=spec(TruncatedNormalSide, low=24, high=40),
    )
    config.evaluation = spec(
        PackedBatches,
        source=spec(open_clips, data=config.get_ref("data"), split="validation", num_clips=800),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        cut=spec(Tubelets, frames=8, depth=2),
        length=128,
        rows=16,
        max_images=10,
        resolution=spec(FixedSide, side=36),
    )

    config.optimizer = spec(AdamW, lr=1.5e-3, weight_decay=0.05, b2=0.98)
    config.schedule = spec(Cosine, warmup_steps=40)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.98

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 10
    config.log_examples = False
    config.evaluate_every = 400
    config.checkpoint_every = 400
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
