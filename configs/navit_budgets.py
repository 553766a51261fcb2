"""One NaViT at many costs: trained at sides of 24 to 64 px, asked at budgets of 9 to 64 tokens, and as a cascade.

    python train.py --config configs/navit_budgets.py

Data: the digits of configs/navit.py. Cost: about 4 minutes on two CPU cores, reckoned from configs/navit.py, whose rows
of 64 tokens hold half as many images here. Expected: a table and `plots/budgets.png` of top-1 and calibration error
over tokens, multiply-adds and seconds per image: 86.1, 93.9, 97.5 and 95.3 % top-1 at 9, 16, 36 and 64 tokens (6.7,
11.9, 27.6 and 49.5 million multiply-adds), with calibration errors of 0.069, 0.041, 0.030 and 0.033; pictures
larger than the scans are no clearer. The cascade of 9 and 36 tokens has 97.2 % for 15.0 million, the least certain 30 %
running twice.

A model that is trained already, on any data with its labels:
    --config.program.bundle=runs/navit --config.workdir=runs/navit_at_budgets

NaViT (Dehghani et al., 2023, arXiv:2307.06304): variable cost in section 3.6, calibration over budgets in section 3.5,
the cascade in appendix E. In python: `vitjax.load("runs/navit").predict("photos/", tokens=128)`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, TruncatedNormalSide
from vitjax.data.sources import open_source
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis, fractional
from vitjax.models.navit import NaViT
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.programs.budgets import accuracy_over_budgets
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_budgets"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.steps = 960
    config.program = factory(
        accuracy_over_budgets,
        budgets=(9, 16, 36, 64),
        cascade=(9, 36),
        shares=(0.1, 0.2, 0.3, 0.5),
        num_bins=30,
        repeats=5,
        bundle=placeholder(str),  # what vitjax.load opens, in place of a training
    )

    config.model = spec(
        NaViT,
        patch_size=8,
        max_grid=(12, 12),
        width=128,
        depth=5,
        num_heads=4,
        mlp_width=256,
        # Shares of the sides: a place of the digit has one vector at all sizes, which a run this short needs.
        positions=factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5), coordinates=factory(fractional)),
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
        resolution=spec(TruncatedNormalSide, low=24, high=64),
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
