"""Pictures with boxes by a short name, for the command line."""

from pathlib import Path

from vitjax.data.box_folders import BoxFolder
from vitjax.data.coco import CocoFolder
from vitjax.data.digits import DigitScenes
from vitjax.data.images import DEFAULT_MAX_PIXELS
from vitjax.data.tfds_boxes import TfdsBoxes, tfds_boxes
from vitjax.errors import UserError

__all__ = ["open_scenes"]


def open_scenes(
    data: str,
    split: str,
    *,
    num_scenes: int = 1000,
    sides: tuple[int, int] = (96, 224),
    digit_sides: tuple[int, int] = (16, 64),
    max_digits: int = 8,
    seed: int = 0,
    validation_share: float = 0.1,
    masks: bool = False,
    keep_ids: bool = False,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> DigitScenes | BoxFolder | CocoFolder | TfdsBoxes:
    """The source that a short name stands for; the settings of the other kinds have no effect.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitScenes` | `num_scenes`, `sides`, `digit_sides`, `max_digits`, `seed` |
    | `folder:PATH` | `BoxFolder`: a table of boxes, or VOC's xml | `validation_share`, `max_pixels` |
    | `coco:PATH` | `CocoFolder`: a folder, or one json | `masks`, `keep_ids`, `max_pixels` |
    | `tfds:NAME[:CONFIG][/VERSION]` | `tfds_boxes` | `data_dir`, `tfds_split`, `max_pixels` |

    Args:
        data: the short name.
        split: "train" or "validation".
        num_scenes: how many scenes there are; as many are held back for each split.
        sides: shortest and longest side of a scene, pixels.
        digit_sides: smallest and largest height of a digit, pixels.
        max_digits: digits in a scene.
        seed: of the scenes.
        validation_share: share of a folder's pictures that is held back, where it has no split of its own.
        masks: read COCO's segmentations too.
        keep_ids: COCO's category ids as class numbers.
        data_dir: where TFDS keeps its data.
        tfds_split: TFDS split expression in place of the usual one.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitScenes(split, num_scenes, seed, sides, digit_sides, max_digits)
    if kind == "folder" and rest:
        return BoxFolder(rest, split, validation_share=validation_share, max_pixels=max_pixels)
    if kind == "coco" and rest:
        return CocoFolder(rest, split, max_pixels=max_pixels, masks=masks, keep_ids=keep_ids)
    if kind == "tfds" and rest:
        return tfds_boxes(rest, split, data_dir=data_dir, tfds_split=tfds_split, max_pixels=max_pixels)
    hint = f"; did you mean coco:{data} or folder:{data}?" if Path(data).expanduser().exists() else ""
    raise UserError(f"`data`={data!r}, expected digits, folder:PATH, coco:PATH or tfds:NAME[:CONFIG][/VERSION]{hint}")
