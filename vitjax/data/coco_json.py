"""What COCO's jsons of boxes and of segments have in common: where they lie, what is checked, what is told."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitjax.errors import UserError

__all__ = ["Report", "class_ids", "find_json", "read_json", "some", "unique"]

logger = logging.getLogger("vitjax")

_SHOWN = 5  # ids that a report names
_MOST_IDS = 10_000
_SPLIT_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation", "test")}


class Report:
    """Gathers what is left out and what is mended, and says it once.

    Args:
        file: the json, for the line.
    """

    def __init__(self, file: str):
        self._file = file
        self._left_out: dict[str, list[Any]] = {}
        self._mended: dict[str, list[Any]] = {}

    def leave_out(self, kind: str, identity: Any) -> None:
        """Notes what is not used."""
        self._left_out.setdefault(kind, []).append(identity)

    def mend(self, kind: str, identity: Any) -> None:
        """Notes what is used otherwise than it stands there."""
        self._mended.setdefault(kind, []).append(identity)

    def tell(self) -> None:
        """Logs one line, if there is anything."""
        parts = [
            f"{did} " + "; ".join(f"{len(ids)} {kind} ({some(ids)})" for kind, ids in kinds.items())
            for did, kinds in (("left out", self._left_out), ("mended", self._mended))
            if kinds
        ]
        if parts:
            logger.warning("%s: %s", self._file, "; ".join(parts))


def some(ids: Sequence[Any]) -> str:
    """The first few, and how many more there are."""
    shown = ", ".join(map(str, ids[:_SHOWN]))
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN} more"


def unique(entries: Sequence[dict[str, Any]], kind: str, report: Report, *, key: str = "id") -> list[dict[str, Any]]:
    """The first entry of each id, and all without one; the others are reported as `kind`."""
    seen, kept = set(), []
    for entry in entries:
        identity = entry.get(key)
        if identity is not None and identity in seen:
            report.leave_out(kind, identity)
        else:
            seen.add(identity)
            kept.append(entry)
    return kept


def class_ids(file: Path, categories: Mapping[Any, Any], *, keep: bool) -> tuple[Any, ...]:
    """The category id of each class: in order, whatever gaps they have, or 0 ... the largest id.

    Args:
        file: the json, for messages.
        categories: by id.
        keep: class numbers are the ids themselves.

    Raises:
        UserError: ids to be kept are no such numbers.
    """
    if not keep:
        return tuple(sorted(categories))
    wrong = [identity for identity in categories if not isinstance(identity, int) or not 0 <= identity < _MOST_IDS]
    if wrong:
        raise UserError(f"{file}: `keep_ids` needs category ids from 0 to {_MOST_IDS - 1}, one is {wrong[0]!r}")
    return tuple(range(max(categories) + 1))


def read_json(file: Path, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """COCO's json, checked.

    Args:
        file: its path.
        keys: list -> keys that each of its entries must have; a list for which there are none may be empty.

    Raises:
        UserError: it cannot be read, or is of another format.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as json: {error}") from error
    for name, required in keys.items():
        entries = (content.get(name) or []) if isinstance(content, dict) else []
        listed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if not listed or (required and not entries):
            raise UserError(f"{file}: has no `{name}`; expected COCO's format, with images, annotations and categories")
        lacking = next(((entry, key) for entry in entries for key in required if key not in entry), None)
        if lacking is not None:
            raise UserError(f"{file}: an entry of `{name}` has no `{lacking[1]}`: {lacking[0]!r:.120}")
    for entry in content["images"]:
        if not all(isinstance(entry[side], int) and entry[side] > 0 for side in ("height", "width")):
            raise UserError(f"{file}: an image's `height` and `width` are numbers of pixels, 1 or more: {entry!r:.120}")
    numbers = [entry["id"] for entry in content["categories"]]
    if len(set(numbers)) != len(numbers):
        raise UserError(f"{file}: two categories have the same id; ids of `categories` must differ")
    return content


def find_json(path: str, split: str, prefix: str) -> tuple[Path, Path]:
    """The json of a split, and the folder of its images.

    Args:
        path: folder, or the json itself.
        split: "train" or "validation".
        prefix: of the name in front of the split's, where the json lies in `annotations/`.

    Raises:
        UserError: there is none, or more than one.
    """
    if split not in _SPLIT_NAMES:
        raise UserError(f"`split`={split!r} of {path}, expected 'train' or 'validation'")
    root, names = Path(path).expanduser(), _SPLIT_NAMES[split]
    if root.is_file():
        return root, _images_beside(root)
    if not root.is_dir():
        raise UserError(f"coco:{root}: no such file or folder (seen from {Path.cwd()})")
    for name in names:
        found = sorted((root / "annotations").glob(f"{prefix}{name}*.json"))
        if found:
            file = _only(found)
            return file, root / file.stem.removeprefix(prefix)
    for name in names:
        found = sorted((root / name).glob("*.json"))
        if found:
            file = _only(found)
            return file, _images_beside(file)
    raise UserError(
        f"coco:{root}: no json for split {split!r}; expected annotations/{prefix}{names[0]}*.json, or a json in "
        f"{' or '.join(f'{name}/' for name in names)}; or give the json's own path"
    )


def _images_beside(file: Path) -> Path:
    return file.parent / "images" if (file.parent / "images").is_dir() else file.parent


def _only(files: list[Path]) -> Path:
    if len(files) > 1:
        raise UserError(
            f"{files[0].parent}: several json files, {some([file.name for file in files])}; give one's path"
        )
    return files[0]
