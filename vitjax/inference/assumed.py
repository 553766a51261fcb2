"""How pictures are prepared for a model that comes as a file of weights, which does not say it.

By the class of the module: what the repositories that publish such weights evaluate them with. Weights of other models
were made for mean and deviation 0.5, as the ViT papers'.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide
from vitjax.inference.detr_preparation import detr_batches
from vitjax.inference.naflex_preparation import naflex_preparation
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.efficientvit import EfficientViT
from vitjax.models.mobilevit import MobileViT
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.models.naflex import NaFlexViT
from vitjax.models.resnet import ResNet
from vitjax.models.ssdlite import SSDLite
from vitjax.tasks.classification import Classification
from vitjax.tasks.detection import AnchorDetection
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.segmentation import Segmentation
from vitjax.tasks.set_prediction import SetPrediction

__all__ = ["Assumed", "assumed_of"]


@dataclass(frozen=True)
class Assumed:
    """A preparation of pictures.

    Attributes:
        mean: per channel, 0 to 1.
        std: per channel.
        crop_share: side of the central crop over the shorter side in front of it; `None` squashes the whole picture.
        interpolation: one of `vitjax.data.transforms.INTERPOLATIONS`.
        open_order: layouts of files that are found with both orders of channels; all others' are red, green, blue.
        task: makes the task from `mean` and `std`.
        batches: makes the batches for pictures of the module's size, where they are not `ImageBatches`.
        packed: makes task and batches of a model of packed rows, from a number of tokens and a patch size.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop_share: float | None = 0.875
    interpolation: str = "bicubic"
    open_order: tuple[str, ...] = field(default=())
    task: Callable[..., Any] = Classification
    batches: Callable[[tuple[int, int]], Any] | None = None
    packed: Callable[[int, int], tuple[Any, Any]] | None = None

    def transforms(self, size: tuple[int, int]) -> tuple[Any, ...]:
        """To rows and columns of a picture."""
        if size[0] != size[1] or self.crop_share is None:
            return (Resize(size, self.interpolation),)
        return ResizeShorterSide(math.floor(size[0] / self.crop_share), self.interpolation), CentreCrop(size[0])

    def channel_order(self, layout: str) -> str | None:
        """Of files in a layout, or `None` where both are found."""
        return None if layout in self.open_order else "rgb"


def _coco_panoptic(mean: tuple[float, ...], std: tuple[float, ...]) -> Panoptic:
    """The authors' heads number classes by COCO's ids: up to 90 they are things, above it stuff."""
    return Panoptic(stuff=tuple(range(91, 250)), detection=SetPrediction(mean, std))


def _naflex(tokens: int, patch_size: int) -> tuple[Any, Any]:
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return naflex_preparation(tokens=tokens, patch_size=patch_size, interpolation="bilinear", **statistics)


_PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "crop_share": 256 / 288}
_IMAGENET_STATISTICS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_IMAGENET = Assumed(**_IMAGENET_STATISTICS)

_ASSUMED: Mapping[type, Assumed] = {
    # The authors' first release of MobileViT reads pictures with OpenCV, later ones do not; transformers' files hold
    # the first one's weights, and its processor turns channels round for v2 as well.
    MobileViT: Assumed(**_PLAIN, interpolation="bilinear", open_order=("authors", "huggingface")),
    MobileViTV2: Assumed(**_PLAIN, open_order=("huggingface",)),
    # Every pixel wants its class.
    DeepLabV3: Assumed(
        **{**_PLAIN, "crop_share": None},
        interpolation="bilinear",
        open_order=("authors", "huggingface"),
        task=Segmentation,
    ),
    # Detections are told in pixels of the whole picture.
    SSDLite: Assumed(**{**_PLAIN, "crop_share": None}, open_order=("authors",), task=AnchorDetection),
    EfficientViT: _IMAGENET,
    ResNet: _IMAGENET,
    NaFlexViT: Assumed(packed=_naflex),
    DETR: Assumed(**_IMAGENET_STATISTICS, task=SetPrediction, batches=detr_batches),
    PanopticDETR: Assumed(**_IMAGENET_STATISTICS, task=_coco_panoptic, batches=detr_batches),
}


def assumed_of(module: Any) -> Assumed:
    """What is assumed for the module."""
    return _ASSUMED.get(type(module), Assumed())
