"""NaViT-B/16, packed, sigmoid loss: the shortest of the paper's runs on JFT-4B.

    python train.py --config configs/published/navit_b16_jft.py --config.data=folder:PATH

Paper: "Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution", Dehghani et al., 2023,
arXiv:2307.06304: table 2 (steps, cool-down, rows of 256 tokens, 4.87 images each), appendix B.1 (loss, learning rate,
decay, sides drawn from 64 to 256 px, no crops and no flips), section 2.2 (model), section 4.1 (Beta token drop).
Data: JFT-4B is not public. Any large set as a folder with a subfolder per class stands in, such as ImageNet-21k.
Cost: 260 TPU chip-hours (table 2); 1.8 billion images.
Expected: of this run no number is printed, and on other data none can be. The paper's figures for B/16 with more
training: 71.2 % (crops) and 72.5 % (resized) of ImageNet by mapped labels (table 5).

What the paper does not print is taken from "Scaling Vision Transformers" (Zhai et al., 2022, arXiv:2106.04560,
section 3 and appendix), which it says it follows: 10,000 steps of warm-up, Adafactor with half-precision momentum,
gradients clipped at 1, the head's biases at -10. The token drop's mean of 0.53 follows from 4.87 images of 112 tokens
on average in rows of 256. Our own choices: its maximum of 0.9, at most 16 images a row, and the packer, which wastes
less than the paper's (`spec(FirstFit)` is the paper's).
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, UniformSide
from vitjax.data.sources import open_source
from vitjax.layers.packed_positions import FactorisedPositions
from vitjax.models.navit import NaViT
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.training.optimizers import Adafactor
from vitjax.training.schedules import ReciprocalSquareRoot


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/published/navit_b16_jft"
    config.data = "folder:jft"
    config.validation_share = 0.001
    config.steps = 93_000

    config.model = spec(
        NaViT,
        patch_size=16,
        max_grid=(64, 64),
        width=768,
        depth=12,
        num_heads=12,
        mlp_width=3072,
        positions=factory(FactorisedPositions),
        head_bias=-10.0,
    )
    config.task = spec(PackedClassification, criterion=spec(SigmoidCrossEntropy))

    config.train = spec(
        PackedBatches,
        source=spec(
            open_source,
            data=config.get_ref("data"),
            split="train",
            validation_share=config.get_ref("validation_share"),
        ),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        length=256,
        rows=4096,
        packers=64,
        max_images=16,
        workers=16,
        resolution=spec(UniformSide, low=64, high=256),
        token_drop=spec(BetaDrop, mean=0.53, maximum=0.9),
    )
    config.evaluation = spec(
        PackedBatches,
        source=spec(
            open_source,
            data=config.get_ref("data"),
            split="validation",
            validation_share=config.get_ref("validation_share"),
        ),
        patch_size=config.model.get_ref("patch_size"),
        max_grid=config.model.get_ref("max_grid"),
        length=256,
        rows=1024,
        packers=64,
        max_images=4,
        workers=16,
        resolution=spec(FixedSide, side=256),
    )

    config.optimizer = spec(Adafactor, lr=8e-4, weight_decay=0.03)
    config.schedule = spec(ReciprocalSquareRoot, warmup_steps=10_000, cooldown_steps=10_000, timescale=10_000)
    config.decay_rules = (("head/kernel", 100.0), (".*/kernel", 1.0), (".*", 0.0))  # 3.0 and 0.03
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.log_examples = False
    config.evaluate_every = 5000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
