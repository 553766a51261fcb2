"""FlexiViT on digits: one model for patches of 4 to 16 px, evaluated at all of them.

    python train.py --config configs/flexivit.py

Trains with a random patch size in every step, prints a table of the best model at every patch size and draws
`plots/patch_sizes.png`. With `--config.program.fixed_grid=6` a model of one patch size is trained for comparison.

Data: the digits of configs/navit.py, squashed to 48 by 48 px. Cost: minutes on two CPU cores, one compilation for
each patch size; not timed alone. Expected: the loss leaves ln 10 = 2.30 within 30 steps; a whole run was not measured.

FlexiViT (Beyer et al., 2023, arXiv:2212.08013), supervised, with the recipe of configs/vit.py. The paper's images have
240 px and patches of 8 to 48 px: `grids` (5, 6, 8, 10, 12, 15, 16, 20, 24, 30), kernel 32, positions 7.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.flexivit import flexivit
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.programs.flexivit import compare_patch_sizes
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/flexivit"
    config.program = factory(compare_patch_sizes, grids=(3, 4, 6, 8, 12), fixed_grid=None)
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 400

    config.model = spec(
        flexivit,
        image_size=config.get_ref("size"),
        kernel_size=8,
        position_grid=6,
        patch_size=8,  # where no grid is asked for
        width=96,
        depth=4,
        num_heads=4,
        mlp_width=288,
    )
    config.task = spec(Classification, criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1), mixup_alpha=0.2)

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        batch_size=128,
        workers=1,
        transforms=(spec(InceptionCrop, size=config.get_ref("size"), area=(0.5, 1.0)),),
        grids=(3, 4, 6, 8, 12),  # patches of 16, 12, 8, 6 and 4 px
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=128,
        transforms=(spec(Resize, size=config.get_ref("size")),),
    )

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.05)
    config.schedule = spec(Cosine, warmup_steps=40)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.99

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 10
    config.log_examples = False
    config.evaluate_every = 100
    config.checkpoint_every = 100
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
