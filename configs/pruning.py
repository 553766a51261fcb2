"""A ViT on digits, pruned: half of the MLPs' channels and of the queries' and keys', by Taylor importance.

    python train.py --config configs/pruning.py

Data: the digits of configs/navit.py, squashed to 48 by 48 px. Cost: about 3 minutes on two CPU cores, reckoned
from configs/vit.py.
Expected: a table of parameters, multiply-adds and top-1 of the model whole, pruned, and trained on for 200 steps; in
`plots/importance.png` the share of channels that each block keeps if the model is pruned as a whole. From a model that
was far from trained yet (350 steps of 128 pictures, mixup): 489,706 parameters and 18.5 million multiply-adds become
304,186 and 11.6 million; top-1 0.457, 0.426 pruned, 0.462 after 200 steps more.

EfficientViT (Liu et al., 2023, arXiv:2305.07027), section 2.3, which prunes a Swin-T to find where channels are idle.
`--config.program.keep=0.3` prunes more; other models that can be pruned: `configs/efficientvit.py`'s ("hidden" only).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.vit import AveragePooling, ViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.programs.importance import prune_and_tune
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/pruning"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 48
    config.steps = 1200
    config.program = factory(
        prune_and_tune, keep=0.5, units=("hidden", "query"), batches=16, tune_steps=200, tune_rate=0.2
    )

    config.model = spec(
        ViT,
        image_size=config.get_ref("size"),
        patch_size=8,
        width=96,
        depth=5,
        num_heads=4,
        mlp_width=288,
        use_class_token=False,
        pool=factory(AveragePooling),
    )
    config.task = spec(Classification, criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1))

    config.train = spec(
        ImageBatches,
        source=spec(
            open_source, data=config.get_ref("data"), split="train", data_dir=config.get_ref("data_dir"), copies=100
        ),
        batch_size=64,
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
