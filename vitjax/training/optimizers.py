"""Optimizers as settings, and the chain that every one of them runs in.

A settings class gives the *direction* of a step; `make_optimizer` adds what they share: clipping, decoupled weight
decay with a multiplier per path, learning rate with a multiplier per path, and freezing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Tree
from vitjax.errors import UserError
from vitjax.paths import first_match, flatten, map_with_path
from vitjax.training.schedules import Multiplier

__all__ = ["SGD", "Adafactor", "AdamW", "Lion", "Optimizer", "Rules", "make_optimizer", "trained_paths"]

Rules = Sequence[tuple[str, Any]]
"""(path pattern, multiplier) pairs; the first that matches wins."""


@runtime_checkable
class Optimizer(Protocol):
    """What `make_optimizer` asks of an optimizer's settings."""

    @property
    def lr(self) -> float:
        """Learning rate at the top of the schedule."""
        ...

    @property
    def weight_decay(self) -> float:
        """Decoupled: a step takes `lr * multiplier * weight_decay` of each decayed parameter away."""
        ...

    def direction(self) -> optax.GradientTransformation:
        """Gradients to an ascent direction, without learning rate and decay."""
        ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2).

    Attributes:
        lr: learning rate at the top of the schedule.
        weight_decay: multiplied by the learning rate.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        momentum_dtype: of the first moment, such as "bfloat16"; `None` for the parameter's.
    """

    lr: float
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum_dtype: str | None = None

    def direction(self) -> optax.GradientTransformation:
        """Equations of algorithm 2 up to the schedule multiplier."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.momentum_dtype)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum; `momentum=0` without. The decay is decoupled here as well."""

    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    momentum_dtype: str | None = None

    def direction(self) -> optax.GradientTransformation:
        """The momentum buffer, or the gradient itself."""
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, accumulator_dtype=self.momentum_dtype)


@dataclass(frozen=True)
class Adafactor:
    """Adafactor as in "Scaling Vision Transformers" (Zhai et al., 2022, arXiv:2106.04560, section 3.4).

    Second moments of matrices are kept as row and column means (Shazeer and Stern, 2018, arXiv:1804.04235, algorithm
    4); their decay is `1 - t^-decay_exponent`, at most `b2_cap`; the momentum is kept in half precision; the learning
    rate is not relative to the parameter's size.

    Attributes:
        lr: learning rate at the top of the schedule.
        weight_decay: multiplied by the learning rate.
        momentum: decay of the first moment; 0 for none.
        momentum_dtype: of the first moment.
        decay_exponent: how fast the second moment's decay comes near 1.
        b2_cap: the second moment's largest decay.
        clip_rms: largest root mean square of one parameter's direction, or `None`.
        factored_size: matrices with both sides at least this long are factored.
        eps: added to squared gradients.
    """

    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    momentum_dtype: str | None = "bfloat16"
    decay_exponent: float = 0.8
    b2_cap: float = 0.999
    clip_rms: float | None = None
    factored_size: int = 32
    eps: float = 1e-30

    def direction(self) -> optax.GradientTransformation:
        """Factored scaling, then clipping, then momentum."""

        def decay(step: Any, exponent: Any) -> jax.Array:
            return jnp.minimum(1.0 - jnp.asarray(step + 1, jnp.float32) ** -exponent, self.b2_cap)

        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_exponent,
                min_dim_size_to_factor=self.factored_size,
                epsilon=self.eps,
                decay_rate_fn=decay,
            )
        ]
        if self.clip_rms is not None:
            parts.append(optax.clip_by_block_rms(self.clip_rms))
        if self.momentum:
            # The direction leaves in the buffer's dtype; learning rate and parameter are float32.
            parts.append(optax.ema(self.momentum, debias=False, accumulator_dtype=self.momentum_dtype))
        return optax.chain(*parts)


@dataclass(frozen=True)
class Lion:
    """The sign of an interpolated momentum (Chen et al., 2023, arXiv:2302.06675, algorithm 2)."""

    lr: float
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.99
    momentum_dtype: str | None = None

    def direction(self) -> optax.GradientTransformation:
        """-1, 0 or 1 for each parameter."""
        return optax.scale_by_lion(self.b1, self.b2, mu_dtype=self.momentum_dtype)


def trained_paths(params: Tree, rate_rules: Rules) -> dict[str, bool]:
    """For each parameter's path, whether its rate is other than 0.

    Raises:
        UserError: the rules leave parameters uncovered, or freeze all of them.
    """
    rates = first_match(rate_rules, flatten(params), setting="rate_rules")
    if not any(rates.values()):
        raise UserError(f"`rate_rules={tuple(rate_rules)}` freeze every parameter; give one of them a rate above 0")
    return {path: bool(rate) for path, rate in rates.items()}


def make_optimizer(
    settings: Optimizer,
    multiplier: Multiplier,
    params: Tree,
    *,
    decay_rules: Rules,
    rate_rules: Rules,
    clip_norm: float | int | None,
    adaptive_clip: float | None = None,
) -> optax.GradientTransformation:
    """Clip, direction, decay, rates, learning rate; frozen parameters get zeros and no moments.

    Args:
        settings: one of this file's classes.
        multiplier: factor of `settings.lr` at a step.
        params: parameters, or their shapes; only the paths matter.
        decay_rules: multipliers of `settings.weight_decay`.
        rate_rules: multipliers of the learning rate; 0 freezes.
        clip_norm: largest global norm of the trained parameters' gradients, or `None`.
        adaptive_clip: largest norm of each output's gradients in units of the norm of its weights, or `None` (Brock et
            al. 2021, arXiv:2102.06171, eq. 3).

    Raises:
        UserError: a setting is out of range, or rules leave parameters uncovered (all are listed).
    """
    if settings.lr < 0 or settings.weight_decay < 0:
        raise UserError(
            f"`optimizer.lr={settings.lr}`, `optimizer.weight_decay={settings.weight_decay}`: expected 0 or more"
        )
    if clip_norm is not None and clip_norm <= 0:
        raise UserError(f"`clip_norm={clip_norm}`: expected a positive number, or None for no clipping")
    if adaptive_clip is not None and adaptive_clip <= 0:
        raise UserError(f"`adaptive_clip={adaptive_clip}`: expected a positive number, or None for no clipping")
    paths = flatten(params)
    decays = first_match(decay_rules, paths, setting="decay_rules")
    rates = first_match(rate_rules, paths, setting="rate_rules")
    trained = trained_paths(params, rate_rules)
    chain = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.identity() if adaptive_clip is None else optax.adaptive_grad_clip(adaptive_clip),
        settings.direction(),
        _add_decay(settings.weight_decay, decays),
        _scale_paths(rates),
        optax.scale_by_learning_rate(lambda step: settings.lr * multiplier(step)),
    )
    labels = map_with_path(lambda path, _: "trained" if trained[path] else "frozen", params)
    return optax.partition({"trained": chain, "frozen": optax.set_to_zero()}, labels)


def _add_decay(weight_decay: float, multipliers: dict[str, Any]) -> optax.GradientTransformation:
    """`update + weight_decay * multiplier * parameter`."""
    if not weight_decay:
        return optax.identity()

    def add(path: str, update: Any, param: Any) -> Any:
        return update + weight_decay * multipliers[path] * param if multipliers[path] else update

    return optax.stateless(lambda updates, params: map_with_path(add, updates, params))


def _scale_paths(multipliers: dict[str, Any]) -> optax.GradientTransformation:
    if set(multipliers.values()) == {1.0}:
        return optax.identity()
    return optax.stateless(lambda updates, _: map_with_path(lambda path, update: multipliers[path] * update, updates))
