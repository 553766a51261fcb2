"""PyTorch's own files: `torch.load(weights_only=True)`, which builds tensors and plain containers and nothing else."""

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import UserError

__all__ = ["read_torch"]

_logger = logging.getLogger("vitjax")

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
"""Where training scripts keep the weights beside an optimizer; timm takes the moving average where there is one."""
_PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put in front of all keys."""


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a `.pth`, `.pt`, `.bin` or `.pth.tar` file; those of newer (zip) files are views of the file.

    The dicts that training scripts wrap around the weights, and prefixes that all keys share, are taken off, which is
    logged.

    Raises:
        UserError: torch is absent, the file is damaged, holds an object of any class but the plain ones, or no weights.
    """
    content = _load(path)
    weights, taken = _unwrap(content)
    if not isinstance(weights, Mapping):
        raise UserError(f"{path}: expected a dict of tensors (a `state_dict()`), found a {type(weights).__name__}")
    arrays, left_out = {}, []
    for key, value in weights.items():
        if hasattr(value, "detach"):
            arrays[str(key)] = _numpy(path, str(key), value)
        else:
            left_out.append(str(key))
    if not arrays:
        raise UserError(f"{path}: no tensors among {len(left_out)} entries ({', '.join(left_out[:8])}); "
                        f"weights are looked for at the top and in {', '.join(_WRAPPERS)}")  # fmt: skip
    if taken:
        others = [str(key) for key in content if key != taken[0]]
        _logger.info("%s: weights taken from `%s`; not read: %s", path, ".".join(taken), ", ".join(others) or "nothing")
    if left_out:
        _logger.info("%s: %d entries are no tensors and not read: %s", path, len(left_out), ", ".join(left_out[:8]))
    return _without_prefixes(path, arrays)


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading PyTorch's files needs torch; install it (pip install torch), "
                        "or convert the file to .safetensors where torch is") from error  # fmt: skip
    try:
        # Files of before torch 1.6 are no zip files, and cannot be mapped.
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except Exception as error:  # a damaged file can fail anywhere
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: the file is damaged, its download was cut short, or it is not PyTorch's: "
                        f"{type(error).__name__}: {reason}") from error  # fmt: skip


def _refusal(path: Path, message: str) -> str:
    """Torch's page of advice on how to run the file after all, as one line without it."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named is None:
        reason = " ".join(message.split("\n\n")[-2 if "\n\n" in message else 0].split())[:160]
        return f"{path}: the file is damaged or holds more than tensors: {reason}"
    return (
        f"{path}: refused, nothing of it was run: it holds {named[1]}, and only tensors in plain dicts are read; "
        "save the `state_dict()` alone, or as .safetensors"
    )


def _unwrap(content: Any) -> tuple[Any, list[str]]:
    """What lies inside the usual wrappers, and their names from the outermost."""
    taken: list[str] = []
    while isinstance(content, Mapping):
        inner = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        taken.append(inner)
        content = content[inner]
    return content, taken


def _numpy(path: Path, key: str, tensor: Any) -> np.ndarray:
    import torch

    try:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:  # which torch does not hand to numpy
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        kind = f"{tensor.layout}, {tensor.dtype}"
        raise UserError(f"{path}: {key} is a tensor of {kind} that numpy has no form of") from error


def _without_prefixes(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while prefix := next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in arrays)), None):
        _logger.info("%s: `%s` taken off all %d keys", path, prefix, len(arrays))
        arrays = {key.removeprefix(prefix): array for key, array in arrays.items()}
    return arrays
