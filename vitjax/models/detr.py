"""DETR: objects as a set, from learned queries that a decoder turns into boxes and classes."""

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float, Int, Tree
from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.conv_norm import FoldedConv, fold_norms
from vitjax.layers.convolution import Conv
from vitjax.layers.dense import Dense
from vitjax.models.detr_transformer import Decoder, Encoder, torch_bias, torch_dense
from vitjax.models.resnet import ResNetTrunk
from vitjax.models.vit import check_transformer
from vitjax.ops.attention import attention_report
from vitjax.ops.padded_maps import content_mask, nearest_pixels
from vitjax.ops.sine_positions import masked_sine_positions
from vitjax.paths import flatten, unflatten

__all__ = ["DETR", "MODEL", "VARIANTS", "BoxHead", "Reading"]

_resnet50 = partial(ResNetTrunk, norm=partial(BatchNorm, frozen=True))


class Reading(NamedTuple):
    """All that DETR has made of a batch of pictures in front of its heads; for heads of other kinds, such as masks."""

    maps: dict[str, Array]
    """Of the backbone's stages, `[B, _, _, _]`; where `mask` is False at their resolution they mean nothing."""
    projected: Array
    """The last of them at the transformer's width, `[B, h, w, D]`."""
    mask: Array | None
    """`[B, h, w]`, True where there is picture; `None` where all is."""
    memory: Array
    """What the encoder made of it, `[B, h, w, D]`."""
    states: Array
    """Of the queries behind each decoder block, behind the decoder's norm, `[L, B, Q, D]`."""


class BoxHead(nn.Module):
    """Three linear layers with ReLUs between them, `layer_0` to `layer_2`, and a sigmoid."""

    @nn.compact
    def __call__(self, states: Float[Array, "*leading D"]) -> Float[Array, "*leading 4"]:
        """Centre's column and row, width and height, in 0 to 1 of the picture; float32."""
        width = states.shape[-1]
        keywords: Any = {"kernel_init": torch_dense, "bias_init": torch_bias(width)}
        hidden = nn.relu(Dense(width, **keywords, name="layer_0")(states))
        hidden = nn.relu(Dense(width, **keywords, name="layer_1")(hidden))
        return jax.nn.sigmoid(Dense(4, **keywords, name="layer_2")(hidden))


