"""A part of a source."""

from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np

from vitjax.errors import UserError

__all__ = ["KeepClasses"]


@dataclass(frozen=True)
class KeepClasses:
    """The examples of some classes of a source, which are numbered anew.

    Which examples these are is asked of `source.example_labels()` where there is one, and otherwise found out by
    reading every example once.

    Attributes:
        source: any source.
        classes: names out of `source.labels`; class number i is the i-th of these.
    """

    source: Any
    classes: tuple[str, ...]
    numbers: np.ndarray = field(init=False, repr=False, compare=False)
    """The examples kept, in the source's order."""

    def __post_init__(self) -> None:
        known = tuple(self.source.labels)
        unknown = [name for name in self.classes if name not in known]
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(
                f"KeepClasses: `classes` (={self.classes}) must be different labels of {self.source.name}, which has "
                f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
            )
        given = getattr(self.source, "example_labels", None)
        labels = [self.source[number]["label"] for number in range(len(self.source))] if given is None else given()
        kept = np.flatnonzero(np.isin(np.asarray(labels), [known.index(name) for name in self.classes]))
        object.__setattr__(self, "numbers", kept)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"{self.source.name}, {len(self.classes)} of {len(self.source.labels)} classes"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return tuple(self.classes)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        example = self.source[int(self.numbers[number])]
        return {**example, "label": self.classes.index(self.source.labels[example["label"]]), "index": number}
