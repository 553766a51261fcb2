"""Repositories of the Hugging Face hub: downloaded once, their commit and hashes recorded, checked ever after."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vitjax.errors import UserError
from vitjax.weights.pins import Pin, check_files, read_pin, record_pin

__all__ = ["Transport", "open_repository"]

_logger = logging.getLogger("vitjax")

_ALWAYS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@runtime_checkable
class Transport(Protocol):
    """The two things that are asked of the hub; tests have their own."""

    def describe(self, repository: str, revision: str | None) -> tuple[str, Sequence[str]]:
        """The commit that a revision stands for, and the names of the repository's files."""
        ...

    def folder(self, repository: str, commit: str, files: Sequence[str], *, cached: bool) -> Path | None:
        """Where the files of a commit lie; with `cached` nothing is downloaded, and `None` says that some lack."""
        ...


class HuggingFace:
    """The hub itself, through `huggingface_hub`, in that package's own cache."""

    def describe(self, repository: str, revision: str | None) -> tuple[str, Sequence[str]]:
        """See `Transport`."""
        info: Any = _package().HfApi().model_info(repository, revision=revision)
        return info.sha, [sibling.rfilename for sibling in info.siblings]

    def folder(self, repository: str, commit: str, files: Sequence[str], *, cached: bool) -> Path | None:
        """See `Transport`."""
        try:
            folder = _package().snapshot_download(
                repository, revision=commit, allow_patterns=list(files), local_files_only=cached
            )
        except FileNotFoundError:  # LocalEntryNotFoundError: not in the cache
            if cached:
                return None
            raise
        complete = all((Path(folder) / name).is_file() for name in files)
        return Path(folder) if complete or not cached else None


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("hf-hub:... needs huggingface_hub; install it with `pip install huggingface_hub`") from error
    return huggingface_hub


def open_repository(address: str, transport: Transport | None = None) -> Path:
    """The folder of a repository, with its config and weights.

    A revision that is no commit is pinned to the one it stands for at the first download; later calls take that commit
    from the cache without asking the hub, and check every file's hash.

    Args:
        address: `organisation/name`, or `organisation/name@revision`.
        transport: asks the hub.

    Raises:
        UserError: no such repository or revision, no weights in it, no connection, or a file that is not what it was.
    """
    repository, _, revision = address.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"hf-hub:{address}: expected hf-hub:organisation/name, or hf-hub:organisation/name@revision")
    transport = transport or HuggingFace()
    source = f"hf-hub:{address}"
    pin = read_pin(source)
    if pin is not None:
        folder = transport.folder(repository, pin.revision, list(pin.files), cached=True)
        if folder is None:
            folder = _ask(transport.folder, source, repository, pin.revision, list(pin.files), cached=False)
        check_files(source, pin, {name: folder / name for name in pin.files})
        return folder
    commit, names = _ask(transport.describe, source, repository, revision or None)
    files = _wanted(source, names)
    folder = _ask(transport.folder, source, repository, commit, files, cached=False)
    recorded: Pin = record_pin(source, commit, {name: folder / name for name in files})
    _logger.info("%s: revision %s, %d files, hashes recorded", source, recorded.revision, len(files))
    return folder


def _wanted(source: str, names: Sequence[str]) -> list[str]:
    """The files that matter: config, preprocessing, and one form of the weights."""
    if "config.json" not in names:
        raise UserError(
            f"{source}: the repository has no config.json; download its weights and give their path and name="
        )
    weights = [name for name in _WEIGHTS if name in names]
    if not weights:
        raise UserError(f"{source}: the repository has none of {', '.join(_WEIGHTS)}")
    parts = [name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    return [*(name for name in _ALWAYS if name in names), weights[0], *(parts if "index" in weights[0] else ())]


def _ask(question: Any, source: str, *arguments: Any, **keywords: Any) -> Any:
    """Calls the hub; whatever goes wrong becomes one line."""
    try:
        return question(*arguments, **keywords)
    except UserError:
        raise
    except Exception as error:  # huggingface_hub lets through the exceptions of whichever http client it uses
        first = (str(error).strip().splitlines() or [""])[0]
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "HFValidationError"}:
            raise UserError(
                f"{source}: the hub has no such repository or revision, or does not show it: {first}"
            ) from error
        raise UserError(
            f"{source}: the hub cannot be reached ({type(error).__name__}: {first}); download the repository on a "
            "machine with a connection and give its folder's path"
        ) from error