class DETR(nn.Module):
    """A backbone's map through an encoder; each of Q learned queries, through a decoder, becomes one object or none.

    End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 3.2
    and appendix A.3; where the text leaves it open (initialisation, the norm that all decoder blocks share), as the
    authors' code has it.

    Pictures of several sizes share a batch at the top left of their frames; `content_size` says how large each is.

    Intermediates: the backbone's below `backbone`, `projected`, `encoder/block_{i}_output`, `decoder/block_{i}_output`.
    Attention maps (`analysis.attention_maps`) stand under `encoder/block_{i}/attention`, `[B, A, h*w, h*w]`,
    `decoder/block_{i}/attention` and, where each query looks, `decoder/block_{i}/cross_attention`, `[B, A, Q, h*w]`.

    Attributes:
        num_classes: of objects. `None` is filled in by the trainer.
        image_size: shorter and longer side, at most, of the pictures that the weights were made for, or a number for
            both; others work as well.
        num_queries: Q, more than a picture has objects.
        width: D.
        num_heads: A.
        mlp_width: in the middle of the MLPs.
        encoder_depth: blocks of the encoder.
        decoder_depth: L, blocks of the decoder.
        dropout_rate: of attention probabilities, behind each attention, and twice in each MLP.
        backbone: factory of a module `(images, content_size, train=...) -> {stage: map}`, the last of which the encoder
            reads, with `stride`, the pixels per pixel of that map: `ResNetTrunk`, or those of `detr_backbones`.
        isolate_padding: a padded picture gives what it gives alone. Otherwise padding reaches into it through the
            backbone's convolutions, as in the authors' and transformers' programs.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms, softmax and heads are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = (800, 1333)
    num_queries: int = 100
    width: int = 256
    num_heads: int = 8
    mlp_width: int = 2048
    encoder_depth: int = 6
    decoder_depth: int = 6
    dropout_rate: float = 0.1
    # By a factory: `ToNNX` takes a callable that stands in the class for a method, and the submodule has the same name.
    backbone: Callable[..., nn.Module] = field(default_factory=lambda: _resnet50)
    isolate_padding: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="DETR")
        for name, least in (("num_queries", 1), ("encoder_depth", 0), ("decoder_depth", 1)):
            if getattr(self, name) < least:
                raise UserError(f"DETR: `{name}` (={getattr(self, name)}) must be at least {least}")

    def setup(self) -> None:
        """Submodules `backbone`, `projection`, `encoder`, `decoder`, `class_head`, `box_head`."""
        if not self.num_classes:
            raise UserError(f"DETR: `num_classes` (={self.num_classes}) must be set: classes of objects")
        sizes: Any = {
            "num_heads": self.num_heads, "mlp_width": self.mlp_width, "dropout_rate": self.dropout_rate,
            "dtype": self.dtype,
        }  # fmt: skip
        self.trunk = self.backbone(dtype=self.dtype, name="backbone")
        self.projection = Conv(self.width, kernel_init=torch_dense, dtype=self.dtype)
        self.query_embedding = self.param(
            "query_embedding", nn.initializers.normal(1.0), (self.num_queries, self.width), jnp.float32
        )
        self.encoder = Encoder(self.encoder_depth, **sizes)
        self.decoder = Decoder(self.decoder_depth, **sizes)
        self.class_head = Dense(self.num_classes + 1, kernel_init=torch_dense, bias_init=torch_bias(self.width))
        self.box_head = BoxHead()

    def describe(self, images: Any, content_size: Any = None) -> str:
        """The attention that runs for these inputs, in words."""
        return attention_report(packed=False, dtype=self.dtype)

    def __call__(
        self, images: Float[Array, "B H W C"], content_size: Int[Array, "B 2"] | None = None, *, train: bool = False
    ) -> dict[str, Float[Array, "L B Q _"]]:
        """Predicts a set of Q objects for each picture, once behind every block of the decoder, the last one last.

        Args:
            images: normalised as the weights expect, pictures at the top left.
            content_size: rows and columns of each picture in its image; `None` where pictures fill their images.
            train: whether dropout acts, and batch statistics that are not frozen.

        Returns:
            `logits` `[L, B, Q, num_classes + 1]`, where the last class is no object, and `boxes` `[L, B, Q, 4]`,
            `boxes_cxcywh` in 0 to 1 of the picture; float32.

        Raises:
            UserError: `num_classes` is not set, or what the backbone raises.
        """
        return self.detect(self.read(images, content_size, train=train).states)

    def read(
        self, images: Float[Array, "B H W C"], content_size: Int[Array, "B 2"] | None = None, *, train: bool = False
    ) -> Reading:
        """All but the heads; arguments as for the call."""
        images = jnp.asarray(images, jnp.dtype(self.dtype))
        maps = self.trunk(images, content_size if self.isolate_padding else None, train=train)
        projected = self.projection(list(maps.values())[-1])
        self.sow("intermediates", "projected", projected)
        batch, *sides, width = projected.shape
        mask = (
            None
            if content_size is None
            else self._mask(content_size, (images.shape[1], images.shape[2]), (sides[0], sides[1]))
        )
        everywhere = np.ones((1, *sides), bool) if mask is None else mask
        positions = masked_sine_positions(everywhere, width).astype(projected.dtype)
        positions = jnp.broadcast_to(positions, projected.shape).reshape(-1, width)
        keys = None if mask is None else mask.reshape(batch, 1, -1)
        where: Any = {"batch": batch, "mask": keys, "train": train}
        memory = self.encoder(projected.reshape(-1, width), positions, **where)
        queries = jnp.tile(self.query_embedding.astype(projected.dtype), (batch, 1))
        states = self.decoder(queries, memory, positions, **where)
        return Reading(maps, projected, mask, memory.reshape(projected.shape), states)

    def detect(self, states: Float[Array, "*leading D"]) -> dict[str, Float[Array, "*leading _"]]:
        """The two heads on states of queries."""
        states = jnp.asarray(states, jnp.float32)
        return {"logits": self.class_head(states), "boxes": self.box_head(states)}

    def _mask(self, content_size: Array, frame: tuple[int, int], sides: tuple[int, int]) -> Bool[Array, "B h w"]:
        """Where the map has picture: as many rows and columns as the picture's own map, or those that torch picks."""
        if self.isolate_padding:
            rows, columns = (np.arange(cells) * self.trunk.stride for cells in sides)  # pyright: ignore
        else:
            rows, columns = (nearest_pixels(*pair) for pair in zip(frame, sides, strict=True))
        return content_mask(content_size, rows, columns)

    @property
    def conv_norm(self) -> Any:
        """What the backbone makes its convolutions with, or `None`."""
        return getattr(self.backbone(parent=None), "conv_norm", None)

    def fuse(self, variables: Tree) -> "tuple[DETR, Tree]":
        """The model for inference: the backbone's norms folded into its convolutions; the same outputs.

        Raises:
            UserError: the backbone has no batch norms.
        """
        if self.conv_norm is None:
            name = type(self.backbone(parent=None)).__name__
            raise UserError(f"DETR: the backbone {name} has no batch norms to fold; use the model as it is")
        folded = partial(self.backbone, conv_norm=FoldedConv)
        return self.clone(backbone=folded), unflatten(fold_norms(flatten(dict(variables))))


_resnet101 = partial(_resnet50, depths=(3, 4, 23, 3))
_TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "resnet50": _resnet50,
    "resnet50_dc5": partial(_resnet50, output_stride=16),
    "resnet101": _resnet101,
    "resnet101_dc5": partial(_resnet101, output_stride=16),
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"detr_{name}": {"backbone": trunk, "num_classes": 91} for name, trunk in _TRUNKS.items()
}
"""Name -> keywords of `DETR`. COCO's category ids up to 90 are the classes as they are, 0 and ten others unused."""

MODEL = DETR
