"""DETR's transformer: post-norm blocks whose positions enter every attention, at queries and keys alone."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float
from vitjax.layers.attention import MAPS
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.ops.attention import dense_attention
from vitjax.ops.fusion import end_fusion

__all__ = [
    "Attention",
    "Decoder",
    "DecoderBlock",
    "Encoder",
    "EncoderBlock",
    "FeedForward",
    "torch_bias",
    "torch_dense",
]

_norm = partial(LayerNorm, epsilon=1e-5)

# Of one matrix [3D, D] of queries, keys and values, each of which alone would have a bound larger by sqrt(2).
_joint_xavier = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")

torch_dense = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within `1 / sqrt(inputs)`: what torch begins a linear layer or a convolution with."""


def torch_bias(inputs: int) -> Any:
    """The initialiser of the bias of a layer with that many inputs, within the same bound."""

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return draw


class Attention(nn.Module):
    """Multi-head attention of some tokens to others (Vaswani et al. 2017, section 3.2.2), on a flat trunk.

    Attributes:
        num_heads: A.
        dropout_rate: of attention probabilities.
        dtype: compute type.
    """

    num_heads: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "BQ D"],
        keys: Float[Array, "BM D"],
        values: Float[Array, "BM D"],
        *,
        batch: int,
        mask: Bool[Array, "B #queries M"] | None,
        train: bool,
    ) -> Float[Array, "BQ D"]:
        """Attends within each of the `batch` images.

        Args:
            queries: tokens that ask, positions added, of one image after another.
            keys: tokens that are compared, positions added.
            values: the same tokens without them.
            batch: B.
            mask: True for tokens that may be looked at, by each query or by all of them; `None` for all.
            train: whether dropout acts.
        """
        width = queries.shape[-1]

        def project(name: str, tokens: Array) -> Array:
            dense = Dense(width, kernel_init=_joint_xavier, dtype=self.dtype, name=name)
            return dense(tokens).reshape(batch, -1, self.num_heads, width // self.num_heads)

        query, key, value = project("query", queries), project("key", keys), project("value", values)
        allowed = None if mask is None else mask[:, None]
        if self.is_mutable_collection(MAPS) and not self.is_initializing():
            # Attention is linear in its values: of unit vectors it makes its own map.
            units = jnp.eye(key.shape[1], dtype=value.dtype)[None, :, None]
            units = jnp.broadcast_to(units, (*key.shape[:3], key.shape[1]))
            self.sow(MAPS, "map", dense_attention(query, key, units, allowed).swapaxes(1, 2))
        drops = train and self.dropout_rate > 0
        dropout_key = self.make_rng("dropout") if drops else None
        outputs = dense_attention(query, key, value, allowed, dropout_rate=self.dropout_rate, dropout_key=dropout_key)
        return Dense(width, dtype=self.dtype, name="out")(outputs.reshape(-1, width))


class FeedForward(nn.Module):
    """Two linear layers and a ReLU between them: `expand`, `contract`.

    Attributes:
        width: in between.
        dropout_rate: behind the ReLU.
        dtype: compute type.
    """

    width: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "T D"], train: bool) -> Float[Array, "T D"]:
        """Position-wise."""
        inputs = tokens.shape[-1]
        expand = Dense(self.width, dtype=self.dtype, bias_init=torch_bias(inputs), name="expand")
        contract = Dense(inputs, dtype=self.dtype, bias_init=torch_bias(self.width), name="contract")
        hidden = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(expand(tokens)))
        return contract(hidden)


class EncoderBlock(nn.Module):
    """`norm(x + attention(x))`, then `norm(x + mlp(x))`.

    Attributes:
        num_heads: A.
        mlp_width: in the middle of the MLP.
        dropout_rate: of attention probabilities, behind the attention, and twice in the MLP.
        dtype: compute type.
    """

    num_heads: int
    mlp_width: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "BM D"],
        positions: Float[Array, "BM D"],
        *,
        batch: int,
        mask: Bool[Array, "B #queries M"] | None,
        train: bool,
    ) -> Float[Array, "BM D"]:
        """One block; `mask` as for `Attention`. What is masked is computed as well, and looked at by nobody."""
        tokens = end_fusion(tokens)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        placed = tokens + positions
        where: Any = {"batch": batch, "mask": mask, "train": train}
        attend = Attention(self.num_heads, self.dropout_rate, self.dtype, name="attention")
        tokens = tokens + drop(attend(placed, placed, tokens, **where))
        tokens = _norm(dtype=self.dtype, name="norm_1")(tokens)
        mlp = FeedForward(self.mlp_width, self.dropout_rate, self.dtype, name="mlp")
        return _norm(dtype=self.dtype, name="norm_2")(tokens + drop(mlp(tokens, train)))


