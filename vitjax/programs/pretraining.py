"""A model whose backbone has learned to classify first, as those of the papers have on ImageNet."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import factory
from vitjax.inference.detection_weights import backbone_weights
from vitjax.training.fit import fit

__all__ = ["pretrain_backbone"]


def pretrain_backbone(config: ConfigDict, *, then: Callable[[ConfigDict], Any], trunk: str = "trunk") -> Any:
    """Trains a classifier in `workdir/backbone`, then the config's own model, whose backbone starts as its trunk.

    Args:
        config: of a run, and in `config.pretraining` whatever the classifier's run has otherwise: its `model`, `task`,
            `train`, `steps` and so on.
        then: program of the second run, in `workdir` itself.
        trunk: what the trunk is called in the classifier; see `backbone_weights`.

    Returns:
        What `then` returns, or the first run's summary where that was interrupted.

    Raises:
        UserError: the trunk does not fit the backbone, or what `fit` raises.
    """
    classifier, config = copy.deepcopy(config), copy.deepcopy(config)
    settings: Any = config.pretraining
    folder = Path(str(config.workdir), "backbone")
    with classifier.unlocked(), config.unlocked():
        for key, setting in settings.items():
            classifier[key] = setting
        classifier.workdir = str(folder)
        del classifier["pretraining"], config["pretraining"]
        config.initial = factory(backbone_weights, path=str(folder / "best"), trunk=trunk)
    print("-- the backbone, in a classifier", flush=True)
    run = fit(classifier)
    if run.interrupted:
        return run
    print("-- the model itself", flush=True)
    return then(config)
