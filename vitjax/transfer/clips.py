"""From a NaViT of images to one of clips, as NaViT does for Kinetics-400 (Dehghani et al., 2023, arXiv:2307.06304).

The kernel of the patches lies at the central frame of a tubelet and zeros elsewhere (ViViT's central frame
initialisation: Arnab et al., 2021, arXiv:2103.15691, section 3.4). Positions of rows and columns are the images', those
of time zero: at the start every tubelet is taken for the picture that its central frame is.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Arrays
from vitjax.inference.opening import open_any
from vitjax.layers.packed_positions import Sum

__all__ = ["central_frame_kernel", "clip_weights"]

_logger = logging.getLogger("vitjax")

_KERNEL = "params/patch_embedding/projection/kernel"
_TIMES = "params/position_embedding/times/table"
_FREQUENCIES = "params/position_embedding/frequencies"
_HEAD = r"params/head/.*"


def clip_weights(module: Any, shapes: Mapping[str, tuple[int, ...]], *, path: str) -> dict[str, np.ndarray]:
    """Weights to start a NaViT of clips from: `config.initial = factory(clip_weights, path="runs/navit/best")`.

    Everything is taken over but time, which starts at zero, and a head for other classes, which stays as the module
    starts it and is named in the log. Pictures must be normalised as they were.

    Args:
        module: the NaViT to be trained, with three numbers in `max_grid`.
        shapes: of its variables, by path.
        path: of the NaViT of images, whatever `vitjax.load` opens.

    Returns:
        By path; what is not among them starts at random.

    Raises:
        UserError: there is no NaViT of images, or it does not fit; all misfits are listed.
    """
    opened = open_any(path)
    _check_modules(opened.module, module, path)
    arrays = {name: np.asarray(array) for name, array in opened.arrays.items()}
    head = [name for name in shapes if re.fullmatch(_HEAD, name)]
    new_head = any(name not in arrays or arrays[name].shape != shapes[name] for name in head)
    wanted = {name: shape for name, shape in shapes.items() if not (new_head and name in head)}
    taken = {name: array for name, shape in wanted.items() if (array := _started(name, shape, arrays)) is not None}
    misfits = [
        f"{name} {arrays[name].shape if name in arrays else 'absent'}, expected {shape}"
        for name, shape in wanted.items()
        if name not in taken or taken[name].shape != shape
    ]
    if misfits:
        raise UserError(f"{path}: the weights of images do not fit the model of clips: {', '.join(misfits)}")
    frames = shapes[_KERNEL][0] // len(arrays[_KERNEL])
    _logger.info(
        "%s: its kernel lies at frame %d of each tubelet of %d, time starts at zero", path, frames // 2, frames
    )
    if new_head:
        _logger.warning("%s: the head is left out, it has other classes than the model", path)
    unused = [name for name in arrays if name not in shapes]
    if unused:
        _logger.warning("%s: not used, the model has no such variables: %s", path, ", ".join(unused))
    return taken


def central_frame_kernel(kernel: np.ndarray, frames: int) -> np.ndarray:
    """The kernel of tubelets that reads their central frame alone.

    Args:
        kernel: [P, D] of patches.
        frames: of a tubelet, whose values are ordered (time, row, column, channel). Of an even number the central one
            is the first of the second half, as in ViViT.

    Returns:
        [frames * P, D].
    """
    empty = np.zeros_like(kernel)
    return np.concatenate([kernel if frame == frames // 2 else empty for frame in range(frames)])


def _started(name: str, shape: tuple[int, ...], arrays: Arrays) -> np.ndarray | None:
    """The variable as the model of clips starts it; `None` if there is nothing to start it from."""
    if name == _TIMES:
        return np.zeros(shape, np.float32)
    array = arrays.get(name)
    if array is None:
        return None
    if name == _KERNEL and shape[0] % len(array) == 0:
        return central_frame_kernel(array, shape[0] // len(array))
    if name == _FREQUENCIES:
        return np.concatenate([np.zeros_like(array[:1]), array])
    return array


def _check_modules(images: Any, clips: Any, path: str) -> None:
    axes = [len(getattr(module, "max_grid", ())) for module in (images, clips)]
    if axes != [2, 3]:
        names = [
            f"{type(module).__name__} with max_grid={getattr(module, 'max_grid', None)}" for module in (images, clips)
        ]
        raise UserError(
            f"{path}: holds {names[0]}, and the model is {names[1]}; expected a NaViT of images, (rows, columns), and "
            "one of clips, (times, rows, columns)"
        )
    if images.patch_size != clips.patch_size:
        raise UserError(
            f"{path}: its `patch_size` is {images.patch_size}, the model's {clips.patch_size}; give the model the same"
        )
    combine = getattr(clips.positions, "keywords", {}).get("combine", Sum())
    if not isinstance(combine, Sum):
        raise UserError(
            f"{path}: positions of time start at zero, which leaves rows and columns as they are only in a Sum(), and "
            f"the model's are combined by {combine}"
        )
