"""What `predict` returns: one Result per input."""

from dataclasses import dataclass, field

import numpy as np

from vitjax.arrays import Float
from vitjax.errors import UserError

__all__ = ["Prediction", "Result"]


@dataclass(frozen=True)
class Prediction:
    """One class and its score.

    Attributes:
        label: name of the class.
        score: probability in `[0, 1]`.
        index: number of the class in the model's output.
    """

    label: str
    score: float
    index: int

    def __str__(self) -> str:
        return f"{self.label} {self.score:.3f}"


@dataclass(frozen=True, eq=False)
class Result:
    """The scores of one image, or what was wrong with it.

    Attributes:
        name: path, URL, or `image 3` for the fourth input where that has no name of its own.
        labels: class names.
        scores: probability of each class in `[0, 1]`; `None` if there is an `error`.
        error: why the image could not be read, or `None`.
        top_k: how many classes are printed.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    scores: Float[np.ndarray, "classes"] | None = None
    error: str | None = None
    top_k: int = 5

    def top(self, k: int | None = None) -> tuple[Prediction, ...]:
        """The `k` classes with the highest scores, best first; all there are if there are fewer.

        Args:
            k: at least 1; `top_k` by default.

        Raises:
            UserError: the image could not be read, or `k` is no positive number.
        """
        k = self.top_k if k is None else k
        if k < 1:
            raise UserError(f"`k` (={k}) must be 1 or more")
        if self.scores is None:
            raise UserError(f"{self.name}: there are no scores, {self.error}; look at `result.error` first")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return tuple(Prediction(self.labels[index], float(self.scores[index]), int(index)) for index in order)

    @property
    def top1(self) -> Prediction:
        """The class with the highest score."""
        return self.top(1)[0]

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: {self.error}"
        return f"{self.name}: {', '.join(map(str, self.top()))}"

    def __repr__(self) -> str:
        return f"Result({self})"
