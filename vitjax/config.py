"""Configs are constructor calls: `spec` writes one down, `build` makes it.

`spec(ViT, depth=12)` is a `ConfigDict` with `target="vitjax.models.vit:ViT"` and every keyword of the constructor,
so that a misspelt keyword fails on the line that wrote it, each setting can be overridden on the command line, and the
stored JSON says all that a run used.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

from vitjax.errors import UserError

__all__ = [
    "build",
    "describe",
    "factory",
    "from_json",
    "load_config_file",
    "override",
    "parse_command_line",
    "spec",
    "to_json",
]

_PLAIN = (bool, int, float, str, tuple, type(None))


def spec(target: Callable[..., Any], /, **keywords: Any) -> ConfigDict:
    """Writes down the call `target(**keywords)`, to be made later by `build`.

    Args:
        target: a class or function at the top level of an importable module.
        **keywords: numbers, strings, tuples, `None`, or further specs. Keywords left out are filled in with the
            target's defaults where those can be stored.

    Raises:
        UserError: the target has no such keyword, or a keyword without a default is missing. The message names the
            line of the config that wrote the call.
    """
    return _node(target, keywords, partial=False)


def factory(target: Callable[..., Any], /, **keywords: Any) -> ConfigDict:
    """Like `spec`, but builds `functools.partial(target, **keywords)`: for settings that take a callable."""
    return _node(target, keywords, partial=True)


def _node(target: Callable[..., Any], keywords: dict[str, Any], *, partial: bool) -> ConfigDict:
    signature = _signature(target)
    _check_keywords(target, signature, keywords, required=not partial, place=_config_line)
    node: dict[str, Any] = {"target": f"{target.__module__}:{target.__qualname__}"}
    if partial:
        node["partial"] = True
    else:
        node |= {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if name not in keywords and _is_plain(parameter.default)
        }
    config = ConfigDict(node, convert_dict=True)
    for name, value in keywords.items():
        if callable(value) and not isinstance(value, ConfigDict | FieldReference):
            raise UserError(
                f"{_config_line()}`{name}` of {target.__qualname__} is the callable {value!r}, which cannot be stored; "
                f"write factory({getattr(value, '__qualname__', value)}, ...) instead"
            )
        config[name] = value
    return config


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """The keywords a config may give: linen's own `parent` and `name` belong to the module that calls."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise UserError(f"{target!r:.80} does not say which keywords it takes: {error}") from error
    linen = ("parent", "name") if "parent" in signature.parameters else ()
    kept = [
        parameter
        for name, parameter in signature.parameters.items()
        if not name.startswith("_") and name not in linen and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    return signature.replace(parameters=kept)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _check_keywords(
    target: Callable[..., Any],
    signature: inspect.Signature,
    keywords: Iterable[str],
    *,
    required: bool,
    place: Callable[[], str],
) -> None:
    names = set(keywords)
    parameters = signature.parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [] if takes_any else sorted(names - set(parameters))
    if unknown:
        close = get_close_matches(unknown[0], parameters, n=1)
        known = ", ".join(f"`{name}`" for name in parameters)
        hint = f"did you mean `{close[0]}`?" if close else f"it takes {known or 'none'}"
        raise UserError(f"{place()}{target.__qualname__} has no keyword `{unknown[0]}`; {hint}")
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD and name not in names
    ]
    if missing and required:
        raise UserError(f"{place()}{target.__qualname__} needs {', '.join(f'`{name}`' for name in missing)}")


def _config_line() -> str:
    """`file:line: ` of the innermost caller outside this package, which is the config.

    The tests wrap our functions in jaxtyping's and beartype's, which are no callers either.
    """
    frame = inspect.currentframe()
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in (__package__, "jaxtyping", "beartype"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}: "
        frame = frame.f_back
    return ""


def build(node: Any, *, packages: Sequence[str] | None = None) -> Any:
    """Makes what `spec` wrote down, innermost calls first.

    Args:
        node: a spec, or anything that holds specs (tuple, list, dict); other values are returned as they are.
        packages: top-level packages whose targets may be made, or `None` for any. Configs read from a checkpoint are
            built with `("vitjax",)`, so that opening a file never runs other people's code.

    Raises:
        UserError: a target lies outside `packages`, does not exist, or lacks one of the keywords.
    """
    if isinstance(node, ConfigDict | dict):
        items = {name: build(value, packages=packages) for name, value in node.items()}
        if "target" not in items:
            return items
        target = _resolve(items.pop("target"), packages)
        partial = items.pop("partial", False)
        _check_keywords(target, _signature(target), items, required=not partial, place=str)
        return functools.partial(target, **items) if partial else target(**items)
    if isinstance(node, tuple | list):
        return type(node)(build(item, packages=packages) for item in node)
    return node


def _resolve(name: str, packages: Sequence[str] | None) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if packages is not None and module_name.split(".")[0] not in packages:
        raise UserError(
            f"target {name!r} lies outside {', '.join(packages)}; "
            f"pass packages=(..., {module_name.split('.')[0]!r}) if you trust it"
        )
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise UserError(f"target {name!r} cannot be imported: {error}") from error
    if not callable(target):
        raise UserError(f"target {name!r} is a {type(target).__name__}; expected a class or function")
    return target


