"""Mixup and CutMix on the device: each image takes a part of its neighbour in the batch.

Both are one formula, `w · image + (1 - w) · partner`, with `w` a number (mixup) or a picture of zeros and ones
(CutMix). The partner of image `i` is image `i - 1` of the whole batch, as in the JAX code that trained the public ViTs;
the order is already random, and rolling an axis that is sharded moves one image per device.

Padding takes no part: an image whose partner is padding stays as it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int, Key, UInt8

__all__ = ["Mixed", "cutmix_weights", "mix", "mixup_weights"]

Images = UInt8[Array, "B H W C"] | Float[Array, "B H W C"]


class Mixed(NamedTuple):
    """A mixed batch.

    Attributes:
        images: float32, in the units of the images that went in.
        partner_labels: class of the other image.
        label_share: share of the image's own label, 0 to 1; the partner's label has the rest.
    """

    images: Float[Array, "B H W C"]
    partner_labels: Int[Array, "B"]
    label_share: Float[Array, "B"]


def mix(
    images: Images,
    labels: Int[Array, "B"],
    image_mask: Bool[Array, "B"],
    pixel_weights: Float[Array, "#B #H #W 1"],
) -> Mixed:
    """Mixes each image with the one before it in the batch.

    Args:
        images: in any units; mixing is linear, so it may come before or after normalisation.
        labels: class numbers.
        image_mask: True = real.
        pixel_weights: `w` above, 0 to 1. Its mean is the share of the image's own label.
    """
    both_real = image_mask & jnp.roll(image_mask, 1)
    weights = jnp.where(both_real[:, None, None, None], pixel_weights, 1.0)
    images = jnp.asarray(images, jnp.float32)
    return Mixed(
        images=weights * images + (1 - weights) * jnp.roll(images, 1, axis=0),
        partner_labels=jnp.roll(jnp.asarray(labels), 1),
        label_share=jnp.mean(weights, axis=(1, 2, 3)),
    )


def mixup_weights(
    key: Key[Array, ""], alpha: float, batch_size: int, *, per_example: bool = False
) -> Float[Array, "B 1 1 1"]:
    """Mixup's weights (Zhang et al., 2018, arXiv:1710.09412): `a ~ Beta(alpha, alpha)`, `w = max(a, 1 - a)`.

    The paper draws `w = a`; the larger of the two has the same mixtures, and the label of an image always names its
    larger part. The public ViTs draw one number per batch.

    Args:
        key: random key.
        alpha: positive; the larger, the closer to halves.
        batch_size: number of images.
        per_example: a number of its own for every image.
    """
    drawn = jax.random.beta(key, alpha, alpha, (batch_size if per_example else 1, 1, 1, 1))
    return jnp.broadcast_to(jnp.maximum(drawn, 1 - drawn), (batch_size, 1, 1, 1))


def cutmix_weights(
    key: Key[Array, ""],
    alpha: float,
    image_shape: tuple[int, int],
    batch_size: int,
    *,
    per_example: bool = False,
) -> Float[Array, "B H W 1"]:
    """CutMix's weights: 0 inside a box that comes from the partner, else 1 (Yun et al., 2019, arXiv:1905.04899).

    The box covers the share `1 - a` of the picture, `a ~ Beta(alpha, alpha)`, with the picture's own aspect ratio and a
    centre anywhere in it (Algorithm 1 of the paper). What reaches over the edge is cut off; since the label's share is
    the mean of these weights, it counts the pixels that were really exchanged.

    Args:
        key: random key.
        alpha: positive; 1 makes all shares equally likely.
        image_shape: (rows, columns).
        batch_size: number of images.
        per_example: a box of its own for every image.
    """
    share_key, centre_key = jax.random.split(key)
    count = batch_size if per_example else 1
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (count, 1)))
    centres = jax.random.uniform(centre_key, (count, 2))
    rows, columns = (
        _inside(centres[:, axis, None], side, size)  # boxes along one axis: [count, size]
        for axis, size in enumerate(image_shape)
    )
    weights = jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0.0, 1.0)
    return jnp.broadcast_to(weights, (batch_size, *image_shape, 1))


def _inside(centres: Array, side: Array, size: int) -> Array:
    """True for the pixels of an axis of `size` that lie in the interval `centres ± side / 2` (shares of the axis)."""
    low = jnp.round((centres - side / 2) * size)
    high = jnp.round((centres + side / 2) * size)
    pixels = jnp.arange(size)
    return (low <= pixels) & (pixels < high)
