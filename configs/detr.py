"""DETR with a narrow ResNet on scenes of digits: ten queries find up to four digits.

    python train.py --config configs/detr.py

Data: scenes of 0 to 4 scanned digits, 20 to 48 px high on 64 to 80 px a side, squashed to 64 by 64 px; the digits of
held-back scenes are held-back scans. First the ResNet learns to classify single digits (800 steps, 97 %), as the
paper's has learned ImageNet; without that no class was told from another after 1,500 steps.
Cost: 18 minutes on a single CPU core (0.11 s a step), 1:40 of them for the ResNet. On two that do nothing else five
minutes are enough for `--config.steps=2400`: AP 0.56, AP50 0.87.
Expected: AP 0.80, AP50 0.97, AP75 0.95 on 256 held-back scenes; AP 0.35 at step 2000, 0.64 at 4000, 0.76 at 6000; a
schedule of 4000 steps ends at 0.73. `AP_nms`, AP without duplicates, is 0.06 above AP at step 2000 and 0.001 below it
at the end. `plots/predictions.png` shows twelve of the scenes.

End-to-End Object Detection with Transformers (Carion et al., 2020, arXiv:2005.12872). What differs from the paper is
sizes, the pre-training, dropout and weight decay of biases, and the schedule. `configs/detr_finetune.py` is for your
own pictures.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.digits import DigitImages, DigitScenes
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_transforms import SceneResize
from vitjax.data.transforms import InceptionCrop, Resize
from vitjax.models.detr import DETR
from vitjax.models.resnet import ResNet, ResNetTrunk
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.programs.detection import train_and_draw
from vitjax.programs.pretraining import pretrain_backbone
from vitjax.tasks.classification import Classification
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/detr"
    config.data = "digits"
    config.size = 64
    config.steps = 8000
    config.program = factory(pretrain_backbone, then=factory(train_and_draw, images=12, threshold=0.5))

    trunk = {"depths": (1, 1, 1, 1), "width": 16, "output_stride": 8}
    config.model = spec(
        DETR,
        image_size=config.get_ref("size"),
        num_queries=10,
        width=128,
        num_heads=8,
        mlp_width=256,
        encoder_depth=2,
        decoder_depth=3,
        dropout_rate=0.0,
        backbone=factory(ResNetTrunk, **trunk),
    )
    config.task = spec(SetPrediction, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), nms_threshold=0.5)

    scenes = {"sides": (64, 80), "digit_sides": (20, 48), "max_digits": 4}
    config.train = spec(
        SceneBatches,
        source=spec(DigitScenes, split="train", num_scenes=200_000, **scenes),
        batch_size=16,
        workers=1,
        targets=spec(BoxTargets, max_boxes=4),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )
    config.evaluation = spec(
        SceneBatches,
        source=spec(DigitScenes, split="validation", num_scenes=256, **scenes),
        batch_size=32,
        targets=spec(BoxTargets, max_boxes=4),
        transforms=(spec(SceneResize, size=config.get_ref("size")),),
    )

    config.pretraining = ConfigDict()
    config.pretraining.steps = 800
    config.pretraining.model = spec(ResNet, image_size=40, **trunk)
    config.pretraining.task = spec(
        Classification,
        mean=(0.65, 0.65, 0.65),
        std=(0.25, 0.25, 0.25),
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )
    config.pretraining.train = spec(
        ImageBatches,
        source=spec(DigitImages, split="train", copies=50, sides=(24, 48)),
        batch_size=64,
        workers=1,
        transforms=(spec(InceptionCrop, size=40, area=(0.5, 1.0)),),
    )
    config.pretraining.evaluation = spec(
        ImageBatches,
        source=spec(DigitImages, split="validation", sides=(24, 48)),
        batch_size=64,
        transforms=(spec(Resize, size=40),),
    )
    config.pretraining.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.01)
    config.pretraining.clip_norm = 1.0
    config.pretraining.evaluate_every = 200
    config.pretraining.best_metric = "top1"

    config.optimizer = spec(AdamW, lr=5e-4, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=200)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 100
    config.log_examples = False
    config.evaluate_every = 1000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