def describe(value: Any) -> Any:
    """The spec that builds `value` again: the way back from `build`.

    Args:
        value: a dataclass instance (linen modules are some), `functools.partial`, class, function, or tuple, list or
            dict of these; plain values are returned as they are.

    Raises:
        UserError: something in it cannot be stored.
    """
    if isinstance(value, functools.partial):
        if value.args:
            raise UserError(f"{value!r} cannot be stored: give its arguments by name")
        return factory(value.func, **{name: describe(item) for name, item in value.keywords.items()})
    if isinstance(value, type) or inspect.isfunction(value):
        return factory(value)
    if dataclasses.is_dataclass(value):
        keywords = _signature(type(value)).parameters
        given = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.name in keywords
            # as `spec` does, leave out a callable that is the default: the constructor has it
            and not (callable(field.default) and getattr(value, field.name) is field.default)
        }
        return spec(type(value), **{name: describe(item) for name, item in given.items()})
    if isinstance(value, tuple | list):
        return type(value)(describe(item) for item in value)
    if isinstance(value, dict):
        return {name: describe(item) for name, item in value.items()}
    if not isinstance(value, _PLAIN):
        raise UserError(f"{value!r:.80} is a {type(value).__name__}, which cannot be stored in a config")
    return value


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; tuples become lists, and references are written as their values."""
    return json.dumps(_plain(config), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, FieldReference):
        return _plain(value.get())
    if isinstance(value, ConfigDict | dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote; lists become tuples, as configs write them."""
    return ConfigDict(_tuples(json.loads(text)))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def load_config_file(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config()` of a config file and applies overrides such as `optimizer.lr=1e-3`.

    Raises:
        UserError: the file does not exist or has no `get_config`, or an override names a setting that the config does
            not have or gives a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(found) for found in Path("configs").glob("*.py"))
        hint = f"there are {', '.join(known)}" if known else "give a path"
        raise UserError(f"--config={path}: no such file; {hint}")
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        get_config = namespace.get("get_config")
        if get_config is None:
            raise UserError(f"{path}: a config file defines get_config(), which returns a ConfigDict")
        config = get_config()
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(sys.exc_info()[2]) if frame.filename == str(path)]
        line = f":{lines[-1]}" if lines else ""
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned a {type(config).__name__}; expected a ConfigDict")
    for text in overrides:
        name, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"--config.{text}: write --config.{text}=VALUE")
        _set(config, name, value, _parse_value, f"--config.{name}")
    return config.lock()


def override(config: ConfigDict, name: str, value: Any) -> None:
    """Replaces one setting of a config.

    Args:
        config: is changed.
        name: of the setting, such as `optimizer.lr`.
        value: of the type of the value it replaces; `None` fits all.

    Raises:
        UserError: the config has no such setting, or the value is of another type.
    """
    _set(config, name, value, lambda given, current: given, f"`{name}`")


def _set(config: ConfigDict, path: str, value: Any, convert: Callable[[Any, Any], Any], shown: str) -> None:
    *parents, name = path.split(".")
    node: Any = config
    for depth, part in enumerate([*parents, name]):
        if not isinstance(node, ConfigDict) or part not in node:
            here = ".".join(["config", *parents[:depth]])
            names = list(node) if isinstance(node, ConfigDict) else []
            close = get_close_matches(part, names, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(names) or 'no settings of its own'}"
            raise UserError(f"{shown}: `{here}` has no setting `{part}`; {hint}")
        if depth < len(parents):
            node = node[part]
    current = node[name]
    if isinstance(current, ConfigDict) and not isinstance(value, ConfigDict):
        raise UserError(f"{shown} is a group of settings; set one of them, such as {path}.{next(iter(current))}")
    try:
        node[name] = convert(value, current)
    except (TypeError, ValueError) as error:
        expected = type(current).__name__
        raise UserError(f"{shown}={value}: expected {expected} such as {current!r}: {error}") from error


def _parse_value(text: str, current: Any) -> Any:
    """Reads a value as the type of the one it replaces; JSON spelling where that has no type yet."""
    if isinstance(current, str):
        return text
    lowered = text.strip().lower()
    if lowered == "none":
        return None
    if isinstance(current, bool):
        if lowered not in ("true", "false", "1", "0"):
            raise ValueError("true or false")
        return lowered in ("true", "1")
    if isinstance(current, int | float):
        return type(current)(text)
    try:
        return _tuples(json.loads(text.replace("(", "[").replace(")", "]")))
    except json.JSONDecodeError:
        if current is None:
            return text
        raise


def parse_command_line(arguments: Sequence[str]) -> tuple[ConfigDict, dict[str, str]]:
    """Splits `--config FILE --config.a.b=VALUE --other=VALUE` into the config and the remaining flags.

    Raises:
        UserError: no `--config`, an argument that is no flag, or what `load_config_file` raises.
    """
    path, overrides, flags = None, [], {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("--"):
            raise UserError(f"{argument!r}: expected a flag such as --config FILE or --config.steps=100")
        name, separator, value = argument[2:].partition("=")
        if not separator:
            value = "true" if not queue or queue[0].startswith("--") else queue.pop(0)
        if name == "config":
            path = value
        elif name.startswith("config."):
            overrides.append(f"{name[len('config.') :]}={value}")
        else:
            flags[name] = value
    if path is None:
        raise UserError("no --config given; try --config configs/navit.py")
    return load_config_file(path, overrides), flags
