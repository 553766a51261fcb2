"""A NaViT tuned at one resolution and at many: does one model serve all of them?

    python train.py --config configs/navit_finetune.py

Data: the digits of configs/navit.py. Cost: its run, and two tunings of a quarter of it: about 4 minutes on two CPU
cores, reckoned from its 2. Expected: a table and `plots/resolutions.png` of top-1 on 359 held-back digits at 24, 32 and
48 px: 93.9, 96.9 and 96.7 % for the model as it was trained, 94.4, 97.5 and 95.8 % tuned at 32 px, 94.2, 96.9 and
96.9 % tuned at 24 to 48 px: one model for all sizes is within two digits of the one tuned at 32
px there, and better beside it.

NaViT (Dehghani et al., 2023, arXiv:2307.06304), section 3.4: a model tuned at 64 to 512 px equals those tuned at one
size each. `--config.program.sides="(24, 32, 48)"` tunes one model more per side.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, TruncatedNormalSide
from vitjax.data.sources import open_source
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis
from vitjax.models.navit import NaViT
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.programs.resolutions import tune_at_resolutions
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_finetune"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.steps = 960
    config.program = factory(
        tune_at_resolutions, sides=(32,), many=(24, 48), judged=(24, 32, 48), tune_steps=240, tune_rate=0.2
    )

    config.model = spec(
        NaViT,
        patch_size=8,
        max_grid=(32, 32),
        width=128,
        depth=5,
        num_heads=4,
        mlp_width=256,
        positions=factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5)),
        head_bias=-2.2,
    )
    config.task = spec(
        PackedClassification, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), criterion=spec(SigmoidCrossEntropy)
    )

    config.train = spec(
        PackedBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        length=64,
        workers=1,
        rows=32,
        max_images=10,
        resolution=spec(TruncatedNormalSide, low=24, high=48),
        token_drop=spec(BetaDrop, mean=0.1, maximum=0.4),
    )
    config.evaluation = spec(
        PackedBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        length=256,
        rows=8,
        max_images=16,
        resolution=spec(FixedSide, side=44),
    )

    config.optimizer = spec(AdamW, lr=3e-3, weight_decay=0.05, b2=0.98)
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
    config.evaluate_every = 320
    config.checkpoint_every = 320
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
