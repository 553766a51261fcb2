"""DETR with a mask for every object: the panoptic head, on the attention of object queries to the encoder's memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float, Int, Tree
from vitjax.errors import UserError
from vitjax.layers.convolution import Conv, convolve
from vitjax.layers.dense import Dense
from vitjax.models import detr
from vitjax.models.detr import DETR, Reading
from vitjax.ops.padded_maps import content_mask, nearest_pixels

__all__ = ["MODEL", "VARIANTS", "MaskAttention", "MaskHead", "PanopticDETR", "upsample_nearest"]

Outputs = dict[str, Array]
Select = Callable[[Outputs], Int[Array, "B P"]]

# torch's kaiming_uniform with a = 1, as the authors: within sqrt(3 / inputs).
_kaiming = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class MaskAttention(nn.Module):
    """Where each query looks: attention without values, whose softmax goes over heads and positions *together*.

    Attributes:
        num_heads: A.
        dtype: compute type; the softmax is float32.
    """

    num_heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, states: Float[Array, "B P D"], memory: Float[Array, "B h w D"], mask: Bool[Array, "B h w"] | None
    ) -> Float[Array, "B P h w A"]:
        """All A maps of a query add up to 1; `mask` is True where there is picture."""
        width = states.shape[-1]
        dense = partial(Dense, width, dtype=self.dtype)
        split = {"a": self.num_heads}
        query = einops.rearrange(dense(name="query")(states), "b p (a k) -> b p a k", **split)
        key = einops.rearrange(dense(name="key")(memory), "b h w (a k) -> b h w a k", **split)
        scale = (width // self.num_heads) ** -0.5
        logits = jnp.asarray(jnp.einsum("bpak,bhwak->bphwa", query * scale, key), jnp.float32)
        if mask is not None:
            logits = jnp.where(mask[:, None, :, :, None], logits, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(logits, axis=(2, 3, 4)).astype(states.dtype)


class ContentGroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) with statistics of the picture's pixels, in float32.

    Attributes:
        num_groups: 8 as the authors, fewer where there are fewer channels.
        epsilon: torch's.
    """

    num_groups: int = 8
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B P h w C"], mask: Bool[Array, "B h w"] | None) -> Float[Array, "B P h w C"]:
        """Where `mask` is False the values count for nothing and become anything.

        Raises:
            UserError: the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % min(self.num_groups, channels):
            raise UserError(
                f"PanopticDETR: a norm of {self.num_groups} groups cannot divide {channels} channels; choose the "
                "detector's `width` + `num_heads`, and `width` / 16 where it is above 8, as multiples of 8"
            )
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        groups = jnp.asarray(x, jnp.float32).reshape(*x.shape[:4], min(self.num_groups, channels), -1)
        where = None if mask is None else mask[:, None, :, :, None, None]
        centred = groups - groups.mean(axis=(2, 3, 5), keepdims=True, where=where)
        variance = jnp.square(centred).mean(axis=(2, 3, 5), keepdims=True, where=where)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape) * scale + bias
        return y.astype(x.dtype)


class MaskConv(nn.Module):
    """A 3x3 convolution over what all queries of an image share, beside what each has of its own.

    The function is that of a convolution of both, concatenated for each query; by linearity the shared part, most of
    the channels, is done once.

    Attributes:
        features: outputs.
    """

    features: int

    @nn.compact
    def __call__(
        self, shared: Float[Array, "B h w D"] | None, own: Float[Array, "B P h w C"]
    ) -> Float[Array, "B P h w features"]:
        """The shared channels are the kernel's first."""
        common = 0 if shared is None else shared.shape[-1]
        shape = (3, 3, common + own.shape[-1], self.features)
        kernel = self.param("kernel", _kaiming, shape, jnp.float32).astype(own.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(own.dtype)
        y = convolve(own.reshape(-1, *own.shape[2:]), kernel[:, :, common:])
        y = y.reshape(*own.shape[:2], *y.shape[1:]) + bias
        return y if shared is None else y + convolve(shared, kernel[:, :, :common])[:, None]


class MaskHead(nn.Module):
    """Attention maps and features grow to a mask in four steps, each with a finer map of the backbone ("FPN-style").

    Submodules `conv_1` ... `conv_5` (3x3), `norm_1` ... `norm_5`, `adapter_1` ... `adapter_3` (1x1 of the backbone's
    maps, coarse to fine), `out`.

    Attributes:
        width: D of the transformer; the channels are D + A, D/2, D/4, D/8, D/16 and 1.
        dtype: compute type; norms are float32.
    """

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        projected: Float[Array, "B h w D"],
        attention: Float[Array, "B P h w A"],
        levels: Sequence[Float[Array, "B _ _ _"]],
        masks: Sequence[Bool[Array, "B _ _"] | None],
    ) -> Float[Array, "B P H W"]:
        """Logits of each query's mask at the size of the last level.

        Args:
            projected: what the encoder read.
            attention: of `MaskAttention`.
            levels: three maps of the backbone, coarse to fine.
            masks: of the attention's map and of each level, True where there is picture; `None` where all is.
        """
        widths = [projected.shape[-1] + attention.shape[-1], *(self.width // 2**n for n in (1, 2, 3, 4))]

        def step(number: int, shared: Array | None, x: Array, mask: Array | None) -> Array:
            shared = None if shared is None else _cleared(shared[:, None], mask)[:, 0]
            x = MaskConv(widths[number - 1], name=f"conv_{number}")(shared, _cleared(x, mask))
            return nn.relu(ContentGroupNorm(name=f"norm_{number}")(x, mask))

        x = step(1, projected, attention, masks[0])
        x = step(2, None, x, masks[0])
        for number, (level, mask) in enumerate(zip(levels, masks[1:], strict=True), start=1):
            adapter = Conv(widths[number], kernel_init=_kaiming, dtype=self.dtype, name=f"adapter_{number}")
            x = adapter(level)[:, None] + upsample_nearest(x, level.shape[1:3])
            x = step(number + 2, None, x, mask)
        return MaskConv(1, name="out")(None, _cleared(x, masks[-1]))[..., 0]


def upsample_nearest(x: Float[Array, "B P h w C"], size: tuple[int, ...]) -> Float[Array, "B P H W C"]:
    """Each pixel takes that of index `floor(i h / H)`, torch's rule; `jax.image.resize` takes another one."""
    for axis, new in zip((2, 3), size, strict=True):
        places = nearest_pixels(x.shape[axis], new)
        if np.array_equal(places, np.arange(new) // 2):  # no gather, whose gradient would be a scatter
            x = jax.lax.slice_in_dim(jnp.repeat(x, 2, axis=axis), 0, new, axis=axis)
        elif x.shape[axis] != new:
            x = jnp.take(x, places, axis=axis)
    return jnp.asarray(x)


def _content_of(level: Array, content_size: Array, frame: tuple[int, int]) -> Bool[Array, "B h w"]:
    """Where a map of the frame has picture; frames are multiples of the strides."""
    sides = level.shape[1:3]
    cells = -(-jnp.asarray(content_size) * np.array(sides) // np.array(frame))
    return content_mask(cells, np.arange(sides[0]), np.arange(sides[1]))


def _cleared(x: Array, mask: Array | None) -> Array:
    return x if mask is None else jnp.where(mask[:, None, :, :, None], x, 0)


class PanopticDETR(nn.Module):
    """`DETR`, and a mask of every object at a quarter of the image's resolution.

    End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 4.4
    and figure 8; sizes, norms and the joint softmax as in the authors' code. Things and stuff are objects alike.

    Variables stand under DETR's own paths, so its weights fill them as they are; the head's are `mask_attention` and
    `mask_head`.

    Masks take most of the memory. In training those of the queries that `select` names are made, no others; and
    `query_chunk` at a time, the next when the last is done, while the backward pass makes each again. A chunk in which
    no picture has an object is not computed at all.

    Intermediates: those of `DETR`, and `mask_maps` `[B, P, h, w, A]`.

    Attributes:
        num_classes: of things and stuff. `None` is filled in by the trainer.
        image_size: see `DETR`.
        detector: factory of the `DETR`; its backbone gives four maps or more, of which the last four count.
        query_chunk: queries of each picture whose masks are made at a time; `None` makes all at once.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = (800, 1066)
    detector: Callable[..., DETR] = DETR
    query_chunk: int | None = 20

    def setup(self) -> None:
        """DETR's submodules beside `mask_attention` and `mask_head`."""
        self.boxes = self.detector(num_classes=self.num_classes, image_size=self.image_size)
        nn.share_scope(self, self.boxes)
        self.mask_attention = MaskAttention(self.boxes.num_heads, dtype=self.boxes.dtype)
        self.mask_head = MaskHead(self.boxes.width, dtype=self.boxes.dtype)

    def describe(self, images: Any, content_size: Any = None, select: Any = None) -> str:
        """The attention that runs for these inputs, in words."""
        return self._unbound().describe(images, content_size)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        content_size: Int[Array, "B 2"] | None = None,
        *,
        select: Select | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """Predicts a set of objects and their masks.

        Args:
            images: see `DETR`, as `content_size`.
            content_size: rows and columns of each picture in its image.
            select: from the outputs of `DETR` to the P queries of each picture whose masks are needed in training, -1
                for none; all are made without it, and outside training.
            train: whether dropout acts.

        Returns:
            Those of `DETR`, and `masks` float32 `[B, Q, h, w]`, logits at the backbone's finest resolution; of selected
            queries `[B, P, h, w]`, and what `select` said as `mask_queries` int32 `[B, P]`: a mask of -1 means nothing.

        Raises:
            UserError: the backbone has fewer than four maps, or what `DETR` raises.
        """
        reading = self.boxes.read(images, content_size, train=train)
        outputs = self.boxes.detect(reading.states)
        states = reading.states[-1]
        needed = jnp.ones(states.shape[:2], bool)
        if train and select is not None:
            queries = outputs["mask_queries"] = jax.lax.stop_gradient(jnp.asarray(select(outputs), jnp.int32))
            states = jnp.take_along_axis(states, jnp.maximum(queries, 0)[..., None], axis=1)
            needed = queries >= 0
        levels, masks = self._levels(reading, content_size, (images.shape[1], images.shape[2]))
        attention = self.mask_attention(states, reading.memory, reading.mask)
        self.sow("intermediates", "mask_maps", attention)
        made = self._in_chunks(reading.projected, attention, needed, levels, masks)
        return {**outputs, "masks": made.astype(jnp.float32)}

    def _levels(
        self, reading: Reading, content_size: Array | None, frame: tuple[int, int]
    ) -> tuple[list[Array], list[Array | None]]:
        """The backbone's maps from the last but one on, coarse to fine, and where all four have picture."""
        maps = list(reading.maps.values())
        if len(maps) < 4:
            raise UserError(
                f"PanopticDETR: the backbone gives {len(maps)} maps ({', '.join(reading.maps)}); the mask head needs "
                "four of them, such as ResNetTrunk's"
            )
        levels = maps[-2:-5:-1]
        if content_size is None or not self.boxes.isolate_padding:
            return levels, [None] * 4
        return levels, [reading.mask, *(_content_of(level, content_size, frame) for level in levels)]

    def _in_chunks(
        self, projected: Array, attention: Array, needed: Array, levels: list[Array], masks: list[Array | None]
    ) -> Float[Array, "B P h w"]:
        count, size = attention.shape[1], self.query_chunk
        if size is None or size >= count or self.is_initializing():
            return self.mask_head(projected, attention, levels, masks)
        shape = (attention.shape[0], size, *levels[-1].shape[1:3])

        def cut(x: Array) -> Array:
            fill = [(0, -count % size) if axis == 1 else (0, 0) for axis in range(x.ndim)]
            return einops.rearrange(jnp.pad(x, fill), "b (n p) ... -> n b p ...", p=size)

        def body(head: MaskHead, carry: tuple, chunk: tuple[Array, Array]) -> tuple[tuple, Array]:
            maps, wanted = chunk

            def make(head: MaskHead) -> Array:
                return head(projected, maps, levels, masks).astype(jnp.float32)

            return carry, nn.cond(wanted.any(), make, lambda _: jnp.zeros(shape, jnp.float32), head)

        scan = nn.scan(nn.remat(body), variable_broadcast="params", split_rngs={"params": False})
        _, made = scan(self.mask_head, (), (cut(attention), cut(needed)))
        return einops.rearrange(made, "n b p h w -> b (n p) h w")[:, :count]

    def _unbound(self) -> DETR:
        return self.detector(num_classes=self.num_classes, image_size=self.image_size, parent=None)

    @property
    def conv_norm(self) -> Any:
        """What the backbone makes its convolutions with, or `None`."""
        return self._unbound().conv_norm

    def fuse(self, variables: Tree) -> "tuple[PanopticDETR, Tree]":
        """The model for inference; see `DETR.fuse`."""
        fused, folded = self._unbound().fuse(variables)
        return self.clone(detector=partial(self.detector, backbone=fused.backbone)), folded


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{name}_panoptic": {
        "detector": partial(DETR, **{key: value for key, value in keywords.items() if key != "num_classes"}),
        "num_classes": 250,
    }
    for name, keywords in detr.VARIANTS.items()
}
"""Name -> keywords of `PanopticDETR`; COCO's ids of things and stuff reach 200, and the authors left room."""

MODEL = PanopticDETR
