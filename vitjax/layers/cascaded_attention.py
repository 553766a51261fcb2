"""Cascaded group attention inside windows (Liu et al. 2023, section 3.1): EfficientViT's token mixer."""

from collections.abc import Callable, Sequence

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.layers.attention import MAPS
from vitjax.layers.conv_norm import ConvNorm

__all__ = ["CascadedGroupAttention", "WindowAttention", "offset_numbers"]


def offset_numbers(resolution: int) -> np.ndarray:
    """`[N, N]`: the entry of the bias table for each pair of a window's tokens, `|dy| * resolution + |dx|`."""
    rows, columns = np.divmod(np.arange(resolution**2), resolution)
    return np.abs(rows[:, None] - rows) * resolution + np.abs(columns[:, None] - columns)


class CascadedGroupAttention(nn.Module):
    """Eq. 2 to 4: each head sees its own share of the channels, to which the head before it adds its output.

    Queries pass a depthwise convolution inside the window, behind the projection. The gathered biases of all pairs are
    a parameter of their own where `gathered`, which a fused model's are.

    Attributes:
        num_heads: A; shares of the channels.
        query_kernels: side of the query convolution of each head; a longer list's rest is not used.
        key_size: of queries and keys; values are as wide as a head's share.
        gathered: the biases are `[A, N, N]` instead of a table `[A, N]`.
        conv_norm: factory of convolution and norm.
        dtype: compute type.
    """

    num_heads: int
    query_kernels: Sequence[int]
    key_size: int = 16
    gathered: bool = False
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, windows: Float[Array, "W R R C"], train: bool) -> Float[Array, "W R R C"]:
        """Softmax in float32; zeros that fill up a window take part as any token. Maps are of windows, not images."""
        resolution, channels = windows.shape[1], windows.shape[-1]
        length, share, size = resolution**2, channels // self.num_heads, self.key_size
        biases = self._biases(resolution)
        given, outputs, maps = windows[..., :share], [], []
        for head in range(self.num_heads):
            if head:
                given = windows[..., head * share : (head + 1) * share] + outputs[-1]
            qkv = self._make(2 * size + share, name=f"qkv_{head}")(given, train)
            side = self.query_kernels[head]
            query = self._make(size, kernel_size=side, groups=size, name=f"query_{head}")(qkv[..., :size], train)
            query = query.reshape(-1, length, size) * size**-0.5
            tokens = qkv.reshape(-1, length, 2 * size + share)
            key, value = tokens[..., size : 2 * size], tokens[..., 2 * size :]
            logits = jnp.einsum("wnk,wmk->wnm", query, key, preferred_element_type=jnp.float32)
            maps.append(jax.nn.softmax(logits + biases[head], axis=-1))
            outputs.append(jnp.einsum("wnm,wmc->wnc", maps[-1].astype(value.dtype), value).reshape(given.shape))
        if self.is_mutable_collection(MAPS) and not self.is_initializing():
            self.sow(MAPS, "map", jnp.stack(maps, axis=1))
        mixed = nn.relu(jnp.concatenate(outputs, axis=-1))
        return self._make(channels, scale_init=nn.initializers.zeros_init(), name="out")(mixed, train)

    def _make(self, features: int, **keywords: object) -> nn.Module:
        return self.conv_norm(features, dtype=self.dtype, **keywords)

    def _biases(self, resolution: int) -> Array:
        zeros, length = nn.initializers.zeros_init(), resolution**2
        if self.gathered:
            return self.param("gathered_biases", zeros, (self.num_heads, length, length), jnp.float32)
        table = self.param("biases", zeros, (self.num_heads, length), jnp.float32)
        return table[:, offset_numbers(resolution)]


class WindowAttention(nn.Module):
    """Attention inside the windows of a map, which is filled up with zeros at the bottom and the right.

    Attributes:
        resolution: R, rows and columns of a window.
        mix: factory of what acts on the windows `[W, R, R, C]`, called with `name`.
    """

    resolution: int
    mix: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """A map of one window is taken as it is."""
        side, (rows, columns) = self.resolution, x.shape[1:3]
        mix = self.mix(name="windows")
        if (rows, columns) == (side, side):
            return mix(x, train)
        filled = jnp.pad(jnp.asarray(x), ((0, 0), (0, -rows % side), (0, -columns % side), (0, 0)))
        windows = einops.rearrange(filled, "b (h r) (w s) c -> (b h w) r s c", r=side, s=side)
        mixed = mix(windows, train)
        joined = einops.rearrange(mixed, "(b h w) r s c -> b (h r) (w s) c", b=len(x), h=filled.shape[1] // side)
        return joined[:, :rows, :columns]
