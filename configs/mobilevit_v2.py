"""MobileViTv2 on digits: self-attention at a cost linear in the number of tokens.

    python train.py --config configs/mobilevit_v2.py

Data: the digits of configs/navit.py, squashed to 48 by 48 px.
Cost: 2:04 on two CPU cores.
Expected: 97.8 % top-1 on the held-back digits at its best (step 600), 97.2 % at its end.

The same config on other pictures (set `--config.workdir` too):
    --config.data=folder:PATH --config.size=256 --config.model.width_multiplier=0.5 --config.model.output_stride=32

MobileViTv2 (Mehta and Rastegari, 2022, arXiv:2206.02680), half as wide as the paper's smallest, with crops and label
smoothing of its recipe.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/mobilevit_v2"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 1300

    config.model = spec(
        MobileViTV2,
        image_size=config.get_ref("size"),
        width_multiplier=0.25,
        depths=(1, 1, 1),
        output_stride=16,  # digits are small: stage 5 keeps 3 by 3 px of 48 by 48
    )
    config.task = spec(
        Classification,
        mean=(0.0, 0.0, 0.0),  # the paper's: no normalisation but to 0...1
        std=(1.0, 1.0, 1.0),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        batch_size=64,
        workers=1,
        transforms=(spec(InceptionCrop, size=config.get_ref("size"), area=(0.5, 1.0), interpolation="bilinear"),),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=64,
        transforms=(spec(Resize, size=config.get_ref("size"), interpolation="bilinear"),),
    )

    config.optimizer = spec(AdamW, lr=4e-3, weight_decay=0.01)
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
