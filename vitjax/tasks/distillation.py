"""Learning from another model instead of from labels."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Batch, Float, Tree
from vitjax.errors import UserError
from vitjax.tasks.meters import MeanMeter, masked_scores
from vitjax.tasks.task import Metrics, Task

__all__ = ["Distillation", "Teacher", "kl_divergence"]


@runtime_checkable
class Teacher(Protocol):
    """A trained model, such as the `Bundle` that `vitjax.load` returns."""

    @property
    def module(self) -> nn.Module: ...  # noqa: D102

    @property
    def variables(self) -> Tree: ...  # noqa: D102

    @property
    def task(self) -> Any:
        """Turns a batch into the module's inputs: the teacher's own normalisation."""
        ...


def kl_divergence(
    teacher: Float[Array, "*B classes"], student: Float[Array, "*B classes"], temperature: float = 1.0
) -> Float[Array, "*B"]:
    """`T² Σ_c p_c (log p_c - log q_c)` per example, `p = softmax(teacher / T)`, `q = softmax(student / T)`, float32.

    T² keeps the gradient's size when T grows (Hinton et al., 2015, arXiv:1503.02531, section 2).
    """
    log_p, log_q = (
        jax.nn.log_softmax(jnp.asarray(logits, jnp.float32) / temperature, axis=-1) for logits in (teacher, student)
    )
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


@dataclass(frozen=True)
class Distillation:
    """Function matching: teacher and student see the same mixed images, labels play no part in the loss.

    Knowledge distillation: A good teacher is patient and consistent. Beyer et al., 2022. https://arxiv.org/abs/2106.05237;
    FlexiViT's recipe (arXiv:2212.08013, section 4) is this with `mixup_alpha=1` and a student of random patch sizes.

    The teacher is opened when the first loss is traced, and not at all to predict, so a bundle of the student needs no
    teacher. Its weights are constants of the compiled step: nothing trains them, no checkpoint holds them, and each
    compiled program (a patch size each) keeps a copy.

    Attributes:
        task: what a batch means to the student: its inputs, how images are mixed, what it predicts.
        teacher: opens the teacher: in a config `factory(vitjax.inference.bundle.load, path="runs/vit")`.
        temperature: T; the papers' is 1.
        teacher_size: rows and columns to which images are resized for the teacher; as they are if not given.
    """

    task: Task
    teacher: Callable[[], Any]
    temperature: float | int = 1.0
    teacher_size: tuple[int, int] | None = None

    def __post_init__(self):
        if not self.temperature > 0:
            raise UserError(f"Distillation: `temperature` (={self.temperature}) must be positive")

    @functools.cached_property
    def _opened(self) -> tuple[Teacher, Tree]:
        # While a step is traced, everything computed would be a part of it; the teacher has to outlive the trace.
        with jax.ensure_compile_time_eval():
            teacher = self.teacher()
            return teacher, teacher.variables

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """As the student's task."""
        return self.task.augment(batch, key)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """As the student's task."""
        return self.task.inputs(batch)

    def teach(self, batch: Batch) -> Float[Array, "B classes"]:
        """The teacher's logits, of which no gradient is taken."""
        teacher, variables = self._opened
        # How the student's patches are cut is no business of the teacher's.
        batch = {name: leaf for name, leaf in batch.items() if name != "grid"}
        if self.teacher_size is not None:
            shape = (len(batch["image"]), *self.teacher_size, batch["image"].shape[-1])
            batch["image"] = jax.image.resize(jnp.asarray(batch["image"], jnp.float32), shape, "linear")
        logits: Any = teacher.module.apply(variables, **teacher.task.inputs(batch), train=False)
        return jax.lax.stop_gradient(logits)

    def loss(self, outputs: Float[Array, "B classes"], batch: Batch) -> tuple[jax.Array, Metrics]:
        """Mean divergence over the real images; `top1` and `top5` count labels, `agreement` the teacher's first class.

        Raises:
            UserError: teacher and student have different numbers of classes.
        """
        taught = self.teach(batch)
        if taught.shape != outputs.shape:
            raise UserError(
                f"Distillation: the teacher has {taught.shape[-1]} classes and the student {outputs.shape[-1]}; "
                "both need the same classes in the same order"
            )
        mask = batch["image_mask"]
        # See Classification.loss.
        student, taught = (jnp.where(mask[:, None], logits, 0.0) for logits in (outputs, taught))
        losses = kl_divergence(taught, student, self.temperature)
        loss, metrics = masked_scores(losses, student, batch["label"], mask)
        same = (student.argmax(axis=-1) == taught.argmax(axis=-1)) & mask
        return loss, metrics | {"agreement": (jnp.sum(same, dtype=jnp.float32), metrics["loss"][1])}

    def predict(self, outputs: Float[Array, "B classes"], batch: Batch) -> Float[Array, "B classes"]:
        """As the student's task."""
        return self.task.predict(outputs, batch)

    def meter(self) -> MeanMeter:
        """Means over all images."""
        return MeanMeter()