class DecoderBlock(nn.Module):
    """Queries attend to each other, then to the image, then the MLP; a norm behind each sum.

    Attributes: those of `EncoderBlock`.
    """

    num_heads: int
    mlp_width: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        targets: Float[Array, "BQ D"],
        queries: Float[Array, "BQ D"],
        memory: Float[Array, "BM D"],
        placed_memory: Float[Array, "BM D"],
        *,
        batch: int,
        slots: int = 1,
        mask: Bool[Array, "B #queries M"] | None,
        train: bool,
    ) -> Float[Array, "BQ D"]:
        """One block.

        Args:
            targets: what has been found so far.
            queries: the queries' embeddings, which are their positions.
            memory: the encoder's tokens.
            placed_memory: the same with their positions.
            batch: B, rows of `memory`.
            slots: pictures of a row, each with as many queries, which see only one another.
            mask: True for tokens of `memory` that a query may look at; `None` for all.
            train: whether dropout acts.
        """
        targets = end_fusion(targets)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        parts: Any = {"num_heads": self.num_heads, "dropout_rate": self.dropout_rate, "dtype": self.dtype}
        norm = partial(_norm, dtype=self.dtype)
        placed = targets + queries
        attend = Attention(**parts, name="attention")
        found = attend(placed, placed, targets, batch=batch * slots, mask=None, train=train)
        targets = norm(name="norm_1")(targets + drop(found))
        attend = Attention(**parts, name="cross_attention")
        found = attend(targets + queries, placed_memory, memory, batch=batch, mask=mask, train=train)
        targets = norm(name="norm_2")(targets + drop(found))
        mlp = FeedForward(self.mlp_width, self.dropout_rate, self.dtype, name="mlp")
        return norm(name="norm_3")(targets + drop(mlp(targets, train)))


class Encoder(nn.Module):
    """`depth` blocks, and no norm behind the last.

    Intermediates: `block_{i}_output`, `[B, M, D]`.

    Attributes:
        depth: blocks; 0 gives the tokens back.
        num_heads: see `EncoderBlock`, as all others.
    """

    depth: int
    num_heads: int
    mlp_width: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "BM D"],
        positions: Float[Array, "BM D"],
        *,
        batch: int,
        mask: Bool[Array, "B #queries M"] | None,
        train: bool,
    ) -> Float[Array, "BM D"]:
        """The memory that the decoder reads."""
        for number in range(self.depth):
            block = EncoderBlock(self.num_heads, self.mlp_width, self.dropout_rate, self.dtype, name=f"block_{number}")
            tokens = block(tokens, positions, batch=batch, mask=mask, train=train)
            self.sow("intermediates", f"block_{number}_output", tokens.reshape(batch, -1, tokens.shape[-1]))
        return tokens


class Decoder(nn.Module):
    """`depth` blocks, and one norm that is applied to what leaves each of them, while the un-normed goes on.

    Intermediates: `block_{i}_output`, `[B, Q, D]`, in front of the norm.

    Attributes:
        depth: blocks.
        num_heads: see `DecoderBlock`, as all others.
    """

    depth: int
    num_heads: int
    mlp_width: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "BQ D"],
        memory: Float[Array, "BM D"],
        positions: Float[Array, "BM D"],
        *,
        batch: int,
        slots: int = 1,
        mask: Bool[Array, "B #queries M"] | None,
        train: bool,
    ) -> Float[Array, "L images Q D"]:
        """Normed states of the queries behind every block, the last one last; the first begins with zeros.

        Arguments as for `DecoderBlock`; `images` is `batch * slots`.
        """
        where: Any = {"batch": batch, "slots": slots, "mask": mask, "train": train}
        norm = _norm(dtype=self.dtype, name="norm")
        placed, targets, states = memory + positions, jnp.zeros_like(queries), []
        for number in range(self.depth):
            block = DecoderBlock(self.num_heads, self.mlp_width, self.dropout_rate, self.dtype, name=f"block_{number}")
            targets = block(targets, queries, memory, placed, **where)
            self.sow("intermediates", f"block_{number}_output", targets.reshape(batch * slots, -1, targets.shape[-1]))
            states.append(norm(targets).reshape(batch * slots, -1, targets.shape[-1]))
        return jnp.stack(states)
