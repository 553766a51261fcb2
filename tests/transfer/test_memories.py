import functools
import logging
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_models import IMAGES, PICTURE, SIZES, bundle, vit, with_task

import vitjax
from vitjax.errors import UserError
from vitjax.models.deepvit import DeepViT
from vitjax.models.memory_vit import MemoryViT, plain_memory
from vitjax.paths import flatten
from vitjax.transfer.memories import attach, backbone_fingerprint, predict_tasks, save_task
from vitjax.weights.files import read_weights, safetensors_metadata, write_safetensors


@functools.cache
def base():
    return vit()


def logits(model):
    run = jax.jit(lambda variables: model.module.apply(variables, IMAGES, method="every_task"))
    return run(model.variables)


@pytest.mark.parametrize("cells", [1, 5])
def test_a_file_of_kilobytes_gives_the_task_back(tmp_path, cells):
    trained = with_task(base(), "late", cells)
    path = save_task(trained, "late", tmp_path / "late.safetensors")
    numbers = 2 * cells * 32 + 32 + 32 * 2 + 2
    assert 4 * numbers < path.stat().st_size < 4 * numbers + 2000
    models = attach(base(), path)
    assert list(models) == ["base", "late"]
    assert models["late"].labels == ("x", "y")
    assert models["base"].labels == ("a", "b", "c")
    theirs, ours = logits(trained), logits(models["late"])
    plain = jax.jit(base().module.apply)(base().variables, IMAGES)
    np.testing.assert_array_equal(ours["base"], plain)
    np.testing.assert_array_equal(ours["late"], theirs["late"])
    answer = models["late"].module.apply(models["late"].variables, IMAGES)  # not jitted, so rounded otherwise
    np.testing.assert_allclose(answer, ours["late"], atol=1e-5)


def test_tasks_trained_apart_stand_side_by_side(tmp_path):
    alone = {name: with_task(base(), name, cells, labels) for name, cells, labels in
             (("one", 5, ("x", "y")), ("two", 1, ("u", "v", "w")))}  # fmt: skip
    paths = [save_task(model, name, tmp_path / f"{name}.safetensors") for name, model in alone.items()]
    models = attach(base(), *paths)
    together = logits(models["base"])
    for name, model in alone.items():
        np.testing.assert_allclose(together[name], logits(model)[name], atol=1e-5)
    results = predict_tasks(models, [PICTURE, b"no picture"])
    assert {name: found[0].labels for name, found in results.items()} == {
        "base": ("a", "b", "c"), "one": ("x", "y"), "two": ("u", "v", "w"),
    }  # fmt: skip
    for name, model in models.items():
        assert results[name][1].error is not None
        np.testing.assert_allclose(results[name][0].scores, model.predict(PICTURE)[0].scores, atol=1e-6)


def test_a_task_that_sees_another_needs_it_as_it_was(tmp_path):
    one = with_task(base(), "one")
    two = with_task(base(), "two", 1, ("u", "v"), earlier=(one,))
    paths = {name: save_task(model, name, tmp_path / f"{name}.safetensors") for name, model in
             (("one", one), ("two", two))}  # fmt: skip
    models = attach(base(), paths["one"], paths["two"])
    np.testing.assert_array_equal(logits(models["two"])["two"], logits(two)["two"])
    # In two goes: the first result is a memory ViT that more is added to.
    again = attach(attach(base(), paths["one"])["base"], paths["two"])
    np.testing.assert_array_equal(logits(again["two"])["two"], logits(two)["two"])
    with pytest.raises(UserError, match=r"sees the task 'one'.*attach that first"):
        attach(base(), paths["two"])
    other = with_task(base(), "one", 2)
    with pytest.raises(UserError, match="sees the task 'one' as it was"):
        attach(base(), save_task(other, "one", tmp_path / "other.safetensors"), paths["two"])


def test_it_can_be_saved_and_loaded_as_a_whole(tmp_path):
    path = save_task(with_task(base(), "late"), "late", tmp_path / "late.safetensors")
    model = attach(base(), path)["late"]
    model.save(tmp_path / "whole")
    loaded = vitjax.load(tmp_path / "whole")
    assert loaded.labels == ("x", "y")
    np.testing.assert_array_equal(logits(loaded)["late"], logits(model)["late"])


def test_another_backbone_is_told_apart(tmp_path, caplog):
    path = save_task(with_task(base(), "late"), "late", tmp_path / "late.safetensors")
    other = bundle(base().module, ("a", "b", "c"))
    bias = other.variables["params"]["block_0"]["mlp"]["expand"]
    bias["bias"] = bias["bias"].at[0].add(1e-3)
    with pytest.raises(UserError, match="was trained on other weights") as caught:
        attach(other, path)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING, "vitjax"):
        attach(other, path, any_backbone=True)
    assert "attached all the same" in caplog.text


def test_the_head_is_no_part_of_the_fingerprint():
    params = jax.device_get(base().variables["params"])
    mark = backbone_fingerprint(params)
    assert backbone_fingerprint({**params, "head": {"bias": np.ones(9, np.float32)}}) == mark
    assert backbone_fingerprint({**params, "class_token": params["class_token"] + 1}) != mark


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(depth=1), "for depth 2 and width 32, but the model has depth 1 and width 32"),
        (lambda: vit(width=48), "for depth 2 and width 32, but the model has depth 2 and width 48"),
        (lambda: bundle(MemoryViT(num_classes=3, prepare_memory=plain_memory, **SIZES), tuple("abc")), "plain_memory"),
        (lambda: bundle(DeepViT(num_classes=3, image_size=16, patch_size=8, width=32, depth=1, num_heads=4, mlp_width=8,
                                num_reattention=0), tuple("abc")), "added to a ViT, not to a DeepViT"),
    ],
)  # fmt: skip
def test_a_model_of_another_shape_is_refused(tmp_path, make, message):
    path = save_task(with_task(base(), "late"), "late", tmp_path / "late.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        attach(make(), path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = save_task(with_task(base(), "late"), "late", tmp_path / "late.safetensors")
    arrays = {name: np.array(array) for name, array in read_weights(path).items()}
    words = safetensors_metadata(path)
    for broken, told, message in (
        ({**arrays, "head/bias": np.zeros(4, np.float32)}, words, r"head/bias \(4,\), expected \(2,\)"),
        ({name: array for name, array in arrays.items() if name != "memory"}, words, "lacks memory"),
        (arrays, {name: word for name, word in words.items() if name != "labels"}, "lacks labels"),
        (arrays, {"format": "pt"}, "is no task of a memory ViT"),
    ):
        write_safetensors(tmp_path / "broken.safetensors", broken, told)
        with pytest.raises(UserError, match=message):
            attach(base(), tmp_path / "broken.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        attach(base(), tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="two tasks are called 'late'"):
        attach(base(), path, path)


def test_only_the_task_that_answers_is_saved(tmp_path):
    with pytest.raises(UserError, match="has no task 'late'; it has none"):
        save_task(base(), "late", tmp_path / "x.safetensors")
    one = with_task(base(), "one")
    two = with_task(base(), "two", earlier=(one,))
    with pytest.raises(UserError, match="answers for 'two'"):
        save_task(two, "one", tmp_path / "x.safetensors")
    assert set(flatten(two.variables["params"]["task_one"])) == {"class_token", "memory", "head/kernel", "head/bias"}
