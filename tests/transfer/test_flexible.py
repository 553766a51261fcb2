"""A student that starts as its teacher computes what the teacher does."""

import functools

import jax
import numpy as np
import pytest

import vitjax
from vitjax.errors import UserError
from vitjax.models.flexivit import flexivit
from vitjax.ops.patches import bilinear_matrix
from vitjax.paths import flatten, unflatten
from vitjax.transfer.flexible import student_weights

SIZES = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    bundle = vitjax.create_model("vit_tiny_patch16_224", image_size=24, patch_size=4, num_classes=3, **SIZES)
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32) / 4, bundle.variables)
    bundle.variables.update(variables)
    bundle.save(folder)
    return folder


def shapes_of(module):
    images = jax.ShapeDtypeStruct((1, *module.image_shape, 3), np.float32)
    made = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), images)
    return {path: leaf.shape for path, leaf in flatten(made).items()}


def student(image_size=24, kernel_size=4):
    return flexivit(
        image_size=image_size, kernel_size=kernel_size, position_grid=6, patch_size=kernel_size, num_classes=3, **SIZES
    )


@pytest.mark.parametrize("side", [4, 8])
def test_it_answers_to_enlarged_patches_as_the_teacher_to_its_own(teacher, side):
    module = student(6 * side, side)
    shapes = shapes_of(module)
    arrays = student_weights(module, shapes, path=str(teacher))
    assert set(arrays) == set(shapes)
    images = np.random.default_rng(1).normal(size=(2, 24, 24, 3)).astype(np.float32)
    bundle = vitjax.load(teacher)
    taught = np.asarray(bundle.module.apply(bundle.variables, images))
    assert np.ptp(taught) > 0.1

    enlarge = np.kron(np.eye(6), bilinear_matrix(4, side))
    enlarged = np.einsum("ij,njkc,lk->nilc", enlarge, images, enlarge).astype(np.float32)
    np.testing.assert_allclose(module.apply(unflatten(arrays), enlarged), taught, atol=1e-6)


def test_another_head_begins_anew_and_says_so(teacher, caplog):
    module = student().clone(num_classes=5)
    arrays = student_weights(module, shapes_of(module), path=str(teacher))
    assert not any(path.startswith("params/head") for path in arrays)
    assert "starts anew" in caplog.text


def test_another_width_is_refused(teacher):
    module = student().clone(width=32)
    with pytest.raises(UserError, match=r"patch_embedding/bias \(16,\) for \(32,\)"):
        student_weights(module, shapes_of(module), path=str(teacher))
