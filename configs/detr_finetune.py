"""DETR on 100 to 3000 pictures of one's own, from published weights.

    python train.py --config configs/detr_finetune.py --config.workdir=RUN --config.data=coco:DIR \
        --config.program.start=hf-hub:facebook/detr-resnet-50

`data` is `coco:DIR`, `folder:DIR` (a table of boxes, see `vitjax.data.box_folders`) or `tfds:NAME`; `program.start` is
whatever `vitjax.load` opens, and its model takes the place of the one below. Classes and their number are the data's:
the class head starts anew, all else goes on from the weights.

Rates: 1e-4 for the transformer and the heads, a tenth of it for the backbone, as the authors trained it; its stem, its
first stage and its norms stay as they are. Both fall to zero along a cosine. With fewer than some 300 pictures freeze
all of the backbone: `(r"backbone/.*", 0.0)` in the place of the rule with 0.1.
Queries: the 100 of the weights. They have learned where to look, and fewer would have to learn it anew.
Steps: 50 passes over the data, and 2000 at least, which is 50 passes over 320 pictures.

Without `program.start` this is a trial in small of data and settings, random weights and pictures of 128 px; without
`data` on 300 scenes of digits.
Cost: the trial 0.3 CPU seconds a step. From published weights a day of 4 CPU cores or less than an hour of a GPU, by
the count of 90 billion multiply-adds an image; neither was measured.
Expected: the trial finds next to nothing, 300 scenes are too few without weights (`configs/detr.py` has 200,000). From
published weights nothing was measured, for lack of a network.

"End-to-End Object Detection with Transformers", Carion et al., 2020, arXiv:2005.12872.
"""

from ml_collections import ConfigDict

from vitjax.config import factory, spec
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.scene_sources import open_scenes
from vitjax.data.scene_transforms import (
    SceneHorizontalFlip,
    SceneRandomSizeCrop,
    SceneResizeShorterSide,
    SceneSometimes,
)
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.programs.detr_finetune import finetune_detector
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/detr_finetune"
    config.data = "digits"
    config.steps = 2000
    config.program = factory(finetune_detector, start="", images=12, threshold=0.5)

    config.model = spec(
        DETR,
        num_queries=100,
        width=256,
        num_heads=8,
        mlp_width=2048,
        encoder_depth=6,
        decoder_depth=6,
        dropout_rate=0.1,
        backbone=factory(ResNetTrunk, depths=(3, 4, 6, 3), width=64, norm=factory(BatchNorm, frozen=True)),
    )
    config.task = spec(SetPrediction)

    shapes = ((544, 768), (800, 1088), (800, 1344), (768, 544), (1088, 800), (1344, 800))
    config.train = spec(
        PaddedSceneBatches,
        source=spec(open_scenes, data=config.get_ref("data"), split="train", num_scenes=300),
        batch_size=8,
        workers=2,
        targets=spec(BoxTargets, max_boxes=100),
        shapes=shapes,
        transforms=(
            spec(SceneHorizontalFlip),
            spec(
                SceneSometimes,
                transforms=(
                    spec(SceneResizeShorterSide, size=(400, 500, 600)),
                    spec(SceneRandomSizeCrop, smallest=384, largest=600),
                ),
                rate=0.5,
            ),
            spec(SceneResizeShorterSide, size=tuple(range(480, 801, 32)), longest=1333),
        ),
    )
    config.evaluation = spec(
        PaddedSceneBatches,
        source=spec(open_scenes, data=config.get_ref("data"), split="validation", num_scenes=100),
        batch_size=8,
        workers=2,
        targets=spec(BoxTargets, max_boxes=100),
        shapes=shapes,
        transforms=(spec(SceneResizeShorterSide, size=800, longest=1333),),
    )

    config.optimizer = spec(AdamW, lr=1e-4, weight_decay=1e-4)
    config.schedule = spec(Cosine, warmup_steps=50)
    config.decay_rules = ((".*", 1.0),)
    config.rate_rules = (
        (r"backbone/(stem|stage_1_block_\d+)/.*", 0.0),
        (r"backbone/.*/norm/.*", 0.0),
        (r"backbone/.*", 0.1),
        (".*", 1.0),
    )
    config.clip_norm = 0.1
    config.accumulate_steps = 1
    config.ema_decay = None

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 20
    config.log_examples = False
    config.evaluate_every = 200
    config.checkpoint_every = 200
    config.keep_checkpoints = 2
    config.best_metric = "AP"
    return config
