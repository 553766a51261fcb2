"""Hybrid ViT on digits: a small residual network in front of the transformer.

    python train.py --config configs/hybrid.py

Data: the digits of configs/navit.py, squashed to 48 by 48 px. Cost: minutes on two CPU cores, not measured alone.
Expected: the loss leaves ln 10 = 2.30 within 30 steps; a whole run is not measured yet.

The paper's R50+ViT-B/16 on other pictures (set `--config.workdir` too):
    --config.data=folder:PATH --config.size=224 --config.model.patch_size=16 --config.model.stages=(3,4,9)
    --config.model.stem_width=64 --config.model.num_groups=32 --config.model.width=768 --config.model.depth=12
    --config.model.num_heads=12 --config.model.mlp_width=3072

Hybrid architecture of ViT (Dosovitskiy et al., 2021, arXiv:2010.11929, section 3.1), with the recipe of configs/vit.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.hybrid import hybrid_vit
from vitjax.models.vit import AveragePooling
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/hybrid"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 400

    config.model = spec(
        hybrid_vit,
        stages=(1, 1),
        stem_width=16,
        num_groups=8,
        image_size=config.get_ref("size"),
        patch_size=8,  # pixels of the image: one pixel of the features
        width=96,
        depth=4,
        num_heads=4,
        mlp_width=288,
        use_class_token=False,
        pool=factory(AveragePooling),
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
