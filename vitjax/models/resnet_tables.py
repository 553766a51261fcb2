"""ResNet's weights in the layouts of timm and transformers; timm's keys are torchvision's.

=========================== =================== ========================================================
ours                        timm, torchvision   transformers, behind `resnet.`
=========================== =================== ========================================================
`stem`                      `conv1`, `bn1`      `embedder.embedder`
`stage_1_block_0/reduce`    `layer1.0.conv1`    `encoder.stages.0.layers.0.layer.0`
`stage_1_block_0/shortcut`  `layer1.0.          `encoder.stages.0.layers.0.shortcut`
                            downsample.0`
`head`                      `fc`                `classifier.1`, without prefix
=========================== =================== ========================================================
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv, linear

__all__ = ["LAYOUTS", "huggingface_trunk", "timm_trunk"]

_PARTS = ("reduce", "spatial", "expand")


def timm_trunk(module: Any, *, prefix: str = "", path: str = "trunk") -> Table:
    """The rules of all but the classifier, in timm's and torchvision's names.

    Args:
        module: a `ResNet` or its trunk; only its `depths` count.
        prefix: in front of every foreign key, with its dot.
        path: of our `ResNetTrunk`.
    """
    rules = [*_pair(f"{prefix}conv1", f"{prefix}bn1", f"{path}/stem")]
    for stage in range(1, len(module.depths) + 1):
        key, ours = f"{prefix}layer{stage}.{{block}}", f"{path}/stage_{stage}_block_{{block}}"
        for number, part in enumerate(_PARTS, start=1):
            rules += _pair(f"{key}.conv{number}", f"{key}.bn{number}", f"{ours}/{part}")
        rules += _pair(f"{key}.downsample.0", f"{key}.downsample.1", f"{ours}/shortcut")
    return tuple(rules)


def huggingface_trunk(module: Any, *, prefix: str = "resnet.", path: str = "trunk") -> Table:
    """The same in transformers' names; arguments as for `timm_trunk`."""

    def pair(key: str, ours: str) -> tuple[Rule, ...]:
        return _pair(f"{prefix}{key}.convolution", f"{prefix}{key}.normalization", f"{path}/{ours}")

    rules = [*pair("embedder.embedder", "stem")]
    for stage in range(len(module.depths)):
        key, ours = f"encoder.stages.{stage}.layers.{{block}}", f"stage_{stage + 1}_block_{{block}}"
        for number, part in enumerate(_PARTS):
            rules += pair(f"{key}.layer.{number}", f"{ours}/{part}")
        rules += pair(f"{key}.shortcut", f"{ours}/shortcut")
    return tuple(rules)


def _pair(conv_key: str, norm_key: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{conv_key}.weight", f"params/{path}/conv/kernel", conv),
        Rule(f"{norm_key}.weight", f"params/{path}/norm/scale"),
        Rule(f"{norm_key}.bias", f"params/{path}/norm/bias"),
        Rule(f"{norm_key}.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{norm_key}.running_var", f"batch_stats/{path}/norm/var"),
        # How many batches torch has seen: with a fixed momentum nothing reads it.
        Rule(f"{norm_key}.num_batches_tracked", None),
    )


def _head(key: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", "params/head/kernel", linear), Rule(f"{key}.bias", "params/head/bias")


def _timm(module: Any) -> Table:
    return (*timm_trunk(module), *_head("fc"))


def _huggingface(module: Any) -> Table:
    return (*huggingface_trunk(module), *_head("classifier.1"))


def _with_prefix(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Files of transformers' `ResNetModel`, which has no classifier, lack the prefix."""
    if "embedder.embedder.convolution.weight" not in arrays:
        return arrays
    return {f"resnet.{key}": array for key, array in arrays.items()}


LAYOUTS = (Layout("timm", _timm), Layout("huggingface", _huggingface, prepare=_with_prefix))
"""How the files of others hold a ResNet."""
