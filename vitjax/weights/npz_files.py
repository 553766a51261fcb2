"""`.npz` files, as google-research/vision_transformer and big_vision publish their weights. Pickles are refused."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import UserError

__all__ = ["read_npz"]

_BFLOAT16_AS_STORED = np.dtype("V2")
"""numpy does not know bfloat16 and writes its two bytes as raw ones."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file, bfloat16 among them.

    Raises:
        UserError: the file is damaged or cut short, or has an entry that is pickled or no array of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): _read(path, archive, entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{path}: the file is damaged, its download was cut short, or it is no .npz: {error}"
        ) from error


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    key = entry.filename.removesuffix(".npy")
    try:
        with archive.open(entry) as file:
            dtype, values = _described(file)
            if dtype.hasobject:
                raise UserError(f"{path}: {key} is pickled ({dtype}), which is not read: it could run anything")
            if dtype.kind not in "biufc" and dtype != _BFLOAT16_AS_STORED:
                raise UserError(f"{path}: {key} of type {dtype} is no array of numbers")
            # numpy makes room for the array before it reads it.
            if values * dtype.itemsize != entry.file_size - file.tell():
                raise UserError(f"{path}: {key} has {entry.file_size - file.tell():,} bytes, not {values:,} of {dtype}")
            file.seek(0)
            array = np.lib.format.read_array(file, allow_pickle=False)
    except UserError:
        raise
    except (ValueError, OverflowError, TypeError, SyntaxError, MemoryError) as error:  # of a header that lies
        raise UserError(f"{path}: {key} is damaged: {' '.join(str(error).split())[:160]}") from error
    return array.view(jnp.bfloat16) if dtype == _BFLOAT16_AS_STORED else array


def _described(file: Any) -> tuple[np.dtype, int]:
    """Type and number of an array's values, as its header says."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = read(file)
    return dtype, math.prod(shape)
