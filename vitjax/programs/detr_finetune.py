"""Fine-tuning of a trained DETR on one's own pictures."""

import copy
import logging

from ml_collections import ConfigDict

from vitjax.config import describe, factory, override, spec
from vitjax.data.scene_transforms import SceneHorizontalFlip, SceneResizeShorterSide
from vitjax.inference.detection_weights import detector_weights
from vitjax.inference.opening import open_any
from vitjax.programs.detection import DetectionRun, train_and_draw

__all__ = ["finetune_detector"]

_logger = logging.getLogger("vitjax")

_TRIAL = {
    "model.num_queries": 24, "model.width": 64, "model.num_heads": 4, "model.mlp_width": 128,
    "model.encoder_depth": 1, "model.decoder_depth": 2, "model.backbone.depths": (1, 1, 1, 1),
    "model.backbone.width": 16, "train.targets.max_boxes": 24, "evaluation.targets.max_boxes": 24,
    "train.shapes": ((128, 192), (192, 128)), "evaluation.shapes": ((128, 192), (192, 128)),
}  # fmt: skip


def finetune_detector(config: ConfigDict, *, start: str = "", images: int = 12, threshold: float = 0.5) -> DetectionRun:
    """Trains from another detector's weights, whose model takes the place of the config's; then draws what it finds.

    Args:
        config: of a run of a DETR.
        start: whatever `vitjax.load` opens: the authors' file, a folder or repository of transformers, a run of ours.
            Without it the run is a trial of the data: a small model on small pictures, from random weights.
        images: scenes to draw.
        threshold: least score of what is drawn.

    Raises:
        UserError: there is no such detector, or what `fit` raises.
    """
    config = copy.deepcopy(config)
    if start:
        with config.unlocked():
            # As many classes as the data has; the trainer fills them in.
            config.model = describe(open_any(start, any_size=True).module.clone(num_classes=None))
            config.initial = factory(detector_weights, path=start)
    else:
        _logger.warning("no `program.start` was given: this run is a trial, of a small model with random weights")
        _shrink(config)
    return train_and_draw(config, images=images, threshold=threshold)


def _shrink(config: ConfigDict) -> None:
    for name, value in _TRIAL.items():
        override(config, name, value)
    resize = spec(SceneResizeShorterSide, size=(96, 112, 128), longest=192)
    override(config, "train.transforms", (spec(SceneHorizontalFlip), resize))
    override(config, "evaluation.transforms", (spec(SceneResizeShorterSide, size=128, longest=192),))
