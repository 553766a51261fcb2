"""EfficientViT on digits: sandwiches of feed-forward layers around cascaded group attention.

    python train.py --config configs/efficientvit.py

Data: the digits of configs/navit.py, squashed to 48 by 48 px, of which the first stage sees 3 by 3 patches.
Cost: 3:03 on two CPU cores, half a minute of them compilation.
Expected: 97.5 and 97.8 % top-1 on the held-back digits at its best in two runs, 97.2 and 97.5 % at its end; a
picture of the 359 is 0.3 %.

The same config on other pictures (set `--config.workdir` too): --config.data=folder:PATH --config.size=224
--config.model.window_size=7, and the sizes of `vitjax.models.efficientvit.VARIANTS`.

EfficientViT (Liu et al., 2023, arXiv:2305.07027), half as wide as M0. `vitjax.load('runs/efficientvit').fuse()` folds
its batch norms for inference.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.efficientvit import EfficientViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/efficientvit"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 1400

    config.model = spec(
        EfficientViT,
        image_size=config.get_ref("size"),
        widths=(32, 64, 96),
        depths=(1, 2, 2),
        num_heads=(2, 2, 2),
        query_kernels=(3, 3),
        window_size=3,
    )
    config.task = spec(
        Classification,
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        batch_size=96,
        workers=1,
        transforms=(spec(InceptionCrop, size=config.get_ref("size"), area=(0.5, 1.0), interpolation="bilinear"),),
    )
    config.evaluation = spec(
        ImageBatches,
        source=spec(open_source, data=config.get_ref("data"), split="validation", data_dir=config.get_ref("data_dir")),
        batch_size=96,
        transforms=(spec(Resize, size=config.get_ref("size"), interpolation="bilinear"),),
    )

    config.optimizer = spec(AdamW, lr=6e-3, weight_decay=0.1)
    config.schedule = spec(Cosine, warmup_steps=40)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.995

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 10
    config.log_examples = False
    config.evaluate_every = 100
    config.checkpoint_every = 100
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
