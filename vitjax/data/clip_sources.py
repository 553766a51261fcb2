"""Where clips come from: digits that move, folders of animated files, whatever a person has at hand.

Sources as in `data.sources`, with `{"video": uint8 [T, H, W, 3], "label": int, "index": int}`.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from vitjax.data.digit_clips import DigitClips
from vitjax.data.folders import ImageFolder
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_frames
from vitjax.data.sources import ImageList
from vitjax.errors import UserError

__all__ = ["ClipFolder", "ClipList", "open_clips"]

_VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_CONVERT = "no video decoder is among vitjax's dependencies; convert it: ffmpeg -i CLIP.mp4 -c:v libwebp_anim CLIP.webp"


def open_clips(
    data: str,
    split: str,
    *,
    num_clips: int = 1000,
    sides: tuple[int, int] = (32, 64),
    frames: tuple[int, int] = (4, 8),
    seed: int = 0,
    validation_share: float = 0.1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> "DigitClips | ClipFolder":
    """The source of clips that a short name stands for; the settings of the other kind have no effect.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitClips` | `num_clips`, `sides`, `frames`, `seed` |
    | `folder:PATH` | `ClipFolder`: animated GIF, WebP and PNG | `validation_share`, `max_pixels` |

    Args:
        data: the short name.
        split: "train" or "validation".
        num_clips: how many clips of digits there are.
        sides: shortest and longest side of the digits' clips, pixels.
        frames: fewest and most frames of the digits' clips.
        seed: of the digits' looks and motions.
        validation_share: share of a folder that is held back, where it has no folders train/ and val/.
        max_pixels: files with more, all frames together, are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitClips(split, num_clips, seed, sides, frames)
    if kind == "folder" and rest:
        return ClipFolder(rest, split, validation_share, max_pixels)
    if kind == "tfds":
        raise UserError(
            f"`data`={data!r}: TFDS opens its video sets with TensorFlow only, which vitjax does without; write the "
            "clips out as animated files and give folder:PATH"
        )
    hint = f"; did you mean folder:{data}?" if Path(data).expanduser().is_dir() else ""
    raise UserError(f"`data`={data!r}, expected digits or folder:PATH{hint}")


@dataclass(frozen=True)
class ClipFolder:
    """Animated files sorted into one folder per class, in the layouts of `ImageFolder`.

    Frames are taken as they are stored, for however long each is to be shown; a still picture is a clip of one frame.

    Attributes:
        path: the folder.
        split: "train" or "validation".
        validation_share: see `ImageFolder`.
        max_pixels: files with more, all frames together, are refused before they are decoded.

    Raises:
        UserError: see `ImageFolder`; or the clips are in files that need a video decoder.
    """

    path: str
    split: str
    validation_share: float = 0.1
    max_pixels: int = DEFAULT_MAX_PIXELS
    folder: ImageFolder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            folder = ImageFolder(self.path, self.split, self.validation_share)
        except UserError as error:
            videos = [path for path in sorted(Path(self.path).expanduser().rglob("*")) if _is_video(path)]
            if not videos:
                raise
            raise UserError(f"{error}; {videos[0]} is not read: {_CONVERT}") from error
        object.__setattr__(self, "folder", folder)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self.folder.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return self.folder.labels

    def __len__(self) -> int:
        return len(self.folder)

    def example_labels(self) -> np.ndarray:
        """The class of every clip, without reading one."""
        return self.folder.file_labels

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        video = decode_frames(self.folder.files[number], max_pixels=self.max_pixels)
        return {"video": video, "label": int(self.folder.file_labels[number]), "index": number}


@dataclass(frozen=True)
class ClipList:
    """Clips to predict, in the order given: what `ImageList` takes, all frames of each.

    `source[i]` is `{"video": uint8 [T, H, W, 3], "label": 0, "index": i}`.

    Attributes:
        clips: see `ImageList`; arrays may have time in front.
        max_pixels: files with more, all frames together, are refused before they are decoded.

    Raises:
        UserError: see `ImageList`.
    """

    clips: Any
    max_pixels: int = DEFAULT_MAX_PIXELS
    files: ImageList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", ImageList(self.clips))

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "clips"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number: none are known."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """A name per clip: its path or address, else its type and place in the list."""
        return self.files.names

    @property
    def items(self) -> tuple[Any, ...]:
        """What was given, folders and patterns expanded."""
        return self.files.items

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        if isinstance(self.items[number], str) and _is_video(self.items[number]):
            raise BrokenExample(self.names[number], _CONVERT)
        video = decode_frames(self.files.data(number), max_pixels=self.max_pixels, name=self.names[number])
        return {"video": video, "label": 0, "index": number}


def _is_video(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith(_VIDEO_ENDINGS)
