"""NaViT for image-text contrastive training: packed image tower, packed text tower, and the classifier they make."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.errors import UserError
from vitjax.layers.attention import SelfAttention
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.pooling import AttentionPooling
from vitjax.layers.transformer import MLP, Block
from vitjax.models.navit import NaViT
from vitjax.models.vit import check_transformer
from vitjax.ops.activations import gelu
from vitjax.ops.attention import attend_packed, packed_plan

__all__ = ["NaViTContrastive", "TextTower", "ZeroShotNaViT"]

_norm = functools.partial(LayerNorm, use_bias=False)


class TextTower(nn.Module):
    """Packed texts to one vector each: the image tower's blocks over learned token and position embeddings.

    Attention and pooling see only the text's own tokens, all of them: there is no causal mask. No biases, queries and
    keys normalised, attention pooling, as in the image tower.

    Attributes:
        vocabulary_size: token ids are below it.
        max_tokens: of a text.
        width: D.
        depth: L.
        num_heads: A.
        mlp_width: size in the middle of the MLPs.
        norm: factory of the blocks' and the final norm.
        query_norm: factory of the norm of queries; `None` for none.
        key_norm: likewise for keys.
        activation: of the MLPs.
        dropout_rate: after the positions, after the attention, and twice in the MLP.
        remat: recompute each block in the backward pass.
        attention_implementation: see `vitjax.ops.attention.select_packed_attention`.
        dtype: compute type.
    """

    vocabulary_size: int
    max_tokens: int = 24
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_width: int = 2048
    norm: Callable[..., nn.Module] = _norm
    query_norm: Callable[..., nn.Module] | None = _norm
    key_norm: Callable[..., nn.Module] | None = _norm
    activation: Callable[[Array], Array] = gelu
    dropout_rate: float = 0.0
    remat: bool = False
    attention_implementation: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="TextTower")

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B N"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N"],
        num_slots: int,
        *,
        train: bool = False,
    ) -> Float[Array, "B S D"]:
        """One vector for each slot; an id or position without an embedding gives NaN, never another's.

        Args:
            tokens: ids.
            segments: the text of each token, 1…S; 0 is padding.
            positions: place of each token in its text.
            num_slots: S.
            train: whether dropout acts.
        """
        batch, length = segments.shape
        small = nn.initializers.normal(0.02)
        embeddings = self.param("token_embedding", small, (self.vocabulary_size, self.width), jnp.float32)
        places = self.param("position_embedding", small, (self.max_tokens, self.width), jnp.float32)
        vectors = _rows_of(embeddings, tokens) + _rows_of(places, positions)
        vectors = vectors.reshape(-1, self.width).astype(jnp.dtype(self.dtype))
        vectors = nn.Dropout(self.dropout_rate, deterministic=not train)(vectors)
        vectors = self._encode(vectors, jnp.asarray(segments), train)
        vectors = self.norm(dtype=self.dtype, name="final_norm")(vectors).reshape(batch, length, -1)
        pool = AttentionPooling(
            num_heads=self.num_heads,
            mlp=self._mlp(),
            norm=functools.partial(self.norm, dtype=self.dtype),
            use_bias=False,
            query_norm=self.query_norm,
            key_norm=self.key_norm,
            dtype=self.dtype,
            name="pooling",
        )
        return pool(vectors, jnp.asarray(segments), num_slots, train)

    def _encode(self, vectors: Array, segments: Array, train: bool) -> Array:
        attend = attend_packed(packed_plan(segments), implementation=self.attention_implementation)
        texts = jnp.zeros(segments.size, jnp.int32)  # only stochastic depth asks which is whose, and there is none
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        for number in range(self.depth):
            vectors = block(
                attention=functools.partial(
                    SelfAttention,
                    num_heads=self.num_heads,
                    use_qkv_bias=False,
                    use_out_bias=False,
                    query_norm=self.query_norm,
                    key_norm=self.key_norm,
                    dtype=self.dtype,
                ),
                mlp=self._mlp(),
                norm=functools.partial(self.norm, dtype=self.dtype),
                dropout_rate=self.dropout_rate,
                name=f"block_{number}",
            )(vectors, attend, texts, train)
        return vectors

    def _mlp(self) -> Callable[..., nn.Module]:
        return functools.partial(
            MLP, width=self.mlp_width, activation=self.activation, use_bias=False, dropout_rate=self.dropout_rate,
            dtype=self.dtype,
        )  # fmt: skip


def _rows_of(table: jax.Array, numbers: Array) -> jax.Array:
    return jnp.asarray(table).at[jnp.asarray(numbers)].get(mode="fill", fill_value=jnp.nan)


class NaViTContrastive(nn.Module):
    """Two towers whose vectors of an image and of its text shall be alike.

    Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution. Dehghani et al., 2023.
    https://arxiv.org/abs/2307.06304. Section 3.3 and appendix B.2: both towers packed, attention pooling, softmax loss
    with a learned temperature. The bias, and its start, are those of the sigmoid loss (Zhai et al., 2023,
    arXiv:2303.15343, section 3.2).

    Attributes:
        vocabulary_size: of the tokenizer; `None` is filled in by `programs.contrastive`.
        image: factory of the image tower, a `NaViT`; its `num_classes` is set to 0.
        text: factory of the text tower, called with `vocabulary_size`.
        width: of the vectors that are compared, made by a projection of each tower's.
        initial_scale: inverse temperature at the start; its logarithm is learned. The sigmoid paper has 10.
        max_scale: the scale never exceeds it, and stays there once it has (CLIP: 100); `None` for no limit.
        initial_bias: of all logits, learned, for the sigmoid loss (which starts at -10); `None` for no bias.
    """

    vocabulary_size: int | None = None
    image: Callable[..., nn.Module] = NaViT
    text: Callable[..., nn.Module] = TextTower
    width: int = 512
    initial_scale: float = 10.0
    max_scale: float | None = 100.0
    initial_bias: float | None = None

    def setup(self) -> None:
        """Makes the towers, which several methods use."""
        if self.vocabulary_size is None:
            raise UserError("NaViTContrastive: `vocabulary_size` is not set; give that of the batches' tokenizer")
        self.image_tower = self.image(num_classes=0)
        self.text_tower = self.text(vocabulary_size=self.vocabulary_size)
        self.image_projection = Dense(self.width, use_bias=False)
        self.text_projection = Dense(self.width, use_bias=False)
        start = nn.initializers.constant(math.log(self.initial_scale))
        self.log_scale = self.param("log_scale", start, (), jnp.float32)
        if self.initial_bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.initial_bias), (), jnp.float32)

    def __call__(
        self,
        patches: Float[Array, "B N P"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N 2"],
        grid_sizes: Int[Array, "B S 2"],
        *,
        text_tokens: Int[Array, "rows tokens"],
        text_segments: Int[Array, "rows tokens"],
        text_positions: Int[Array, "rows tokens"],
        text_mask: Bool[Array, "rows texts"],
        buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """Unit vectors of all image slots and all text slots, and what turns their products into logits.

        Args:
            patches: as `NaViT` takes them, and so are the next three.
            segments: see there.
            positions: see there.
            grid_sizes: see there.
            text_tokens: ids.
            text_segments: the text of each token, 1…texts; 0 is padding.
            text_positions: place of each token in its text.
            text_mask: which slots hold a text; only its shape counts.
            buckets: of the images, see `NaViT`.
            train: whether dropout and stochastic depth act.

        Returns:
            `images` float32 `[B, S, width]`, `texts` `[rows, texts, width]`, `scale` `[]`, and with a bias `bias` `[]`.
        """
        images = self.encode_images(patches, segments, positions, grid_sizes, buckets=buckets, train=train)
        texts = self.encode_texts(text_tokens, text_segments, text_positions, text_mask, train=train)
        outputs = {"images": images, "texts": texts, "scale": self.scale()}
        return outputs if self.initial_bias is None else outputs | {"bias": self.logit_bias}

    def scale(self) -> jax.Array:
        """Inverse temperature."""
        return _bounded_exponential(self.log_scale, self.max_scale)

    def encode_images(
        self,
        patches: Float[Array, "B N P"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N 2"],
        grid_sizes: Int[Array, "B S 2"],
        *,
        buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
        train: bool = False,
    ) -> Float[Array, "B S width"]:
        """Unit vectors of all image slots."""
        pooled = self.image_tower(patches, segments, positions, grid_sizes, buckets=buckets, train=train)
        return _unit(self.image_projection(pooled))

    def encode_texts(
        self,
        text_tokens: Int[Array, "rows tokens"],
        text_segments: Int[Array, "rows tokens"],
        text_positions: Int[Array, "rows tokens"],
        text_mask: Bool[Array, "rows texts"],
        *,
        train: bool = False,
    ) -> Float[Array, "rows texts width"]:
        """Unit vectors of all text slots."""
        pooled = self.text_tower(text_tokens, text_segments, text_positions, text_mask.shape[1], train=train)
        return _unit(self.text_projection(pooled))

    def describe(
        self, patches: Any, segments: Any, positions: Any, grid_sizes: Any, buckets: Any = None, **texts: Any
    ) -> str:
        """The attention that runs for the images of these inputs, in words."""
        tower: Any = self.image(num_classes=0, parent=None)
        return tower.describe(patches, segments, positions, grid_sizes, buckets)


class ZeroShotNaViT(nn.Module):
    """The image tower of `NaViTContrastive` with a vector per class for its head; made by `inference.zero_shot`.

    Attributes:
        num_classes: vectors there are.
        image: factory of the image tower.
        width: of the vectors.
        max_scale: see `NaViTContrastive`.
    """

    num_classes: int
    image: Callable[..., nn.Module] = NaViT
    width: int = 512
    max_scale: float | None = 100.0

    def setup(self) -> None:
        """Makes what `NaViTContrastive` has under the same names, and the class vectors."""
        self.image_tower = self.image(num_classes=0)
        self.image_projection = Dense(self.width, use_bias=False)
        self.log_scale = self.param("log_scale", nn.initializers.zeros_init(), (), jnp.float32)
        shape = (self.num_classes, self.width)
        self.class_vectors = self.param("class_vectors", nn.initializers.normal(1.0), shape, jnp.float32)

    def __call__(
        self,
        patches: Float[Array, "B N P"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N 2"],
        grid_sizes: Int[Array, "B S 2"],
        *,
        buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
        train: bool = False,
    ) -> Float[Array, "B S classes"]:
        """Scaled similarity of every image with every class; see `NaViT` for the arguments."""
        pooled = self.image_tower(patches, segments, positions, grid_sizes, buckets=buckets, train=train)
        similarity = jnp.einsum(
            "bsd,cd->bsc", _unit(self.image_projection(pooled)), _unit(self.class_vectors), precision="highest"
        )
        return _bounded_exponential(self.log_scale, self.max_scale) * similarity


def _unit(vectors: Array) -> jax.Array:
    """Scaled to length 1, in float32."""
    vectors = jnp.asarray(vectors, jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), 1e-12))


def _bounded_exponential(exponent: Array, largest: float | None) -> jax.Array:
    """Without gradient beyond the bound, so that the parameter does not wander off."""
    value = jnp.exp(jnp.asarray(exponent))
    return value if largest is None else jnp.minimum(value, largest)
