"""MobileViT on digits, at a resolution that changes from step to step.

    python train.py --config configs/mobilevit.py

Data: the digits of configs/navit.py, squashed to squares of 32, 48 or 64 px, a size drawn for each step and as many
images as that makes room for (144, 64, 32); evaluated at 48 px. The training step is compiled for each of the three.
Cost: 3:36 on two CPU cores, a minute of them compilation.
Expected: 97.8 % top-1 on the held-back digits from step 500 on; a picture of the 359 is 0.3 %.

The same config on other pictures (set `--config.workdir` too): --config.data=folder:PATH --config.size=256
--config.train.smallest=160 --config.train.largest=320 --config.train.count=5 --config.train.divisor=32, and the sizes
of `vitjax.models.mobilevit.VARIANTS`; the papers' own recipes are in configs/published/.

MobileViT (Mehta and Rastegari, 2022, arXiv:2110.02178), smaller than XXS, with its multi-scale sampler, its weight
decay on everything, its average of the weights, and cross-entropy with label smoothing.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.multiscale import MultiScaleImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.mobilevit import MobileViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/mobilevit"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 800

    config.model = spec(
        MobileViT,
        image_size=config.get_ref("size"),
        widths=(16, 16, 24, 32, 48, 64),
        transformer_widths=(32, 48, 64),
        depths=(1, 1, 1),
        expansion=2,
        final_width=128,
        output_stride=16,  # digits are small: stage 5 keeps 3 by 3 px of 48 by 48
        dropout_rate=0.0,
        transformer_dropout_rate=0.0,
    )
    config.task = spec(
        Classification,
        mean=(0.0, 0.0, 0.0),  # the paper's: no normalisation but to 0...1
        std=(1.0, 1.0, 1.0),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

    config.train = spec(
        MultiScaleImageBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        batch_size=64,
        workers=1,
        crop=factory(InceptionCrop, area=(0.5, 1.0), interpolation="bilinear"),
        base=config.get_ref("size"),
        smallest=32,
        largest=64,
        count=3,
        divisor=16,
        multiple=8,
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=64,
        transforms=(spec(Resize, size=config.get_ref("size"), interpolation="bilinear"),),
    )

    config.optimizer = spec(AdamW, lr=4e-3, weight_decay=0.01)
    config.schedule = spec(Cosine, warmup_steps=40)
    config.decay_rules = ((".*", 1.0),)  # the paper's: everything, norms and biases too
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
