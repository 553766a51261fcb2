"""Maps of pictures that fill only the top left of their frame: which pixels are a picture's, and the rest cleared."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float, Int

__all__ = ["clear_padding", "content_mask", "halved_size", "nearest_pixels"]


def content_mask(
    content_size: Int[Array, "B 2"], rows: Sequence[int] | np.ndarray, columns: Sequence[int] | np.ndarray
) -> Bool[Array, "B h w"]:
    """True where a map's pixel belongs to the picture.

    Args:
        content_size: rows and columns of each picture inside its frame, in the frame's pixels.
        rows: the row of the frame that stands for each row of the map.
        columns: likewise.
    """
    high, wide = (
        np.asarray(places)[None] < jnp.asarray(content_size)[:, axis, None]
        for axis, places in enumerate((rows, columns))
    )
    return high[:, :, None] & wide[:, None, :]


def nearest_pixels(frame: int, cells: int) -> np.ndarray:
    """The pixel of the frame that torch's `interpolate(mode="nearest")` takes for each cell of a map: `floor(i H/h)`.

    With torch's float32 step, which decides where the quotient is nearly whole.
    """
    places = np.floor(np.arange(cells, dtype=np.float32) * np.float32(frame / cells)).astype(int)
    return np.minimum(places, frame - 1)


def halved_size(content_size: Int[Array, "B 2"] | None, stride: int) -> Int[Array, "B 2"] | None:
    """The picture's rows and columns behind a convolution or pooling with that stride: `ceil(size / stride)`."""
    return None if content_size is None else -(-jnp.asarray(content_size) // stride)


def clear_padding(maps: Float[Array, "B h w C"], content_size: Int[Array, "B 2"] | None) -> Float[Array, "B h w C"]:
    """Zeros outside the pictures, as a convolution finds them around a picture that is alone.

    Args:
        maps: of any stage.
        content_size: rows and columns of each picture in `maps`; `None` leaves all as it is.
    """
    if content_size is None:
        return jnp.asarray(maps)
    mask = content_mask(content_size, np.arange(maps.shape[1]), np.arange(maps.shape[2]))
    return jnp.where(mask[..., None], jnp.asarray(maps), 0)
