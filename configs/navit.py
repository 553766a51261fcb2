"""NaViT on digits of every size and shape, packed into rows; the library's main job in miniature.

    python train.py --config configs/navit.py

Data: 1,437 scanned digits drawn at 16 to 64 px a side and 1:2 to 2:1 in aspect, 360 held back; nothing is downloaded.
Cost: under 3 minutes on two CPU cores. Expected: 97 % top-1 or more on the held-back digits.

The same config on other data:
    --config.data=folder:PATH     a folder with one subfolder of pictures per class
    --config.data=tfds:NAME       a prepared TensorFlow data set
Give larger pictures more room with --config.train.resolution.high=256 --config.train.length=256 and the like.

NaViT (Dehghani et al., 2023, arXiv:2307.06304): sides from a truncated normal (section 4.2), Beta token drop (B.4), sigmoid loss
(B.1). The published recipe trains for 10^5 steps and more with a reciprocal square root schedule; a run this short uses a cosine.
"""

from ml_collections import ConfigDict

from vitjax.config import spec
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, TruncatedNormalSide
from vitjax.data.sources import open_source
from vitjax.models.navit import NaViT
from vitjax.ops.losses import SigmoidCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit"
    config.data = "digits"
    config.steps = 500
    return config
