"""Other people's weight files, read and written without running anything that stands in them.

    read_weights("model.safetensors")   # or .pth .pt .bin .pth.tar .npz, or a folder that holds weights
    write_safetensors("out/model.safetensors", arrays, {"format": "pt"})

Each format has its own file. What is damaged, or holds more than arrays, is refused by a `UserError` that names the
file and the key; nothing half-read is returned.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.errors import UserError
from vitjax.weights.npz_files import read_npz
from vitjax.weights.safetensors_files import (
    read_safetensors,
    read_sharded,
    safetensors_metadata,
    write_safetensors,
)
from vitjax.weights.torch_files import read_torch

__all__ = ["find_weights", "put_on_device", "read_weights", "safetensors_metadata", "write_safetensors"]

_INDEX = "model.safetensors.index.json"
_IN_FOLDERS = ("model.safetensors", _INDEX, "pytorch_model.bin")
"""What timm and transformers call the weights in a folder of theirs, in the order of preference."""

_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": read_safetensors,
    ".safetensors.index.json": read_sharded,
    ".pth": read_torch,
    ".pth.tar": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
    ".npz": read_npz,
}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a weight file, by the names and in the types that they have there.

    Arrays of safetensors and of torch's zip files are views of the mapped file, read when they are used: nobody may
    write over the file before they have been copied (`put_on_device` copies), and one must not write into them.

    Args:
        path: a `.safetensors`, `.pth`, `.pth.tar`, `.pt`, `.bin` or `.npz` file, a `model.safetensors.index.json`, or a
            folder with `model.safetensors` (in one piece or in several with an index) or `pytorch_model.bin`.

    Raises:
        UserError: there is no such file, it is of another kind, damaged or incomplete, or holds anything but arrays.
    """
    path = find_weights(path)
    matching = [suffix for suffix in _READERS if path.name.endswith(suffix)]
    if not matching:
        raise UserError(f"{path}: weights are read from {', '.join(_READERS)} files")
    _check_content(path)
    return _READERS[matching[0]](path)


def find_weights(path: str | Path) -> Path:
    """The file itself, or the one that holds a folder's weights.

    Raises:
        UserError: there is no such file, or the folder has no weights.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: the folder has no weights; expected one of {', '.join(_IN_FOLDERS)}")
        return found[0]
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    return path


def _check_content(path: Path) -> None:
    """Names what stands in a weight file's place when a download went wrong."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise UserError(f"{path}: the file is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: this is Git LFS's pointer to the file, not the file; run `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: this is a web page, not weights; download the file itself")


def put_on_device(arrays: dict[str, np.ndarray], dtype: str = "float32") -> dict[str, jax.Array]:
    """Moves arrays to the default device one after another, so that there are never two copies of more than one.

    Args:
        arrays: is empty afterwards.
        dtype: of all arrays of real numbers, whatever they are in the file; integers stay as they are.

    Returns:
        The device arrays; none shares memory with a mapped file.
    """
    placed = {}
    for name in list(arrays):
        array = arrays.pop(name)
        if jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(dtype, copy=False)
        # Waiting keeps the host's copy from outliving its turn.
        placed[name] = jax.block_until_ready(jax.device_put(array, may_alias=False))
    return placed
