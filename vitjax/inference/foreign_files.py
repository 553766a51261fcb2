"""Other people's folders and files, opened: a module with their weights, their preparation and their labels.

What a file's weights need to compute what they computed there (the layer norm's epsilon, the form of GELU, the rule
that resamples positions) comes from the layout's `settings` and from config.json.
"""

import functools
import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.inference.assumed import assumed_of
from vitjax.inference.channel_order import settled_order, with_channel_order
from vitjax.inference.foreign_huggingface import read_huggingface
from vitjax.inference.foreign_timm import read_timm
from vitjax.inference.foreign_types import Arrays, Description, Opened
from vitjax.inference.preparation import default_preparation, numbered_labels, variable_shapes
from vitjax.models import layouts_of, sizes_of, variant_of
from vitjax.weights.files import find_weights, read_weights
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, import_weights

__all__ = ["merge_settings", "open_checkpoint", "open_folder", "open_foreign"]

_logger = logging.getLogger("vitjax")


def open_foreign(
    path: Path,
    *,
    name: str | None = None,
    layout: str | None = None,
    settings: Mapping[str, Any] | None = None,
    any_size: bool = False,
    channel_order: str | None = None,
) -> Opened:
    """Opens a folder of timm or Hugging Face, or a checkpoint file.

    Args:
        path: a folder with `config.json` and weights, or a file of weights.
        name: of the model in a file: one of `vitjax.list_models()`. A folder says it itself.
        layout: whose file it is, such as "timm" or "vit_jax"; found out by the names of its keys if not given.
        settings: of the module in a file, where it is not quite the named one.
        any_size: a file may be of another image size than the named model.
        channel_order: "rgb" or "bgr", of the pictures that the weights expect; goes before what the file says.

    Raises:
        UserError: something is missing, damaged, unknown, or does not fit; the message names file and key.
    """
    if path.is_dir() and (path / "config.json").is_file() and name is None:
        return open_folder(path, channel_order)
    if name is None:
        raise UserError(
            f"{path}: the weights alone do not say which model they are; give name=, one of vitjax.list_models()"
            + (", or put the config.json of timm or Hugging Face beside them" if path.is_dir() else "")
        )
    return open_checkpoint(
        path, name, layout, settings=settings, any_size=any_size, channel_order=channel_order
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- folders


def open_folder(folder: Path, channel_order: str | None = None) -> Opened:
    """Opens a folder of timm or Hugging Face, of which its `config.json` decides; see `open_foreign`.

    Raises:
        UserError: see `open_foreign`.
    """
    file = folder / "config.json"
    config = read_json(file)
    readers: dict[str, Callable[[dict[str, Any], Path], Description]] = {
        "architecture": read_timm,
        "model_type": read_huggingface,
    }
    if "workdir" in config:
        raise UserError(f"{folder}: the run has no best/ yet; it is written by the run's first evaluation")
    found = [reader for key, reader in readers.items() if key in config]
    if not found:
        raise UserError(f"{file}: it has neither `architecture` (timm) nor `model_type` (Hugging Face): unknown format")
    weights = find_weights(folder)
    description = found[0](config, file)
    layout = _layout(description.target, description.layout, str(file))
    arrays = layout.prepare(description.rename(read_weights(weights)))
    told = sizes_of(description.target, arrays)
    classes = told.get("num_classes", len(description.labels))
    if classes != len(description.labels):
        raise UserError(f"{file}: names {len(description.labels)} classes, but {weights} has {classes}")
    keywords = merge_settings(description.keywords, told, description.from_arrays(arrays))
    module = _build(description.target, layout, keywords, str(file))
    order = settled_order(description.channel_order, channel_order, str(folder))
    task, batches = description.task, with_channel_order(description.batches, order, str(folder))
    filled = _import(layout, module, arrays, (task, batches), f"{weights}, as {file} describes it")
    if order != (description.channel_order or order):
        _logger.warning("%s: says %s, took %s as asked", folder, description.channel_order, order)
    for line in description.notes:
        _logger.warning("%s: %s", file, line)
    return Opened(module, filled, task, batches, description.labels, str(folder))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is missing, no JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: the file is damaged, it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found a {type(content).__name__}")
    return content


# ---------------------------------------------------------------------------------------------------- files


def open_checkpoint(
    path: Path,
    name: str,
    layout: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    any_size: bool = False,
    channel_order: str | None = None,
) -> Opened:
    """Opens a file of weights as the model of that name; the number of classes is the file's.

    Without `layout`, those of the model are tried in their order: a file fits one of them whole, or none.

    Args:
        path: of the file, or of a folder with a file of a usual name.
        name: of the model.
        layout: whose keys the file has.
        settings: of the module, where it is not quite the named one: `pool`, `use_class_token`, ...
        any_size: the file may be of another image size than the named model.
        channel_order: see `open_foreign`.

    Raises:
        UserError: see `open_foreign`.
    """
    target, variant = variant_of(name)
    keywords = {**variant, **(settings or {})}
    unknown = [key for key in settings or {} if key not in inspect.signature(target).parameters]
    if unknown:
        raise UserError(f"{path}: the model of {name!r} has no setting `{unknown[0]}`")
    given = [_layout(target, layout, str(path))] if layout is not None else list(layouts_of(target))
    if not given:
        raise UserError(f"{name}: vitjax has no table for files of this model")
    arrays = read_weights(path)
    misfits: list[str] = []
    for candidate in given:
        try:
            prepared = candidate.prepare(arrays)
            sizes = sizes_of(target, prepared)
            first = _build(target, candidate, merge_settings(keywords, sizes), name)
            # A `_tables` file that counts the classes itself goes before: its head is not called `head`.
            told = _told_by_shapes(candidate, first, prepared, any_size=any_size)
            sized = merge_settings(keywords, told, sizes)
            module = _build(target, candidate, sized, name)
            task, batches = default_preparation(module)
            filled = _import(candidate, module, prepared, (task, batches), f"{path}, as {name} of {candidate.name}")
        except UserError as error:
            misfits.append(str(error))
            continue
        order = settled_order(assumed_of(module).channel_order(candidate.name), channel_order, str(path))
        batches = with_channel_order(batches, order, str(path))
        _logger.warning(
            "%s: in the layout of %s, %d classes without names; a file of weights does not say how pictures are "
            "prepared: assumed %s, mean %s, std %s",
            path, candidate.name, module.num_classes, batches.transforms, task.mean, task.std,
        )  # fmt: skip
        labels = numbered_labels(module.num_classes)
        return Opened(module, filled, task, batches, labels, str(path), settled=True)
    raise UserError(min(misfits, key=len))  # the layout with the fewest misfits


def _told_by_shapes(layout: Layout, module: Any, arrays: Arrays, *, any_size: bool) -> dict[str, Any]:
    """Keywords that a file's shapes tell: outputs of its head, width of a layer before it, and its own image size."""
    shapes = _shapes_of(layout, module, arrays)
    found: dict[str, Any] = {"num_classes": math.prod(shapes.get("params/head/bias", (0,)))}
    if "params/pre_logits/bias" in shapes and hasattr(module, "representation_size"):
        found["representation_size"] = math.prod(shapes["params/pre_logits/bias"])
    table = shapes.get("params/position_embedding/table")
    if any_size and table is not None and hasattr(module, "grid"):
        own = module.grid[0] * module.grid[1]
        # Rows of the class token, which a table may or may not have, are those that leave a square.
        sides = [math.isqrt(max(table[0] - prefix, 0)) for prefix in (0, 1)]
        square = [side for prefix, side in enumerate(sides) if side**2 + prefix == table[0]]
        if square and square[0] ** 2 != own:
            found["image_size"] = square[0] * module.patch_size
    return found


# ----------------------------------------------------------------------------------------------- both


def _layout(target: Any, name: str, place: str) -> Layout:
    known = {layout.name: layout for layout in layouts_of(target)}
    if name not in known:
        raise UserError(
            f"{place}: {getattr(target, '__name__', target)} has no layout {name!r}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return known[name]


def merge_settings(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Later settings replace earlier ones; of two partials of one function the keywords are merged."""
    merged: dict[str, Any] = {}
    for group in settings:
        for name, value in group.items():
            before = merged.get(name)
            if isinstance(before, functools.partial) and isinstance(value, functools.partial):
                same = before.func is value.func
                merged[name] = (
                    functools.partial(before.func, **{**before.keywords, **value.keywords}) if same else value
                )
            else:
                merged[name] = value
    return merged


def _build(target: Any, layout: Layout, keywords: Mapping[str, Any], place: str) -> Any:
    try:
        return target(**merge_settings(layout.settings, keywords))
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _import(
    layout: Layout, module: Any, arrays: Arrays, preparation: tuple[Any, Any], place: str
) -> dict[str, np.ndarray]:
    """All variables of the module from the file's arrays.

    Raises:
        UserError: something does not fit; classes, image size and channels are said in words.
    """
    shapes = variable_shapes(module, *preparation)
    try:
        return import_weights(layout.rules(module), arrays, shapes)
    except UserError as error:
        hints = "; ".join(_explain(layout, module, arrays, shapes))
        raise UserError(f"{place}: {hints + '; ' if hints else ''}{error}") from error


def _shapes_of(layout: Layout, module: Any, arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Shapes that a file's arrays would have here, as far as the table says so one by one."""
    found: dict[str, tuple[int, ...]] = {}
    for rule in layout.rules(module):
        if isinstance(rule, Rule) and len(rule.targets) == 1 and rule.key in arrays:
            try:
                found[rule.targets[0]] = rule.transform.forward(np.asarray(arrays[rule.key]))[0].shape
            except ValueError:
                found[rule.targets[0]] = ()
    return found


def _explain(layout: Layout, module: Any, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What a misfit of the three kinds that people meet means."""
    head, table, kernel = "params/head/bias", "params/position_embedding/table", "params/patch_embedding/kernel"
    found = _shapes_of(layout, module, arrays)
    wrong = {path: shape for path, shape in found.items() if path in shapes and shape != shapes[path]}
    hints = []
    if head in wrong:
        hints.append(f"the weights have {math.prod(wrong[head])} classes, not {shapes[head][0]}")
    if table in wrong and wrong[table][1:] == shapes[table][1:]:
        hints.append(
            f"the weights have {wrong[table][0]} positions, images of {module.image_size} px in patches of "
            f"{module.patch_size} px have {shapes[table][0]}: another `image_size` or patch"
        )
    if kernel in wrong:
        hints.append("the patch kernel is of another patch size or of other channels than red, green and blue")
    return hints
