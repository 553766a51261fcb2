"""Tasks of a memory ViT as small files, and files attached to a backbone.

    save_task(load("runs/memory_vit/masked_memory"), "late_digits", "late_digits.safetensors")
    models = attach(load("runs/vit"), "late_digits.safetensors", "letters.safetensors")
    models["letters"].predict("letter.png")
    predict_tasks(models, "picture.png")                      # every task, from one pass

A file holds one task: its class token, memory and head, and in words what it needs to be attached to.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vitjax.arrays import Tree
from vitjax.config import describe, to_json
from vitjax.data.sources import ImageList
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.predict import Pictures, list_pictures, score_pictures
from vitjax.inference.results import Result
from vitjax.models.memory_vit import BASE, MemoryTask, MemoryViT
from vitjax.models.vit import ViT
from vitjax.paths import flatten, unflatten
from vitjax.weights.files import read_weights, safetensors_metadata, write_safetensors

__all__ = ["attach", "backbone_fingerprint", "predict_tasks", "save_task"]

_logger = logging.getLogger("vitjax")

_FORMAT = "vitjax memory 1"
_WORDS = {"task", "labels", "sees", "backbone", "conventions"}
_ARRAYS = {"class_token", "memory", "head/kernel", "head/bias"}
_CONVENTIONS = ("prepare_memory", "place_class_token", "task_norm")


def backbone_fingerprint(params: Tree) -> str:
    """SHA-256 over names, shapes and numbers of the parameters that a task's class token reads from.

    These are all but the heads and what other tasks added.

    Args:
        params: of a `ViT` or `MemoryViT`.
    """
    others = ("task_", "head/", "pre_logits/")
    return _fingerprint({path: leaf for path, leaf in flatten(params).items() if not path.startswith(others)})


def _fingerprint(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for path in sorted(arrays):
        array = np.ascontiguousarray(jax.device_get(arrays[path]), np.float32)
        digest.update(f"{path} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def save_task(bundle: Bundle, task: str, path: str | Path) -> Path:
    """Writes one task of a masked memory ViT: kilobytes, without the backbone.

    Args:
        bundle: whose module is a `MemoryViT` and answers for the task, whose labels are the task's then.
        task: its name.
        path: of the `.safetensors` file; replaced if it exists.

    Returns:
        The path.

    Raises:
        UserError: the module has no such task, or answers for another.
    """
    module = bundle.module
    names = module.task_names if isinstance(module, MemoryViT) else ()
    if task not in names[1:]:
        raise UserError(f"save_task: the model has no task {task!r}; it has {', '.join(names[1:]) or 'none'}")
    assert isinstance(module, MemoryViT)
    if names[module.answer] != task:
        raise UserError(f"save_task: the bundle answers for {names[module.answer]!r}; take the one for {task!r}")
    params = bundle.variables["params"]
    (found,) = (entry for entry in module.tasks if entry.name == task)
    seen = {name: _fingerprint(flatten(params[f"task_{name}"])) for name in found.sees}
    metadata = {
        "format": _FORMAT,
        "task": task,
        "labels": json.dumps(bundle.labels),
        "sees": json.dumps(seen),
        "backbone": backbone_fingerprint(params),
        "conventions": _conventions(module),
    }
    own = flatten(jax.device_get(params[f"task_{task}"]))
    write_safetensors(path, own, metadata)
    return Path(path)


def _conventions(module: MemoryViT) -> str:
    """Where memory is normalised, where a class token stands, what its head reads: as a config would say it."""
    named = {name: describe(getattr(module, name)) for name in _CONVENTIONS}
    return " ".join(to_json(ConfigDict(named)).split())


def attach(bundle: Bundle, *paths: str | Path, any_backbone: bool = False) -> dict[str, Bundle]:
    """Adds tasks to a model; its own logits stay as they are, bit for bit.

    Args:
        bundle: of a `ViT`, or of a `MemoryViT` that has tasks already.
        *paths: files that `save_task` wrote, those of tasks that others see in front.
        any_backbone: attach to other weights of the same shape too, with a warning in the log, instead of refusing.

    Returns:
        A bundle for each task by name, "base" for the model's own. They share their variables; each runs one pass and
        answers for its task.

    Raises:
        UserError: a file is damaged or no task's, does not fit the model's shape, was trained on other weights, or sees
            a task that is not there.
    """
    module, params = _open_backbone(bundle), dict(bundle.variables["params"])
    fingerprint = backbone_fingerprint(params)
    labels = {module.task_names[module.answer]: bundle.labels}
    for path in paths:
        words, arrays = _read_task(path)
        _check_fit(path, module, words, arrays)
        if words["backbone"] != fingerprint:
            problem = f"{path}: was trained on other weights than this model's (fingerprints differ)"
            if not any_backbone:
                raise UserError(f"{problem}; load the model that it was trained on, or pass any_backbone=True")
            _logger.warning("%s; attached all the same", problem)
        sees = json.loads(words["sees"])
        for name, wanted in sees.items():
            if name not in module.task_names[1:] or _fingerprint(flatten(params[f"task_{name}"])) != wanted:
                raise UserError(f"{path}: sees the task {name!r} as it was in training; attach that first")
        task = MemoryTask(words["task"], arrays["memory"].shape[1], arrays["head/bias"].size, tuple(sees))
        module = _rebuilt(module, tasks=(*module.tasks, task), num_classes=task.num_classes, answer=-1)
        params[f"task_{task.name}"] = unflatten(dict(arrays))
        labels[task.name] = tuple(json.loads(words["labels"]))
    shared = jax.device_put({**bundle.variables, "params": params})
    return {
        name: replace(
            bundle,
            module=_rebuilt(module, answer=number, num_classes=module.classes[name]),
            labels=labels.get(name, ()),
            make_variables=lambda: shared,
        )
        for number, name in enumerate(module.task_names)
    }


def _open_backbone(bundle: Bundle) -> MemoryViT:
    module = bundle.module
    if isinstance(module, MemoryViT):
        return _rebuilt(module, base_classes=module.classes[BASE])
    if not isinstance(module, ViT):
        raise UserError(f"attach: memory is added to a ViT, not to a {type(module).__name__}")
    if module.channel_sizes:
        raise UserError("attach: memory is added to a ViT with all its channels, this one is pruned (`channel_sizes`)")
    names = [field.name for field in dataclasses.fields(module) if field.name != "channel_sizes"]
    settings = {name: getattr(module, name) for name in names}
    return MemoryViT(**{**settings, "base_classes": module.num_classes, "parent": None})


def _rebuilt(module: MemoryViT, **changes: Any) -> MemoryViT:
    return module.clone(parent=None, **changes)


def _read_task(path: str | Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The words and arrays of a task's file, all that are needed."""
    arrays = {name: np.array(array) for name, array in read_weights(path).items()}
    words = safetensors_metadata(path) if str(path).endswith(".safetensors") else {}
    if words.get("format") != _FORMAT:
        raise UserError(f"{path}: is no task of a memory ViT; expected a file that `save_task` wrote")
    lacking = sorted((_WORDS - set(words)) | (_ARRAYS - set(arrays)))
    if lacking or arrays["memory"].ndim != 3:
        raise UserError(f"{path}: the file lacks {', '.join(lacking) or 'a memory with axes layer, cell and width'}")
    return words, arrays


