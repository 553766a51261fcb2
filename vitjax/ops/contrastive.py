"""Contrastive losses of image-text pairs as their papers write them: one value per pair, over all B x B similarities.

`ops.contrastive_chunks` computes the same numbers without the B x B matrix.
"""

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float
from vitjax.ops.segments import MASKED

__all__ = ["pair_logits", "sigmoid_pair_losses", "softmax_pair_losses"]


def pair_logits(images: Float[Array, "B D"], texts: Float[Array, "C D"]) -> Float[Array, "B C"]:
    """Similarity of every image with every text, float32, before scale and bias."""
    # In full precision: at the usual scales of 10 to 100 the rounding of bfloat16 products moves a logit by 0.1.
    return jnp.einsum("bd,cd->bc", images, texts, precision="highest", preferred_element_type=jnp.float32)


def softmax_pair_losses(
    images: Float[Array, "B D"], texts: Float[Array, "B D"], mask: Bool[Array, "B"], scale: Float[Array, ""]
) -> Float[Array, "B"]:
    """`½ (log Σ_j exp(l_ij) + log Σ_j exp(l_ji)) - l_ii` with `l_ij = scale · images_i · texts_j`.

    Each image against all texts, each text against all images (Radford et al., 2021, arXiv:2103.00020, figure 3).

    Args:
        images: unit vectors; pair i is `images[i]` and `texts[i]`.
        texts: unit vectors.
        mask: True = real. Other pairs are in no sum, and their losses are 0.
        scale: inverse temperature, above 0.
    """
    logits, mask = scale * pair_logits(images, texts), jnp.asarray(mask)
    of_images = jax.nn.logsumexp(jnp.where(mask[None, :], logits, MASKED), axis=1)
    of_texts = jax.nn.logsumexp(jnp.where(mask[:, None], logits, MASKED), axis=0)
    return jnp.where(mask, (of_images + of_texts) / 2 - jnp.diagonal(logits), 0.0)


def sigmoid_pair_losses(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    mask: Bool[Array, "B"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, "B"]:
    """`-Σ_j log σ(z_ij l_ij)` with `l_ij = scale · images_i · texts_j + bias`, z = 1 for i = j and -1 otherwise.

    Every image with every text is a decision of its own (Zhai et al., 2023, arXiv:2303.15343, equation 1).

    Args:
        images: unit vectors; pair i is `images[i]` and `texts[i]`.
        texts: unit vectors.
        mask: True = real. Other pairs are in no sum, and their losses are 0.
        scale: inverse temperature, above 0.
        bias: of all logits; the paper starts at -10, for there are many more wrong pairs than right ones.
    """
    logits, mask = scale * pair_logits(images, texts) + bias, jnp.asarray(mask)
    # -log σ(-l) = softplus(l), and -log σ(l) = softplus(l) - l
    refused = jnp.where(mask[:, None] & mask[None, :], jax.nn.softplus(logits), 0.0).sum(axis=1)
    return jnp.where(mask, refused - jnp.diagonal(logits), 0.0)
