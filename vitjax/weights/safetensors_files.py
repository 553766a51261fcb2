"""safetensors files, mapped into memory instead of read.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of the header, the header in JSON
(`{key: {dtype, shape, data_offsets}}`), then the arrays' bytes without holes. The `safetensors` package copies every
array to hand it to numpy; a file of a gigabyte then takes one before anything has been done with it. Here an array is a
view of the mapped file, and the page that nobody needs any more costs nothing.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array
from vitjax.errors import UserError

__all__ = ["read_safetensors", "read_sharded", "safetensors_metadata", "write_safetensors"]

_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "C64": np.complex64,
        "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2,
        "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
        "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    }.items()
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_LENGTH = 8
"""Bytes of the header's length, a little-endian integer."""
_LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_METADATA = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every array of one file, as read-only views of the mapped file.

    Raises:
        UserError: the file is not complete, its header does not describe it, or it has a type that numpy lacks.
    """
    header, start = _read_header(path)
    size = path.stat().st_size - start
    entries = {key: _entry(path, key, value) for key, value in header.items() if key != _METADATA}
    _check_extents(path, entries, size)
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)[start:]
    arrays = {}
    for key, (dtype, shape, begin, end) in entries.items():
        try:
            arrays[key] = mapped[begin:end].view(dtype).reshape(shape)  # no copy, aligned or not
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}: numpy has no arrays such as {key} {str(shape)[:100]}: {error}") from error
    return arrays


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The words that a file carries beside its arrays.

    Raises:
        UserError: as `read_safetensors`, and for anything but words.
    """
    words = _read_header(Path(path))[0].get(_METADATA, {})
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise UserError(f"{path}: `{_METADATA}` must be words by name")
    return words


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and the offset of the first array's bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or length > min(size - _LENGTH, _LARGEST_HEADER):
            raise UserError(
                f"{path}: a header of {length:,} bytes in a file of {size:,}; "
                "this is no safetensors file, or its download was cut short"
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:  # decoding errors are ValueErrors
        raise UserError(f"{path}: the safetensors header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: the safetensors header is damaged: expected an object with keys")
    return header, _LENGTH + length


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key comes twice among {', '.join(key for key, _ in pairs[:4])}, ...")
    return found


def _entry(path: Path, key: str, value: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """One array's type, shape, and first and last byte among the arrays' bytes."""
    kind, shape, offsets = (value.get(name) for name in _FIELDS) if isinstance(value, dict) else (None, None, None)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise UserError(f"{path}: the safetensors header has no shape and offsets of {key!r}: {str(value)[:100]}")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise UserError(f"{path}: {key} has the type {str(kind)[:40]!r}; expected one of {', '.join(_DTYPES)}")
    dtype, (begin, end) = _DTYPES[kind], offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise UserError(f"{path}: {key} {tuple(shape)} of {kind} does not fill its {end - begin:,} bytes")
    return dtype, tuple(shape), begin, end


def _are_sizes(field: Any) -> TypeGuard[list[int]]:
    return isinstance(field, list) and all(type(item) is int and item >= 0 for item in field)


def _check_extents(path: Path, entries: Mapping[str, tuple[Any, Any, int, int]], size: int) -> None:
    """Arrays lie one behind the other and end where the file ends."""
    reached = 0
    for key, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise UserError(f"{path}: {key} begins at byte {begin:,} of the arrays, expected {reached:,}")
        reached = end
        if end > size:
            raise UserError(f"{path}: {key} ends at byte {end:,} of the arrays, of which the file holds {size:,}; "
                            "its download was cut short")  # fmt: skip
    if reached != size:
        raise UserError(f"{path}: {size - reached:,} bytes behind the last array belong to none")


def read_sharded(index: Path) -> dict[str, np.ndarray]:
    """The arrays of all files that a `model.safetensors.index.json` lists, in the index's order.

    Raises:
        UserError: a file is missing or damaged, or holds other keys than the index says.
    """
    try:
        listed = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)["weight_map"]
        files = {name: [key for key in listed if listed[key] == name] for name in dict.fromkeys(listed.values())}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: expected `weight_map` with a file name for each key: {error}") from error
    arrays: dict[str, np.ndarray] = {}
    for name, keys in files.items():
        # A name with folders in it could reach any file of this machine.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: {str(name)!r} (of {keys[0]}) is no safetensors file of the same folder")
        file = index.parent / name
        if not file.is_file():
            raise UserError(f"{file}: this file is missing; {index.name} has {len(keys)} keys in it, such as {keys[0]}")
        part = read_safetensors(file)
        if differing := sorted(set(keys) ^ set(part)):
            raise UserError(f"{file}: not what {index.name} says of {len(differing)} keys: {', '.join(differing[:8])}")
        arrays |= part
    return {key: arrays[key] for key in listed}


def write_safetensors(path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays beside `path` and moves them into place: the file is there whole or as it was before.

    Args:
        path: of the file; its folder must exist.
        arrays: by key; one at a time is brought into the file's form.
        metadata: words by name; `{"format": "pt"}` unless given, without which transformers refuses the file.

    Raises:
        UserError: a type that the format lacks, or a folder that cannot be written to.
    """
    path = Path(path)
    words = {"format": "pt"} if metadata is None else dict(metadata)
    for key, array in arrays.items():
        if np.dtype(array.dtype) not in _NAMES or key == _METADATA:
            raise UserError(
                f"{path}: {key} of {array.dtype} cannot be written; types are {', '.join(map(str, _NAMES))}"
            )
    # Wide types first, as the format's own library has it: every array then lies at a multiple of its size.
    order = sorted(arrays, key=lambda key: (-np.dtype(arrays[key].dtype).itemsize, key))
    header = _header(arrays, order, words)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(header)
            for key in order:
                # A view of bytes: numpy's newer types have no buffer protocol.
                file.write(np.ascontiguousarray(arrays[key]).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _header(arrays: Mapping[str, Array], order: list[str], words: Mapping[str, str]) -> bytes:
    """Length and JSON, padded with spaces to a multiple of eight bytes."""
    header: dict[str, Any] = {_METADATA: dict(words)} if words else {}
    reached = 0
    for key in order:
        dtype, shape = np.dtype(arrays[key].dtype), arrays[key].shape
        begin, reached = reached, reached + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, reached]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text
