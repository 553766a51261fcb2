"""DeepViT on digits: 16 plain blocks against 16 blocks with re-attention.

    python train.py --config configs/deepvit.py

Data: the digits of configs/navit.py, squashed to 32 by 32 px. Cost: 13 minutes for both models on two CPU cores that
were busy with other work, a good part of it compiling. Expected: a table of similar blocks and top-1, and in `plots/`
the similarity of all pairs of blocks. After these 500 steps the maps of neighbouring blocks have a mean cosine of 0.70
without re-attention and 0.03 with it; no block of either counts as similar (above 0.9), so the paper's collapse is not
seen at this size. Both models are far from trained by then (top-1 0.37 and 0.18; re-attention starts slower): to
compare top-1, train longer.

The same config on other pictures (set `--config.workdir` too): `--config.data=folder:PATH` or
`--config.data=tfds:NAME`, `--config.size=224`, `--config.model.patch_size=16`.

DeepViT (Zhou et al., 2021, arXiv:2103.11886): re-attention with batch norm, as in the authors' repository.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.deepvit import DeepViT
from vitjax.models.vit import AveragePooling
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.programs.deepvit import compare_reattention
from vitjax.tasks.classification import Classification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/deepvit"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.size = 32
    config.steps = 500
    config.program = factory(compare_reattention, images=64, threshold=0.9)

    config.model = spec(
        DeepViT,
        image_size=config.get_ref("size"),
        patch_size=8,
        width=64,
        depth=16,
        num_heads=4,
        mlp_width=192,
        pool=factory(AveragePooling),
    )
    config.task = spec(
        Classification,
        mean=(0.65, 0.65, 0.65),
        std=(0.25, 0.25, 0.25),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )

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
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 20
    config.log_examples = False
    config.evaluate_every = 250
    config.checkpoint_every = 250
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    return config
