"""Scenes in packed rows: the boxes of each image by its slot, or the classes of each patch's pixels by its token.

Scenes and their transforms are those of `scene_batching`. What is given in 0...1 of a picture stays as it is when the
picture is resized to its grid of patches; a class map is resized with it, by the nearest pixel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.data.packed_targets import Blank, Window
from vitjax.data.rows import cut_patches
from vitjax.data.scene_batching import IGNORED, BoxTargets, ClassMapTargets, ScenePreparation
from vitjax.errors import UserError

__all__ = ["BoxSlots", "ClassMapPatches"]


@dataclass(frozen=True)
class BoxSlots:
    """Boxes of each image: the arrays of `BoxTargets` with an axis of slots, and `image_size` int32 [B, S, 2].

    `boxes` float32 [B, S, T, 4], `labels` int32, `box_mask` and `crowd` bool, `area` float32 [B, S, T]; `image_size` is
    rows and columns of the picture as the source gave it. Transforms are those of `scene_transforms`. Boxes stay
    whatever tokens are dropped.

    Attributes:
        max_boxes: T, the boxes of an image at most.
    """

    max_boxes: int = 100

    def __post_init__(self) -> None:
        self._boxes()

    def _boxes(self) -> BoxTargets:
        return BoxTargets(self.max_boxes)

    def arrange(
        self,
        example: dict[str, Any],
        transforms: tuple[Any, ...],
        generator: np.random.Generator,
        *,
        training: bool,
        num_labels: int,
    ) -> dict[str, Any]:
        """See `ScenePreparation.scene`."""
        return ScenePreparation(transforms, self._boxes(), num_labels, training).scene(example, generator)

    def __call__(self, example: dict[str, Any], window: Window) -> dict[str, np.ndarray]:
        """See `BoxTargets`.

        Raises:
            UserError: there are more boxes than `max_boxes`.
        """
        return {"image_size": example["image_size"], **self._boxes()(example)}

    def blanks(self, patch_size: int) -> Mapping[str, Blank]:
        """No boxes."""
        nothing = self._boxes()({"image": np.zeros((1, 1, 3), np.uint8)})
        return {name: Blank(value) for name, value in ({"image_size": np.zeros(2, np.int32)} | nothing).items()}


@dataclass(frozen=True)
class ClassMapPatches:
    """A class for every pixel of every patch: `class_map` int32 [B, N, p * p], pixels row by row.

    255 where a pixel does not count: in padding, and all over a picture without a map. Transforms are those of
    `scene_transforms`. Tokens may be dropped in training only, for their pixels would count nowhere in the scores.
    """

    def arrange(
        self,
        example: dict[str, Any],
        transforms: tuple[Any, ...],
        generator: np.random.Generator,
        *,
        training: bool,
        num_labels: int,
    ) -> dict[str, Any]:
        """See `ScenePreparation.scene`."""
        scene = ScenePreparation(transforms, ClassMapTargets(), num_labels, training).scene(example, generator)
        return scene | {"may_lose_tokens": training}

    def __call__(self, example: dict[str, Any], window: Window) -> dict[str, np.ndarray]:
        """The classes of the patches that are kept.

        Raises:
            UserError: tokens were dropped outside of training.
        """
        tokens = math.prod(window.grid)
        if len(window.keep) < tokens and not example["may_lose_tokens"]:
            raise UserError(
                f"ClassMapPatches: {tokens - len(window.keep)} of the {tokens} tokens of example "
                f"{example.get('index')} were dropped outside of training, where every pixel counts; leave out "
                "`token_drop` in `evaluation`"
            )
        pixels = window.patch_size**2
        if "class_map" not in example:
            return {"class_map": np.full((len(window.keep), pixels), IGNORED, np.int32)}
        class_map, (rows, columns) = example["class_map"][:, :, None], window.grid
        cut = cut_patches(class_map, (rows, columns), window.patch_size, window.keep, "nearest")
        return {"class_map": cut.astype(np.int32)}

    def blanks(self, patch_size: int) -> Mapping[str, Blank]:
        """Nothing that counts."""
        return {"class_map": Blank(np.full(patch_size**2, IGNORED, np.int32), per_token=True)}
