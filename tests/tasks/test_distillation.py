import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config import build, factory, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.tasks.classification import Classification
from vitjax.tasks.distillation import Distillation, kl_divergence
from vitjax.tasks.task import Task
from vitjax.training.state import abstract_variables


class Net(nn.Module):
    """Means of the channels, then one layer."""

    classes: int = 4

    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Dense(self.classes, name="head")(images.mean(axis=(1, 2)))


@dataclass(frozen=True)
class Taught:
    module: nn.Module
    variables: Any
    task: Any


def batch():
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 256, (6, 4, 4, 3)).astype(np.uint8),
        "label": generator.integers(0, 4, 6).astype(np.int32),
        "image_mask": np.array([True] * 5 + [False]),
        "example": np.arange(6, dtype=np.int32),
    }


def made(seed=0, classes=4):
    net = Net(classes)
    variables = net.init(jax.random.key(seed), jnp.zeros((1, 4, 4, 3)))
    variables = jax.tree.map(lambda leaf: 5 * leaf + seed, variables)
    return Taught(net, variables, Classification())


def task_of(teacher, **settings):
    return Distillation(task=Classification(mixup_alpha=1.0), teacher=lambda: teacher, **settings)


def loss_of(task, student, data):
    return task.loss(student.module.apply(student.variables, **task.inputs(data)), data)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    teacher = made()
    task = task_of(teacher, temperature=2.0)
    assert isinstance(task, Task)
    loss, metrics = loss_of(task, teacher, batch())
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert [float(part) for part in metrics["agreement"]] == [5.0, 5.0]
    other, _ = loss_of(task, made(1), batch())
    assert float(other) > 0.01


def test_only_the_student_gets_a_gradient():
    student, net = made(1), Net()

    def loss(student_variables, teacher_variables):
        task = task_of(Taught(net, teacher_variables, Classification()))
        return task.loss(net.apply(student_variables, **task.inputs(batch())), batch())[0]

    of_student, of_teacher = jax.grad(loss, argnums=(0, 1))(student.variables, made().variables)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(of_student))
    assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves(of_teacher))


def test_the_training_state_holds_the_student_alone():
    student, task = made(1), task_of(made())
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch())
    variables = abstract_variables(student.module, task, shapes)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, student.variables)


def test_the_teacher_is_opened_once_and_outlives_every_trace():
    opened = []

    def teacher():
        opened.append(1)
        taught = made()
        # As a bundle does: put on the device when first asked for, here while a step is traced.
        return Taught(
            taught.module, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), taught.variables), taught.task
        )

    task = Distillation(task=Classification(), teacher=teacher)
    assert not opened
    run = jax.jit(lambda outputs, batch: task.loss(outputs, batch)[0])
    first = run(jnp.zeros((6, 4)), batch())
    half = {name: leaf[:3] for name, leaf in batch().items()}
    run(jnp.zeros((3, 4)), half)  # another shape, another trace
    np.testing.assert_allclose(first, task.loss(jnp.zeros((6, 4)), batch())[0], rtol=1e-5)
    assert opened == [1]


def test_both_see_the_same_mixed_images():
    teacher = made()
    task = task_of(teacher)
    mixed = task.augment(batch(), jax.random.key(0))
    assert np.any(np.asarray(mixed["image"]) != batch()["image"])
    expected = teacher.module.apply(teacher.variables, **task.inputs(mixed))
    np.testing.assert_allclose(task.teach(mixed), expected, rtol=1e-5)


def test_the_teacher_may_want_its_own_size_and_normalisation_and_no_grid():
    seen = {}

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            seen.update(shape=images.shape, largest=float(images.max()))
            return images.mean(axis=(1, 2))[:, :2]

    white = batch() | {"image": np.full((6, 4, 4, 3), 255, np.uint8), "grid": np.ones((6, 2, 2), bool)}
    own = Classification(mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5))
    task = Distillation(task=Classification(), teacher=lambda: Taught(Spy(), {}, own), teacher_size=(8, 6))
    assert task.inputs(white)["grid"].shape == (6, 2, 2)
    task.teach(white)
    assert seen == {"shape": (6, 8, 6, 3), "largest": pytest.approx(2.0)}


def test_divergence_is_the_definition_and_keeps_its_gradient_when_softened():
    teacher, student = np.random.default_rng(1).normal(size=(2, 5, 3))
    for temperature in (1.0, 3.0):
        p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum(-1, keepdims=True) for x in (teacher, student))
        expected = temperature**2 * (p * np.log(p / q)).sum(-1)
        np.testing.assert_allclose(kl_divergence(teacher, student, temperature), expected, rtol=1e-4)
    # Hot teachers: T² KL tends to half the squared difference of centred logits over the classes (Hinton, eq. 4).
    centred = (teacher - student) - (teacher - student).mean(-1, keepdims=True)
    np.testing.assert_allclose(kl_divergence(teacher, student, 50.0), (centred**2).mean(-1) / 2, rtol=0.1)


def test_padding_changes_nothing():
    task, student = task_of(made()), made(1)
    dirty = batch()
    dirty["image"][5] = 255
    outputs = student.module.apply(student.variables, **task.inputs(batch()))
    expected, _ = task.loss(outputs, batch())
    poisoned = jnp.asarray(outputs).at[5].set(jnp.nan)
    np.testing.assert_allclose(task.loss(poisoned, dirty)[0], expected, rtol=1e-6)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"`temperature` \(=0\)"):
        task_of(made(), temperature=0)
    with pytest.raises(UserError, match="the teacher has 3 classes and the student 4"):
        loss_of(task_of(made(classes=3)), made(), batch())


def test_a_config_names_the_teacher_without_opening_it():
    from vitjax.inference.bundle import load

    node = spec(Distillation, task=spec(Classification), teacher=factory(load, path="nowhere/at/all"))
    task = build(from_json(to_json(node)), packages=("vitjax",))
    assert isinstance(task.teacher, functools.partial)
    outputs = jnp.zeros((6, 4))
    assert task.predict(outputs, batch()).shape == (6, 4)
    with pytest.raises(UserError, match="nowhere/at/all"):
        task.loss(outputs, batch())
