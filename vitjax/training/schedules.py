"""How the learning rate changes over a run: warm-up, a body, and a cool-down to zero.

A schedule is a frozen description; `multiplier(steps)` makes the function of the step that scales the optimizer's `lr`.
It is 0 at step 0 when there is a warm-up, 1 where the warm-up ends, and 0 at `steps` when there is a cool-down.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from vitjax.errors import UserError

__all__ = ["Constant", "Cosine", "Linear", "Multiplier", "ReciprocalSquareRoot", "Step"]

Multiplier = Callable[[Any], Any]
"""Step number (int or scalar array) to the factor of the learning rate."""


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, 2017, arXiv:1608.03983, equation 5, one period)."""

    warmup_steps: int = 0
    cooldown_steps: int = 0
    final: float = 0.0

    def multiplier(self, steps: int) -> Multiplier:
        """The factor of the learning rate over a run of `steps` steps."""
        length = _body_length(self.warmup_steps, self.cooldown_steps, steps)
        body = optax.cosine_decay_schedule(1.0, length, alpha=self.final)
        return _with_ramps(body, self.warmup_steps, self.cooldown_steps, steps)


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 to `final`."""

    warmup_steps: int = 0
    cooldown_steps: int = 0
    final: float = 0.0

    def multiplier(self, steps: int) -> Multiplier:
        """The factor of the learning rate over a run of `steps` steps."""
        length = _body_length(self.warmup_steps, self.cooldown_steps, steps)
        body = optax.linear_schedule(1.0, self.final, length)
        return _with_ramps(body, self.warmup_steps, self.cooldown_steps, steps)


@dataclass(frozen=True)
class ReciprocalSquareRoot:
    """`sqrt(timescale / (timescale + t))`, t steps after the warm-up.

    It does not depend on the length of the run, so a run can be prolonged and cooled down at any point (Zhai et al.,
    2022, arXiv:2106.04560, section 3.5).
    """

    warmup_steps: int = 0
    cooldown_steps: int = 0
    timescale: int = 10_000

    def multiplier(self, steps: int) -> Multiplier:
        """The factor of the learning rate over a run of `steps` steps."""
        _body_length(self.warmup_steps, self.cooldown_steps, steps)
        if self.timescale <= 0:
            raise UserError(f"`schedule.timescale={self.timescale}`: expected a positive number of steps")

        def body(step: Any) -> Any:
            return jnp.sqrt(self.timescale / (self.timescale + step))

        return _with_ramps(body, self.warmup_steps, self.cooldown_steps, steps)


@dataclass(frozen=True)
class Step:
    """Falls by `factor` at each of `boundaries`, which are step numbers of the run."""

    boundaries: tuple[int, ...]
    factor: float = 0.1
    warmup_steps: int = 0
    cooldown_steps: int = 0

    def multiplier(self, steps: int) -> Multiplier:
        """The factor of the learning rate over a run of `steps` steps."""
        _body_length(self.warmup_steps, self.cooldown_steps, steps)
        early = [boundary for boundary in self.boundaries if boundary < self.warmup_steps]
        if early:
            raise UserError(
                f"`schedule.boundaries={self.boundaries}`: {early} lie inside the warm-up of {self.warmup_steps} steps"
            )
        falls = {boundary - self.warmup_steps: self.factor for boundary in self.boundaries}
        body = optax.piecewise_constant_schedule(1.0, falls)
        return _with_ramps(body, self.warmup_steps, self.cooldown_steps, steps)


@dataclass(frozen=True)
class Constant:
    """1 between warm-up and cool-down."""

    warmup_steps: int = 0
    cooldown_steps: int = 0

    def multiplier(self, steps: int) -> Multiplier:
        """The factor of the learning rate over a run of `steps` steps."""
        _body_length(self.warmup_steps, self.cooldown_steps, steps)
        return _with_ramps(optax.constant_schedule(1.0), self.warmup_steps, self.cooldown_steps, steps)


def _body_length(warmup_steps: int, cooldown_steps: int, steps: int) -> int:
    """The steps between warm-up and cool-down, at least one."""
    if warmup_steps < 0 or cooldown_steps < 0:
        raise UserError(
            f"`schedule.warmup_steps={warmup_steps}`, `schedule.cooldown_steps={cooldown_steps}`: expected 0 or more"
        )
    if warmup_steps + cooldown_steps > steps:
        raise UserError(
            f"`schedule.warmup_steps={warmup_steps}` and `schedule.cooldown_steps={cooldown_steps}` together exceed "
            f"`steps={steps}`; shorten them or train longer"
        )
    return max(1, steps - warmup_steps - cooldown_steps)


def _with_ramps(body: Multiplier, warmup_steps: int, cooldown_steps: int, steps: int) -> Multiplier:
    """Joins a line from 0 to 1, the body, and a line from where the body ends to 0."""
    parts, boundaries = [body], []
    if warmup_steps:
        parts.insert(0, optax.linear_schedule(0.0, 1.0, warmup_steps))
        boundaries.append(warmup_steps)
    if cooldown_steps:
        start = steps - cooldown_steps
        parts.append(optax.linear_schedule(float(body(start - warmup_steps)), 0.0, cooldown_steps))
        boundaries.append(start)
    return optax.join_schedules(parts, boundaries) if boundaries else body
