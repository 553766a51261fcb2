"""The pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2 and 3), its MLP, and stochastic depth."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.layers.dense import Dense
from vitjax.ops.activations import gelu
from vitjax.ops.attention import Attend
from vitjax.ops.fusion import end_fusion

__all__ = ["MLP", "Block", "DropPath"]


class MLP(nn.Module):
    """Expands each token, applies the nonlinearity, and contracts it again.

    Attributes:
        width: size in between.
        activation: the nonlinearity.
        use_bias: biases of both layers.
        dropout_rate: after the nonlinearity and after the second layer.
        dtype: compute type.
    """

    width: int
    activation: Callable[[Array], Array] = gelu
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "*leading D"], train: bool = False) -> Float[Array, "*leading D"]:
        """Position-wise."""
        bias_init = nn.initializers.normal(1e-6)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        expand = Dense(self.width, use_bias=self.use_bias, dtype=self.dtype, bias_init=bias_init, name="expand")
        contract = Dense(
            tokens.shape[-1], use_bias=self.use_bias, dtype=self.dtype, bias_init=bias_init, name="contract"
        )
        return drop(contract(drop(self.activation(expand(tokens)))))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): leaves a branch out for a whole image, and scales up the ones kept.

    Attributes:
        rate: probability that an image loses the branch.
    """

    rate: float

    @nn.compact
    def __call__(self, branch: Float[Array, "T D"], images: Int[Array, "T"], train: bool) -> Float[Array, "T D"]:
        """Keeps the expectation; `images` numbers the image of each token, below T."""
        if not train or self.rate == 0:
            return branch
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (branch.shape[0],))
        factor = jnp.where(kept[images], 1 / (1 - self.rate), 0.0)
        return branch * factor[:, None].astype(branch.dtype)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    The trunk is flat, `[B*N, D]`: otherwise XLA on CPU fuses the backward pass's whole chain of residuals into every
    consumer, at a cost that grows with depth.

    Attributes:
        attention: factory, called with `name`.
        mlp: factory, called with `name`.
        norm: factory, called with `name`.
        dropout_rate: after the attention's output projection.
        drop_path_rate: of both branches.
    """

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "T D"], attend: Attend, images: Int[Array, "T"], train: bool
    ) -> Float[Array, "T D"]:
        """One block; `images` numbers the image of each token, for stochastic depth."""
        tokens = end_fusion(tokens)
        drop_path = DropPath(self.drop_path_rate)
        branch = self.attention(name="attention")(self.norm(name="attention_norm")(tokens), attend)
        branch = nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        tokens = tokens + drop_path(branch, images, train)
        branch = self.mlp(name="mlp")(self.norm(name="mlp_norm")(tokens), train)
        return tokens + drop_path(branch, images, train)
