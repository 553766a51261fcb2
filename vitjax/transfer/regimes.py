"""What of a trained ViT is trained for a new task (Sandler et al. 2022, section 4): five regimes, and low rank.

Each gives the three settings of a config that make it: `model`, `initial` and `rate_rules`.

=========================== ============================================== ===========================================
regime                      trained                                        the old task
=========================== ============================================== ===========================================
`full`                      everything                                     lost
`head_only`                 a new head                                     kept, if its head is
`head_and_class_token`      a new head, the class token                    lost
`memory`                    the same and memory, which all tokens see      lost
`masked_memory`             a new class token, head and memory             kept bit for bit, in the same model
`low_rank`                  a new head, products of rank r beside kernels  lost
=========================== ============================================== ===========================================
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vitjax.config import build, describe, factory, spec
from vitjax.errors import UserError
from vitjax.layers.low_rank import LowRank
from vitjax.models.memory_vit import MemoryTask, MemoryViT
from vitjax.paths import flatten
from vitjax.weights.bundle_io import read_bundle

__all__ = [
    "ATTENTION_KERNELS",
    "FromBundle",
    "Regime",
    "full",
    "head_and_class_token",
    "head_only",
    "low_rank",
    "masked_memory",
    "memory",
]

_logger = logging.getLogger("vitjax")

Rules = tuple[tuple[str, float], ...]

ATTENTION_KERNELS = (r"block_\d+/attention/(query|value)/kernel",)
"""The kernels that LoRA adapts in its experiments (Hu et al. 2021, section 5)."""


@dataclass(frozen=True)
class Regime:
    """One way to make a trained model do a new task; the settings of a config by their names.

    Attributes:
        model: spec of the module.
        initial: spec of where its weights start.
        rate_rules: cover every parameter; 0 freezes.
    """

    model: ConfigDict
    initial: ConfigDict
    rate_rules: Rules


@dataclass(frozen=True)
class FromBundle:
    """Weights to start from, out of a bundle's folder: a callable for a config's `initial`.

    Attributes:
        folder: of the bundle, such as `runs/vit/best`.
        renew: patterns of paths, of the bundle's parameters, that are left as the new model draws them.
        prefix: where the new model keeps the bundle's parameters.
        copies: (path in the new model, path in the bundle) of parameters that start as copies of others.
    """

    folder: str
    renew: tuple[str, ...] = ()
    prefix: str = ""
    copies: tuple[tuple[str, str], ...] = ()

    def __call__(self, module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """The arrays, by path in the new model.

        Raises:
            UserError: there is no bundle, or it holds parameters that the model lacks or has in another shape; all of
                them are listed.
        """
        del module
        stored = flatten(read_bundle(self.folder).variables["params"])
        kept = {path: value for path, value in stored.items() if not any(re.fullmatch(p, path) for p in self.renew)}
        pairs = [(f"params/{self.prefix}{path}", path) for path in kept]
        pairs += [(f"params/{new}", old) for new, old in self.copies if old in stored]
        wrong = [
            f"{old} {stored[old].shape} for {new} {shapes.get(new, 'absent')}"
            for new, old in pairs
            if shapes.get(new) != stored[old].shape
        ]
        if wrong:
            raise UserError(f"{self.folder}: these parameters do not fit the new model: {', '.join(wrong)}")
        if left := sorted(set(stored) - set(kept)):
            _logger.info("%s: %d parameters begin anew: %s", self.folder, len(left), ", ".join(left))
        return {new: np.asarray(stored[old]) for new, old in pairs}


_HEAD = "head/.*"
_FROZEN = ((".*", 0.0),)


def full(folder: str) -> Regime:
    """Everything is trained, with a new head.

    Args:
        folder: of the bundle of a `ViT`.
    """
    return Regime(_backbone(folder), spec(FromBundle, folder=folder, renew=(_HEAD,)), ((".*", 1.0),))


def head_only(folder: str) -> Regime:
    """A new head on frozen features; `folder` as in `full`."""
    return Regime(_backbone(folder), spec(FromBundle, folder=folder, renew=(_HEAD,)), ((_HEAD, 1.0), *_FROZEN))


def head_and_class_token(folder: str) -> Regime:
    """A new head, and the class token; `folder` as in `full`."""
    rules = (("head/.*|class_token", 1.0), *_FROZEN)
    return Regime(_backbone(folder), spec(FromBundle, folder=folder, renew=(_HEAD,)), rules)


def memory(folder: str, *, cells: int = 5) -> Regime:
    """Memory that all tokens see, the class token and a new head: the paper's main form.

    Args:
        folder: as in `full`.
        cells: memory cells of each layer.
    """
    model = _with_memory(folder, memory_size=cells)
    rules = (("head/.*|class_token|memory", 1.0), *_FROZEN)
    return Regime(model, spec(FromBundle, folder=folder, renew=(_HEAD,)), rules)


def masked_memory(folder: str, *, task: str, cells: int = 5) -> Regime:
    """Memory, class token and head of a task of its own, which the backbone's tokens do not see.

    The class token starts as the backbone's.

    Args:
        folder: as in `full`.
        task: its name.
        cells: memory cells of each layer.
    """
    old = read_bundle(folder, variables=False)
    tasks = (spec(MemoryTask, name=task, memory_size=cells),)
    model = _with_memory(folder, base_classes=old.model["num_classes"], tasks=tasks)
    initial = spec(FromBundle, folder=folder, copies=((f"task_{task}/class_token", "class_token"),))
    return Regime(model, initial, ((f"task_{re.escape(task)}/.*", 1.0), *_FROZEN))


def low_rank(
    folder: str, *, patterns: tuple[str, ...] = ATTENTION_KERNELS, rank: int = 4, alpha: float = 8.0
) -> Regime:
    """Products of low rank beside the kernels, and a new head (LoRA; see `layers.low_rank.LowRank`).

    Args:
        folder: of the bundle of any model without other variables than parameters.
        patterns: of the kernels' paths.
        rank: inner size of the products.
        alpha: numerator of their factor.
    """
    backbone = dict(_backbone(folder))
    target = type(build(ConfigDict(backbone)))
    del backbone["target"], backbone["num_classes"]
    model = spec(LowRank, model=factory(target, **backbone), patterns=patterns, rank=rank, alpha=alpha)
    initial = spec(FromBundle, folder=folder, renew=(_HEAD,), prefix="base/")
    return Regime(model, initial, (("low_rank/.*|base/head/.*", 1.0), *_FROZEN))


def _backbone(folder: str) -> ConfigDict:
    """The bundle's model, for as many classes as the new data have."""
    module = build(read_bundle(folder, variables=False).model, packages=("vitjax",))
    return ConfigDict({**describe(module), "num_classes": None})


def _with_memory(folder: str, **keywords: Any) -> ConfigDict:
    settings = dict(_backbone(folder))
    target = settings.pop("target")
    if not settings.get("channel_sizes"):  # a pruned ViT cannot have memory, any other has no word for it
        settings.pop("channel_sizes", None)
    try:
        return spec(MemoryViT, **{**settings, **keywords})
    except UserError as error:
        raise UserError(f"{folder}: its model, {target}, is no ViT that memory can be added to: {error}") from error
