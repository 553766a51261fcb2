"""Red, green, blue or the reverse: what a model's weights expect of pictures, which are always read as the former.

Weights trained on pictures read by OpenCV expect blue, green, red. No array tells: the preparation carries it, as a
`ReverseChannels` at the end of its transforms.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import ReverseChannels
from vitjax.errors import UserError

__all__ = ["channel_order_of", "settled_order", "with_channel_order", "without_reversal"]

_REVERSED = {"rgb": False, "bgr": True}


def channel_order_of(transforms: Sequence[Any]) -> str:
    """What comes out of the transforms, "rgb" or "bgr"."""
    return "bgr" if sum(isinstance(transform, ReverseChannels) for transform in transforms) % 2 else "rgb"


def without_reversal(transforms: Sequence[Any]) -> tuple[Any, ...]:
    """The transforms in their order, without those that turn channels round."""
    return tuple(transform for transform in transforms if not isinstance(transform, ReverseChannels))


def settled_order(known: str | None, asked: str | None, place: str) -> str:
    """The order to assume.

    Args:
        known: what the file says; `None` where it says nothing and both are found.
        asked: what the user says, which goes before.
        place: of the file, for messages.

    Raises:
        UserError: nobody says it, or there is no such order.
    """
    if asked is not None and asked not in _REVERSED:
        raise UserError(f"{place}: `channel_order` (={asked!r}) must be one of {', '.join(_REVERSED)}")
    order = asked or known
    if order is None:
        raise UserError(
            f"{place}: nothing says whether these weights expect blue, green, red (transformers', and the authors' "
            "first release) or red, green, blue (later ones); give channel_order='bgr' or channel_order='rgb'"
        )
    return order


def with_channel_order(batches: Any, order: str, place: str) -> Any:
    """The same preparation with channels in this order.

    Raises:
        UserError: the preparation has no transforms of images.
    """
    if channel_order_of(getattr(batches, "transforms", ())) == order:
        return batches
    if not isinstance(batches, ImageBatches):
        raise UserError(f"{place}: `channel_order` (={order!r}): {type(batches).__name__} cannot turn channels round")
    turned = (ReverseChannels(),) if _REVERSED[order] else ()
    return replace(batches, transforms=without_reversal(batches.transforms) + turned)
