"""What `vitjax.load` takes, in whichever form: run folder, bundle, timm or Hugging Face folder, hub, name, file."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vitjax.config import build
from vitjax.errors import UserError
from vitjax.inference.foreign_files import open_foreign
from vitjax.inference.foreign_types import Opened
from vitjax.inference.hub import open_repository
from vitjax.paths import flatten
from vitjax.weights.bundle_io import read_bundle
from vitjax.weights.pretrained import PUBLISHED, fetch, find_published

__all__ = ["open_any"]

_HUB = "hf-hub:"


def open_any(
    path: str | Path,
    *,
    name: str | None = None,
    layout: str | None = None,
    packages: Sequence[str] = ("vitjax",),
    settings: Mapping[str, Any] | None = None,
    any_size: bool = False,
    channel_order: str | None = None,
) -> Opened:
    """Opens a model as it lies in its place; see `vitjax.load`, and `open_checkpoint` for the last three.

    Raises:
        UserError: there is no model, or it is damaged, unknown, or does not fit together.
    """
    text = str(path)
    given: dict[str, Any] = {"settings": settings, "any_size": any_size, "channel_order": channel_order}
    if text.startswith(_HUB):
        return open_foreign(open_repository(text.removeprefix(_HUB)), name=name, layout=layout, **given)
    if "://" in text:
        raise UserError(f"{text}: give hf-hub:organisation/name, a published name, or the path of a downloaded file")
    place = Path(path)
    if not place.exists() and text in PUBLISHED:
        return _open_published(text, layout, any_size, channel_order)
    bundle = _find_bundle(place)
    if bundle is not None:
        if channel_order is not None:
            raise UserError(f"{bundle}: a bundle has its preparation with it; leave out `channel_order`")
        return _open_bundle(bundle, packages)
    _check_place(place, name)
    return open_foreign(place, name=name, layout=layout, **given)


def _open_published(name: str, layout: str | None, any_size: bool, channel_order: str | None) -> Opened:
    """Weights by their published name; `layout` picks one of several sources."""
    published = find_published(name, layout)
    if published.source.startswith(_HUB):
        repository = published.source.removeprefix(_HUB)
        revision = f"@{published.revision}" if published.revision else ""
        return open_foreign(open_repository(f"{repository}{revision}"), channel_order=channel_order)
    return open_foreign(
        fetch(name, published), name=published.model, layout=published.layout, any_size=any_size,
        channel_order=channel_order or published.channel_order or None,
    )  # fmt: skip


def _find_bundle(folder: Path) -> Path | None:
    """The folder with `bundle.json`: `folder`, or `best` in it."""
    for candidate in (folder, folder / "best"):
        if (candidate / "bundle.json").is_file() or candidate.with_name(f".{candidate.name}.old").exists():
            return candidate
    return None


def _check_place(place: Path, name: str | None) -> None:
    """Raises `UserError` for what is nothing that could be opened; a model's name stands for the file that says it."""
    if not place.exists():
        close = get_close_matches(str(place), PUBLISHED, n=3)
        hint = f"; published weights of a similar name: {', '.join(close)}" if close else ""
        raise UserError(
            f"{place}: no such folder or file; expected a run's folder or its best/, such as runs/navit/best, a folder "
            f"of timm or Hugging Face, or a file of weights with name={hint}"
        )
    if name is None and place.is_dir() and not (place / "config.json").is_file():
        raise UserError(
            f"{place}: expected a run's folder or its best/, with bundle.json and variables/ in it, "
            "or a folder of timm or Hugging Face with config.json and model.safetensors"
        )


def _open_bundle(folder: Path, packages: Sequence[str]) -> Opened:
    try:
        files = read_bundle(folder)
    except UserError:
        raise
    except Exception as error:  # orbax raises a dozen types for a file cut short
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{folder}: the bundle cannot be read, {type(error).__name__}: {first_line}") from error
    try:
        module, task, batches = (build(node, packages=packages) for node in (files.model, files.task, files.batches))
    except UserError as error:
        raise UserError(f"{folder}: {error} (written by vitjax {files.version})") from error
    facts = {"step": files.step, "score": files.score, "metric": files.metric}
    return Opened(module, flatten(files.variables), task, batches, files.labels, str(folder), facts=facts)
