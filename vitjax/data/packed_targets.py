"""What a packed batch says about its images beside their patches: a class, boxes, a class for every pixel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from vitjax.data.transforms import apply_transforms

__all__ = ["Blank", "LabelTargets", "PackedTargets", "Window"]


class Window(NamedTuple):
    """How an image was cut: what targets of its patches have to follow."""

    grid: tuple[int, ...]
    """Patches along each axis, before any were dropped."""
    patch_size: int
    """Pixels a side."""
    keep: Int[np.ndarray, " n"]
    """Numbers of the patches that were kept, in raster order."""


class Blank(NamedTuple):
    """What stands where there is nothing."""

    value: np.ndarray
    """In an empty slot, or in a padding token."""
    per_token: bool = False
    """Whether there is one for each token, or one for each slot."""


@runtime_checkable
class PackedTargets(Protocol):
    """Makes the arrays that a packed batch holds beside its patches."""

    def arrange(
        self,
        example: dict[str, Any],
        transforms: tuple[Any, ...],
        generator: np.random.Generator,
        *,
        training: bool,
        num_labels: int,
    ) -> dict[str, Any]:
        """The example after the transforms, which are of the kind that goes with these targets.

        Args:
            example: as the source gives it; changes nothing of it.
            transforms: of the batches.
            generator: the example's own.
            training: whether what is missing is an error.
            num_labels: classes of the source; 0 if unknown.

        Raises:
            UserError: what is trained on lacks something, or the example contradicts itself.
        """
        ...

    def __call__(self, example: dict[str, Any], window: Window) -> dict[str, np.ndarray]:
        """The arrays of one image, by the names of `blanks`; those per token have a leading axis n."""
        ...

    def blanks(self, patch_size: int) -> Mapping[str, Blank]:
        """Name, type and shape of every array, and what it holds where there is no image."""
        ...


@dataclass(frozen=True)
class LabelTargets:
    """One class per image: `label` int32 [B, S], 0 for empty slots and for examples without one."""

    def arrange(
        self,
        example: dict[str, Any],
        transforms: tuple[Any, ...],
        generator: np.random.Generator,
        *,
        training: bool,
        num_labels: int,
    ) -> dict[str, Any]:
        """Transforms of `data.transforms` and `data.augmentation`, applied to the image."""
        del training, num_labels
        return example | {"image": apply_transforms(transforms, example["image"], generator)} if transforms else example

    def __call__(self, example: dict[str, Any], window: Window) -> dict[str, np.ndarray]:
        """The label."""
        return {"label": np.asarray(example.get("label", 0), np.int32)}

    def blanks(self, patch_size: int) -> Mapping[str, Blank]:
        """Class 0."""
        return {"label": Blank(np.zeros((), np.int32))}
