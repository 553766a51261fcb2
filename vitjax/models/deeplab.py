"""DeepLabv3: semantic segmentation by dilated convolutions of several rates over a backbone's last stage."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Tree
from vitjax.errors import UserError
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.segmentation_head import as_they_are, classifier
from vitjax.models import mobilevit, mobilevit_v2
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.paths import flatten, unflatten

__all__ = ["MODEL", "VARIANTS", "AtrousPyramid", "DeepLabV3"]


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: what lies near, at several distances, and in the whole image (section 3.3).

    Submodules `branch_0` (1x1), `branch_1` ... (3x3, one per rate), `pooled`, `project`.

    Attributes:
        width: outputs of each branch, and of the whole.
        rates: dilations in pixels of the features.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    width: int = 256
    rates: tuple[int, ...] = (6, 12, 18)
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w width"]:
        """In training the pooled branch's norm sees one value per image, so a batch needs two or more."""
        conv = partial(self.conv_norm, self.width, activation=nn.relu, dtype=self.dtype)
        branches = [conv(name="branch_0")(x, train)]
        for number, rate in enumerate(self.rates, start=1):
            branches.append(conv(kernel_size=3, dilation=rate, name=f"branch_{number}")(x, train))
        pooled = conv(name="pooled")(x.mean(axis=(1, 2), keepdims=True), train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))  # a bilinear resize of one pixel
        return conv(name="project")(jnp.concatenate(branches, axis=-1), train)


class DeepLabV3(nn.Module):
    """A trunk, `AtrousPyramid`, and a 1x1 classifier.

    Rethinking Atrous Convolution for Semantic Image Segmentation. Chen et al., 2017. https://arxiv.org/abs/1706.05587,
    as MobileViT uses it (Mehta and Rastegari, 2022, https://arxiv.org/abs/2110.02178, section 4.2.2).

    Intermediates: the trunk's below `trunk`, and `pyramid` `[B, h, w, aspp_width]`.

    Attributes:
        backbone: factory of a trunk, which takes `output_stride`, `conv_norm`, `dtype`, and gives a dict of stages
            with `stage_5` and, for the auxiliary head, `stage_4`: `MobileViTTrunk`, `MobileViTV2Trunk`.
        num_classes: outputs, the background among them. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that the weights were made for; others work as well.
        aspp_width: outputs of the pyramid: 256 in the paper and for MobileViT, 512 for MobileViTv2.
        rates: of its dilated convolutions, meant for stride 16; twice as much for stride 8.
        dropout_rate: of whole channels, in front of the classifier.
        output_stride: pixels of the image per pixel of the logits, along an axis: 8, 16 or 32.
        auxiliary: factory of a head on stage 4 that is used in training only, such as `AuxiliaryHead`, or `None`.
        upsample: from logits and the images' size to the logits that are returned: `as_they_are` (transformers) or
            `to_corners` (the authors).
        conv_norm: factory of all convolutions with a norm.
        dtype: compute type.
    """

    backbone: Callable[..., nn.Module]
    num_classes: int | None = None
    image_size: int | tuple[int, int] = 512
    aspp_width: int = 256
    rates: tuple[int, ...] = (6, 12, 18)
    dropout_rate: float = 0.1
    output_stride: int = 16
    auxiliary: Callable[..., nn.Module] | None = None
    upsample: Callable[[Array, tuple[int, int]], Array] = as_they_are
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], *, train: bool = False
    ) -> dict[str, Float[Array, "B h w classes"]]:
        """`logits`, and in training `auxiliary` where there is such a head.

        Raises:
            UserError: `num_classes` is not set, or what the trunk raises, such as for a fused model to be trained.
        """
        if not self.num_classes:
            raise UserError(f"DeepLabV3: `num_classes` (={self.num_classes}) must be set: classes and the background")
        parts = {"conv_norm": self.conv_norm, "dtype": self.dtype}
        trunk: Any = self.backbone(output_stride=self.output_stride, **parts, name="trunk")
        stages = trunk(images, train=train)
        x = AtrousPyramid(self.aspp_width, self.rates, **parts, name="aspp")(stages["stage_5"], train)
        self.sow("intermediates", "pyramid", x)
        x = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2), name="dropout")(x, deterministic=not train)
        size = images.shape[1], images.shape[2]
        outputs = {"logits": self.upsample(classifier(self.num_classes, self.dtype, "head")(x), size)}
        if self.auxiliary is not None and (train or self.is_initializing()):
            head: Any = self.auxiliary(num_classes=self.num_classes, **parts, name="auxiliary_head")
            outputs["auxiliary"] = self.upsample(head(stages["stage_4"], train), size)
        return outputs if train else {"logits": outputs["logits"]}

    def fuse(self, variables: Tree) -> "tuple[DeepLabV3, Tree]":
        """The model for inference: norms folded into convolutions, without the auxiliary head; the same logits."""
        kept = {path: leaf for path, leaf in flatten(variables).items() if "/auxiliary_head/" not in path}
        return self.clone(conv_norm=FoldedConv, auxiliary=None), unflatten(fold_norms(kept))


def _trunks(
    trunk: type[nn.Module], variants: Mapping[str, Mapping[str, Any]], **settings: Any
) -> dict[str, dict[str, Any]]:
    """Keywords of `DeepLabV3` by the names of classification models that have such a trunk."""
    fields = trunk.__dataclass_fields__
    return {
        f"deeplabv3_{name}": {
            "backbone": partial(trunk, **{key: value for key, value in keywords.items() if key in fields}),
            "num_classes": 21,
            **settings,
        }
        for name, keywords in variants.items()
        if not name.endswith("_384")
    }


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **_trunks(MobileViTTrunk, mobilevit.VARIANTS),
    **_trunks(MobileViTV2Trunk, mobilevit_v2.VARIANTS, aspp_width=512),
}
"""Name -> keywords of `DeepLabV3`; 20 classes of PASCAL VOC and the background."""

MODEL = DeepLabV3
