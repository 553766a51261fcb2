"""Losses of a mask for each object, as DETR's panoptic head is trained with. One value per mask, float32."""

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Bool, Float

__all__ = ["dice_loss", "mask_focal_loss"]


def mask_focal_loss(
    logits: Float[Array, "*B H W"], masks: Bool[Array, "*B H W"], *, alpha: float = 0.25, gamma: float | int = 2
) -> Float[Array, "*B"]:
    """The mean over the pixels of `-α_t (1 - p_t)^γ log p_t`, p_t the probability given to the truth.

    Focal Loss for Dense Object Detection. Lin et al., 2017. https://arxiv.org/abs/1708.02002, equation 5; the mean over
    pixels is DETR's.

    Args:
        logits: of each pixel's being in the object.
        masks: True = in the object.
        alpha: weight of the object's pixels; `1 - alpha` of the others.
        gamma: 0 is cross-entropy.
    """
    losses = optax.sigmoid_focal_loss(
        jnp.asarray(logits, jnp.float32), jnp.asarray(masks, jnp.float32), alpha=alpha, gamma=gamma
    )
    return losses.mean(axis=(-2, -1))


def dice_loss(logits: Float[Array, "*B H W"], masks: Bool[Array, "*B H W"]) -> Float[Array, "*B"]:
    """`1 - (2 Σ p t + 1) / (Σ p + Σ t + 1)`, p the probability of each pixel and t the truth; in 0...1.

    V-Net. Milletari et al., 2016. https://arxiv.org/abs/1606.04797, section 3, with DETR's ones (appendix A.2), which
    make the loss of a mask that is empty on both sides 0.

    Args:
        logits: of each pixel's being in the object.
        masks: True = in the object.
    """
    inside = jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))
    truth = jnp.asarray(masks, jnp.float32)
    shared, both = ((values.sum(axis=(-2, -1))) for values in (inside * truth, inside + truth))
    return 1 - (2 * shared + 1) / (both + 1)
