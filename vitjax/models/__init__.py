"""Models by name; each paper's file is imported when one of its names is asked for."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from vitjax.errors import UserError

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np
    from ml_collections import ConfigDict

    from vitjax.weights.layouts import Layout

__all__ = ["create_model", "layouts_of", "list_models", "model_spec", "sizes_of", "variant_of"]

_FILES = (
    "vit",
    "navit",
    "naflex",
    "deepvit",
    "hybrid",
    "flexivit",
    "memory_vit",
    "efficientvit",
    "deeplab",
    "ssdlite",
    "mobilevit",
    "mobilevit_v2",
    "resnet",
    "detr",
    "detr_panoptic",
)
"""Files of this package with `VARIANTS` (name -> keywords) and `MODEL` (what takes them)."""


def create_model(name: str, **overrides: Any) -> "nn.Module":
    """Makes the linen module of that name, without weights.

    Args:
        name: one of `list_models()`, such as `vit_base_patch16_224`.
        **overrides: keywords of the model that replace those of the name.

    Raises:
        UserError: there is no such name, or the model has no such keyword.
    """
    from vitjax.config import build

    target, keywords = _find(name)
    keywords |= {key: build(value) for key, value in overrides.items()}
    _check(name, target, keywords)
    return target(**keywords)


def model_spec(name: str, **overrides: Any) -> "ConfigDict":
    """The model of that name as a spec, for configs; `num_classes=None` leaves the number of labels to the trainer."""
    from vitjax.config import spec

    target, keywords = _find(name)
    return spec(target, **{key: _storable(value) for key, value in {**keywords, **overrides}.items()})


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern such as `"*navit*"`, sorted."""
    return sorted(name for name in _variants() if fnmatchcase(name, pattern))


def variant_of(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes the model of that name, and the keywords it is made with.

    Raises:
        UserError: there is no such name.
    """
    return _find(name)


def layouts_of(model: Any) -> "tuple[Layout, ...]":
    """The layouts in which other people's files hold a model: `LAYOUTS` of the `_tables` file beside the model's own.

    Args:
        model: a linen module, or what makes it: whatever is `MODEL` in a file. A module that another file's function
            puts together has that file's layouts: a ViT with the hybrid's embedding is a hybrid.
    """
    if isinstance(model, type) or inspect.isfunction(model):
        return _layouts_in(model.__module__)
    parts = (getattr(model, name) for name in type(model).__dataclass_fields__)
    files = [getattr(getattr(part, "func", part), "__module__", None) for part in parts if callable(part)]
    own = type(model).__module__
    others = [file for file in files if file and file != own and file.startswith(f"{__name__}.")]
    # Where a file's `MODEL` is a class, its parts are only borrowed: a trunk below another head is another model.
    makers = [file for file in others if inspect.isfunction(getattr(importlib.import_module(file), "MODEL", None))]
    return next((found for file in makers if (found := _layouts_in(file))), _layouts_in(own))


def sizes_of(target: Callable[..., Any], arrays: "Mapping[str, np.ndarray]") -> dict[str, Any]:
    """Keywords of a model that only the shapes in a file tell: what `sizes_of` in its `_tables` file finds, if any.

    Args:
        target: whatever is `MODEL` in a file.
        arrays: as the layout's `prepare` gives them.
    """
    return dict(getattr(_tables(target.__module__), "sizes_of", lambda arrays: {})(arrays))


def _layouts_in(file: str) -> "tuple[Layout, ...]":
    return tuple(getattr(_tables(file), "LAYOUTS", ()))


def _tables(file: str) -> Any:
    """The tables beside a model's file, or `None`."""
    try:
        return importlib.import_module(f"{file}_tables")
    except ModuleNotFoundError as error:
        if error.name != f"{file}_tables":
            raise
        return None


def _find(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    if name not in _variants():
        close = get_close_matches(name, _variants(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "vitjax.list_models() has them all"
        raise UserError(f"there is no model {name!r}; {hint}")
    target, keywords = _variants()[name]
    return target, dict(keywords)


def _check(name: str, target: Callable[..., Any], keywords: dict[str, Any]) -> None:
    known = inspect.signature(target).parameters
    unknown = [key for key in keywords if key not in known]
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(f'`{key}`' for key in known)}"
        raise UserError(f"the model of {name!r} has no keyword `{unknown[0]}`; {hint}")


@functools.cache
def _variants() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {}
    for file in _FILES:
        module = importlib.import_module(f"{__name__}.{file}")
        for name, keywords in module.VARIANTS.items():
            if name in found:
                raise AssertionError(f"two models are called {name!r}")
            found[name] = (module.MODEL, dict(keywords))
    return found


def _storable(value: Any) -> Any:
    """Callables as the `factory` that makes them."""
    from vitjax.config import factory

    if isinstance(value, functools.partial):
        return factory(value.func, **{key: _storable(item) for key, item in value.keywords.items()})
    return factory(value) if callable(value) and not hasattr(value, "to_dict") else value