def _check_fit(path: str | Path, module: MemoryViT, words: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    name, depth, width = words["task"], *arrays["memory"].shape[::2]
    if (depth, width) != (module.depth, module.width):
        raise UserError(
            f"{path}: the task {name!r} is for depth {depth} and width {width}, "
            f"but the model has depth {module.depth} and width {module.width}"
        )
    classes = len(json.loads(words["labels"]))
    expected = {"class_token": (1, width), "head/kernel": (width, classes), "head/bias": (classes,)}
    found = {key: arrays[key].shape for key in expected}
    wrong = [f"{key} {found[key]}, expected {shape}" for key, shape in expected.items() if found[key] != shape]
    if wrong:
        raise UserError(f"{path}: the task {name!r} has {classes} labels and width {width}, but {'; '.join(wrong)}")
    if words["conventions"] != _conventions(module):
        raise UserError(
            f"{path}: the task {name!r} was trained with {words['conventions']}, but the model has "
            f"{_conventions(module)}; give the model the task's settings"
        )


def predict_tasks(models: Mapping[str, Bundle], images: Any, top_k: int = 5) -> dict[str, list[Result]]:
    """What every task says of each picture, all from one pass.

    Args:
        models: what `attach` returned.
        images: as for `Bundle.predict`.
        top_k: likewise.

    Returns:
        The results of each task that has labels, one per picture in the order given.

    Raises:
        UserError: as `Bundle.predict`.
    """
    bundle = models[BASE]
    labels = {name: model.labels for name, model in models.items() if model.labels}
    pictures = Pictures(ImageList(list_pictures(images)), bundle.labels)

    @jax.jit
    def forward(variables: Tree, batch: Any) -> dict[str, Any]:
        logits = bundle.module.apply(variables, **bundle.task.inputs(batch), method="every_task")
        assert isinstance(logits, dict)
        return {name: bundle.task.predict(logits[name], batch) for name in labels}

    def joined(batch: Any) -> Any:
        """`score_pictures` takes one array per batch."""
        scores = forward(bundle.variables, batch)
        return np.concatenate([scores[name] for name in labels], axis=-1)

    ends = np.cumsum([len(names) for names in labels.values()])
    found = {number: np.split(row, ends[:-1]) for number, row in score_pictures(pictures, bundle.batches, joined)}
    results: dict[str, list[Result]] = {name: [] for name in labels}
    for number, picture in enumerate(pictures.images.names):
        for part, name in enumerate(labels):
            if number in found:
                results[name].append(Result(picture, labels[name], found[number][part], top_k=top_k))
            else:
                reason = pictures.errors.get(number, "the preparation of the batches left it out")
                results[name].append(Result(picture, labels[name], error=reason, top_k=top_k))
    return results
