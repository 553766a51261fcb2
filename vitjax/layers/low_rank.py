"""Low-rank adaptation of any model's kernels (LoRA)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Tree
from vitjax.errors import UserError

__all__ = ["LowRank", "merge_low_rank"]


class LowRank(nn.Module):
    """A model some of whose kernels are `kernel + alpha / rank * A B`, where only `A` and `B` are meant to be trained.

    LoRA: Low-Rank Adaptation of Large Language Models. Hu et al., 2021. https://arxiv.org/abs/2106.09685, section 4.1:
    `A` is random and `B` zero, so that the model starts as it was. The model itself knows nothing of it: its parameters
    are a tree under `base/`, of which the wrapped model is given the sums.

    Attributes:
        model: factory of the linen module; its only variables are parameters.
        patterns: regular expressions of the whole path of kernels, such as `block_\\d+/attention/(query|value)/kernel`.
        rank: r, the inner size of the product.
        alpha: numerator of the product's factor.
        num_classes: passed on to the model; filled in by the trainer.
    """

    model: Callable[..., nn.Module]
    patterns: tuple[str, ...]
    rank: int = 4
    alpha: float = 8.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before there are parameters."""
        super().__post_init__()
        if self.rank < 1:
            raise UserError(f"LowRank: `rank` (={self.rank}) must be 1 or more")

    @property
    def inner(self) -> Any:
        """The wrapped model, unbound."""
        return self.model(num_classes=self.num_classes, parent=None)

    def describe(self, **inputs: Any) -> str:
        """What the wrapped model says of itself."""
        return f"{self.inner.describe(**inputs)}; rank {self.rank} beside {', '.join(self.patterns)}"

    @nn.compact
    def __call__(self, *inputs: Any, train: bool = False, **keywords: Any) -> Any:
        """As the wrapped model.

        Raises:
            UserError: a pattern matches no kernel, or the model has other variables than parameters.
        """
        inner = self.inner

        def start(key: jax.Array) -> Tree:
            variables = inner.init({"params": key, "dropout": key}, *inputs, train=False, **keywords)
            if others := sorted(set(variables) - {"params", "intermediates"}):
                raise UserError(f"LowRank: the model has {', '.join(others)} beside parameters, which is not supported")
            return variables["params"]

        base = self.param("base", start)
        factors = self.param("low_rank", lambda key: _factors(key, base, self.patterns, self.rank))
        merged = merge_low_rank(base, factors, self.alpha / self.rank)
        keys = {"dropout": self.make_rng("dropout")} if train and self.has_rng("dropout") else {}
        return inner.apply({"params": merged}, *inputs, train=train, rngs=keys, **keywords)


def _factors(key: jax.Array, base: Tree, patterns: tuple[str, ...], rank: int) -> dict[str, dict[str, Array]]:
    """`A` and `B` of every kernel that a pattern matches, by the kernel's path with dots for slashes."""
    kernels = {path: leaf for path, leaf in _flat(base).items() if any(re.fullmatch(p, path) for p in patterns)}
    idle = [pattern for pattern in patterns if not any(re.fullmatch(pattern, path) for path in kernels)]
    odd = [f"{path} {leaf.shape}" for path, leaf in kernels.items() if leaf.ndim != 2]
    if idle or odd or not patterns:
        known = ", ".join(path for path, leaf in _flat(base).items() if leaf.ndim == 2)
        raise UserError(
            f"LowRank: `patterns` (={patterns}) must each match kernels with two axes; "
            f"{', '.join(idle + odd) or 'there are none'}; the model has {known}"
        )
    made = {}
    for number, (path, kernel) in enumerate(kernels.items()):
        rows, columns = kernel.shape
        spread = nn.initializers.normal(rows**-0.5)
        made[path.replace("/", ".")] = {
            "a": spread(jax.random.fold_in(key, number), (rows, rank), jnp.float32),
            "b": jnp.zeros((rank, columns), jnp.float32),
        }
    return made


def merge_low_rank(base: Tree, factors: Mapping[str, Mapping[str, Array]], factor: float) -> Tree:
    """The tree with `kernel + factor * A B` in place of the kernels that have factors: plain parameters to be saved.

    Args:
        base: parameters of the wrapped model.
        factors: `{"a": [inputs, rank], "b": [rank, outputs]}` by the kernel's path, with dots for slashes.
        factor: `alpha / rank`.
    """

    def merged(key_path: Any, leaf: Array) -> Array:
        pair = factors.get(jax.tree_util.keystr(key_path, simple=True, separator="."))
        return leaf if pair is None else leaf + factor * jnp.matmul(pair["a"], pair["b"])

    return jax.tree_util.tree_map_with_path(merged, base)


def _flat(tree: Tree) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
