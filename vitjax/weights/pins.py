"""What was downloaded once, and its hash: a small JSON in the user's cache folder, checked ever after."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitjax.errors import UserError

__all__ = ["Pin", "cache_folder", "check_files", "read_pin", "record_pin"]

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Pin:
    """One download.

    Attributes:
        revision: the commit, where the source has such; otherwise empty.
        files: name of each file -> its SHA-256 in hexadecimal digits.
    """

    revision: str
    files: Mapping[str, str]


def cache_folder() -> Path:
    """Where downloads and pins are kept: `$XDG_CACHE_HOME/vitjax/weights`, `~/.cache` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitjax" / "weights"


def _pins_file() -> Path:
    return cache_folder() / "pins.json"


def _read() -> dict[str, dict]:
    file = _pins_file()
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file}: the record of downloads is damaged ({error}); delete it to record them anew"
        ) from error


def read_pin(source: str) -> Pin | None:
    """What was recorded for a source, `None` before its first download.

    Raises:
        UserError: the record is damaged.
    """
    found = _read().get(source)
    return None if found is None else Pin(found["revision"], found["files"])


def record_pin(source: str, revision: str, files: Mapping[str, Path]) -> Pin:
    """Notes what has been downloaded.

    Args:
        source: its address.
        revision: the commit, or "".
        files: name -> where it lies.
    """
    pin = Pin(revision, {name: _sha256(path) for name, path in files.items()})
    record = _read() | {source: {"revision": pin.revision, "files": dict(pin.files)}}
    file = _pins_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    os.replace(fresh, file)
    return pin


def check_files(source: str, pin: Pin, files: Mapping[str, Path]) -> None:
    """Raises `UserError` if a file is not the one that was recorded."""
    for name, known in pin.files.items():
        if name not in files or not files[name].is_file():
            raise UserError(f"{source}: {name} is missing from the cache; delete {_pins_file()}'s entry to start over")
        found = _sha256(files[name])
        if found != known:
            raise UserError(
                f"{files[name]}: not the file that was downloaded from {source} at first: SHA-256 {found[:16]}..., "
                f"recorded {known[:16]}... in {_pins_file()}; delete the file to download it again"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
