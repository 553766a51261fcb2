"""transformers' DETR, of boxes or of segments, read from and written to a folder: `config.json` and image processor.

Defaults are those of its config class. Its backbone is timm's ResNet or its own.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_transforms import SceneResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference.detr_preparation import detr_batches
from vitjax.inference.foreign_types import Description, Holding, Parts, demand, need
from vitjax.inference.huggingface_parts import check_class, labels_of
from vitjax.inference.huggingface_processors import RESAMPLING, read_processor, statistics_of
from vitjax.inference.writing_preparation import labels_of as written_labels
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.resnet import VARIANTS as RESNETS
from vitjax.models.resnet import ResNetTrunk
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction

__all__ = ["detr_to_huggingface", "panoptic_to_huggingface", "read_detr", "with_own_resnet", "with_timms_resnet"]

_SIDES = (("encoder_attention_heads", "decoder_attention_heads", 8), ("encoder_ffn_dim", "decoder_ffn_dim", 2048))
_IN_TRAINING = ("encoder_layerdrop", "decoder_layerdrop")
_TRUNK = functools.partial(ResNetTrunk, norm=functools.partial(BatchNorm, frozen=True))
_STUFF = "label_ids_to_fuse"
"""What transformers' image processor calls the stuff where it makes segments; its own files do not have it."""
_FIRST_STUFF = 91
"""Of COCO's ids, by which the authors and transformers number the classes of their panoptic weights."""


def read_detr(config: dict[str, Any], file: Path) -> Description:
    """`DetrForObjectDetection`, `DetrForSegmentation`; pictures of a batch do not see each other's padding here.

    Raises:
        UserError: another class, or a value that is missing, out of range or of another network.
    """
    of_class = _CLASSES[check_class(config, file, tuple(_CLASSES))]
    for key, only in (("position_embedding_type", "sine"), ("activation_function", "relu")):
        if config.get(key, only) != only:
            raise UserError(f"{file}: `{key}` (={config[key]!r}): only {only!r} is known here")
    for one, other, default in _SIDES:
        sizes = [need(config, key, int, file, default) for key in (one, other)]
        if sizes[0] != sizes[1]:
            raise UserError(f"{file}: `{one}` (={sizes[0]}) and `{other}` (={sizes[1]}) must be equal here")
    notes: list[str] = []
    labels = labels_of(config, file, notes)
    rate = float(need(config, "dropout", (int, float), file, 0.1))
    lost = [key for key in _IN_TRAINING if config.get(key)]
    lost += [key for key in ("attention_dropout", "activation_dropout") if config.get(key, 0.0) != rate]
    if lost:
        notes.append(f"of use in training only, and not taken over: {', '.join(lost)}; `dropout_rate` is {rate}")
    trunk, layout = _read_backbone(config, file)
    task, batches, size = _read_preparation(file.parent, notes)
    sizes = {
        "num_queries": need(config, "num_queries", int, file, 100),
        "width": need(config, "d_model", int, file, 256),
        "num_heads": need(config, "encoder_attention_heads", int, file, 8),
        "mlp_width": need(config, "encoder_ffn_dim", int, file, 2048),
        "encoder_depth": need(config, "encoder_layers", int, file, 6),
        "decoder_depth": need(config, "decoder_layers", int, file, 6),
        "dropout_rate": rate,
        "backbone": trunk,
    }
    read_stuff = functools.partial(_read_stuff, config, len(labels), file, notes)
    target, keywords, task = of_class(sizes, task, read_stuff)
    keywords |= {"num_classes": len(labels), "image_size": size}
    return Description(target, keywords, layout, task, batches, labels, notes=tuple(notes))


def _of_boxes(
    sizes: dict[str, Any], task: SetPrediction, read_stuff: Callable[[], tuple[int, ...]]
) -> tuple[type, dict[str, Any], Any]:
    return DETR, sizes, task


def _of_segments(
    sizes: dict[str, Any], task: SetPrediction, read_stuff: Callable[[], tuple[int, ...]]
) -> tuple[type, dict[str, Any], Any]:
    return PanopticDETR, {"detector": functools.partial(DETR, **sizes)}, Panoptic(read_stuff(), task)


_CLASSES: Mapping[str, Callable[..., tuple[type, dict[str, Any], Any]]] = {
    "DetrForObjectDetection": _of_boxes,
    "DetrForSegmentation": _of_segments,
}
"""Class of transformers -> what makes target, keywords and task of the transformer's sizes and the boxes' task."""


def _read_stuff(config: Mapping[str, Any], classes: int, file: Path, notes: list[str]) -> tuple[int, ...]:
    """Class numbers of stuff."""
    stuff = config.get(_STUFF)
    if stuff is None:
        stuff = tuple(range(_FIRST_STUFF, classes))
        notes.append(
            f"it does not say which classes are stuff; by COCO's numbers it is those from {_FIRST_STUFF} on, of which "
            f"there are {len(stuff)}; `{_STUFF}`, a list of class numbers, in config.json says it otherwise"
        )
    if not isinstance(stuff, list | tuple) or any(not isinstance(n, int) or not 0 <= n < classes for n in stuff):
        raise UserError(f"{file}: `{_STUFF}` (={stuff!r:.60}) must be a list of class numbers, 0 to {classes - 1}")
    return tuple(stuff)


def _read_backbone(config: Mapping[str, Any], file: Path) -> tuple[Any, str]:
    """The factory of the trunk, and the layout that has its names."""
    body = config.get("backbone_config")
    if body is not None and not isinstance(body, Mapping):
        raise UserError(f"{file}: `backbone_config` must be an object, found {body!r:.60}")
    kind = body.get("model_type") if body else "timm_backbone" if config.get("use_timm_backbone", True) else "resnet"
    body = body or {}
    if kind == "resnet":
        if body.get("layer_type", "bottleneck") != "bottleneck" or body.get("downsample_in_bottleneck"):
            raise UserError(
                f"{file}: `backbone_config`: only bottlenecks that stride in their 3x3 convolution are known"
            )
        width = need(body, "embedding_size", int, file, 64)
        hidden = tuple(need(body, "hidden_sizes", (list, tuple), file, (256, 512, 1024, 2048)))
        if hidden != tuple(4 * width * 2**stage for stage in range(4)):
            raise UserError(
                f"{file}: `hidden_sizes` (={hidden}) must begin with 4 `embedding_size` (={width}) and double"
            )
        depths = tuple(need(body, "depths", (list, tuple), file, (3, 4, 6, 3)))
        return functools.partial(_TRUNK, depths=depths, width=width), "huggingface"
    name = body.get("backbone") or config.get("backbone") or "resnet50"
    plain = str(name).split(".")[0]
    if kind != "timm_backbone" or plain not in RESNETS:
        raise UserError(
            f"{file}: the backbone {name!r} ({kind}) is unknown here; known: {', '.join(RESNETS)} of timm, resnet"
        )
    stride = body.get("output_stride") or (16 if config.get("dilation") else 32)
    return functools.partial(_TRUNK, depths=RESNETS[plain]["depths"], output_stride=stride), "huggingface_timm"


def _read_preparation(folder: Path, notes: list[str]) -> tuple[SetPrediction, PaddedSceneBatches, tuple[int, int]]:
    """Task, batches, and the sides of pictures, from the image processor's file; what it does by itself without one."""
    found = read_processor(folder)
    if found is None:
        notes.append("there is no preprocessor_config.json beside it; pictures are prepared as the authors do")
    file, given = found or (folder / "preprocessor_config.json", {})
    processor = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225), **given}
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if not need(processor, key, bool, file, True):
            raise UserError(f"{file}: `{key}` (=false): DETR's pictures are resized, rescaled and normalised here")
    size = processor.get("size") or {"shortest_edge": 800, "longest_edge": 1333}
    if isinstance(size, int):  # of older files
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size", 1333)}
    if set(size) != {"shortest_edge", "longest_edge"}:
        raise UserError(f"{file}: `size` (={size}) must have shortest_edge and longest_edge")
    sides = (int(size["shortest_edge"]), int(size["longest_edge"]))
    number = need(processor, "resample", int, file, 2)
    if number not in RESAMPLING:
        raise UserError(f"{file}: `resample` (={number}) must be one of {RESAMPLING}")
    mean, std = statistics_of(processor, file)
    return SetPrediction(mean=mean, std=std), detr_batches(sides, interpolation=RESAMPLING[number]), sides


# ------------------------------------------------------------------------------------------------- writing

Backbone = Callable[[ResNetTrunk, tuple[str, ...]], dict[str, Any]]
"""From a trunk, and the names of the stages that are read, to what `config.json` says of it."""


def with_own_resnet(trunk: ResNetTrunk, stages: tuple[str, ...]) -> dict[str, Any]:
    """Transformers' own ResNet, of any sizes.

    Raises:
        UserError: the trunk is dilated.
    """
    demand(trunk.output_stride == 32, f"`output_stride` (={trunk.output_stride}): its own ResNet is never dilated")
    body = {
        "model_type": "resnet", "num_channels": 3, "embedding_size": trunk.width,
        "hidden_sizes": [4 * trunk.width * 2**stage for stage in range(4)], "depths": list(trunk.depths),
        "layer_type": "bottleneck", "hidden_act": "relu", "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False, "out_features": list(stages),
    }  # fmt: skip
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": body, "dilation": False}


def with_timms_resnet(trunk: ResNetTrunk, stages: tuple[str, ...]) -> dict[str, Any]:
    """Timm's ResNet, which a name says all of; all of its stages are read, and the last may be dilated.

    Raises:
        UserError: no name says the trunk.
    """
    names = [name for name, sizes in RESNETS.items() if tuple(sizes["depths"]) == tuple(trunk.depths)]
    demand(
        trunk.width == 64 and bool(names) and trunk.output_stride in (16, 32),
        f"`backbone`: of {', '.join(RESNETS)}, dilated by 2 or not, none has `depths` (={tuple(trunk.depths)}), "
        f"`width` (={trunk.width}) and `output_stride` (={trunk.output_stride})",
    )
    return {"use_timm_backbone": True, "backbone": names[0], "dilation": trunk.output_stride == 16}


def detr_to_huggingface(bundle: Holding, backbone: Backbone = with_own_resnet) -> tuple[Parts, set[str]]:
    """`DetrForObjectDetection`.

    Args:
        bundle: with a `DETR`.
        backbone: what the config says of its trunk.

    Raises:
        UserError: another backbone, or a preparation without words.
    """
    demand(isinstance(bundle.task, SetPrediction), "its task is no set prediction")
    stages = ("stage4",)
    config = {"architectures": ["DetrForObjectDetection"], **_words_of(bundle.module, stages, backbone)}
    return _parts(bundle, config, "coco_detection"), {"backbone"}


def panoptic_to_huggingface(bundle: Holding, backbone: Backbone = with_own_resnet) -> tuple[Parts, set[str]]:
    """`DetrForSegmentation`; which classes are stuff stands beside what transformers itself writes.

    Args:
        bundle: with a `PanopticDETR`.
        backbone: what the config says of its trunk.

    Raises:
        UserError: another backbone, or a preparation without words.
    """
    module = bundle.module
    demand(isinstance(bundle.task, Panoptic), "its task is no panoptic segmentation")
    detector = module.detector(num_classes=module.num_classes, image_size=module.image_size, parent=None)
    words = _words_of(detector, ("stage1", "stage2", "stage3", "stage4"), backbone)
    config = {"architectures": ["DetrForSegmentation"], **words, _STUFF: list(bundle.task.stuff)}
    return _parts(bundle, config, "coco_panoptic"), {"detector"}


def _words_of(module: Any, stages: tuple[str, ...], backbone: Backbone) -> dict[str, Any]:
    """A `DETR` in the words of `DetrConfig`."""
    trunk = module.backbone(parent=None)
    demand(isinstance(trunk, ResNetTrunk), f"`backbone`: it has none like {type(trunk).__name__}")
    return {
        "model_type": "detr", "is_encoder_decoder": True,
        "num_channels": 3, "num_queries": module.num_queries, "d_model": module.width,
        "encoder_layers": module.encoder_depth, "decoder_layers": module.decoder_depth,
        "encoder_attention_heads": module.num_heads, "decoder_attention_heads": module.num_heads,
        "encoder_ffn_dim": module.mlp_width, "decoder_ffn_dim": module.mlp_width, "activation_function": "relu",
        "dropout": module.dropout_rate, "attention_dropout": module.dropout_rate,
        "activation_dropout": module.dropout_rate, "position_embedding_type": "sine",
        "use_pretrained_backbone": False, **backbone(trunk, stages), "dtype": "float32",
    }  # fmt: skip


def _parts(bundle: Holding, config: dict[str, Any], form: str) -> Parts:
    """The two files; `form` of annotations is what the image processor calls its `format`."""
    transforms = getattr(bundle.batches, "transforms", ())
    resize: Any = transforms[-1] if transforms else None
    known = isinstance(resize, SceneResizeShorterSide) and len(transforms) == 1 and isinstance(resize.size, int)
    demand(known, f"the preparation {tuple(transforms)} has no words there, only one SceneResizeShorterSide has")
    numbers = {name: number for number, name in RESAMPLING.items()}
    size = {"shortest_edge": resize.size, "longest_edge": resize.longest or 10**6}
    processor = {
        "image_processor_type": "DetrImageProcessor", "format": form, "do_resize": True, "size": size,
        "resample": numbers[resize.interpolation], "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(bundle.task.mean), "image_std": list(bundle.task.std), "do_pad": True,
    }  # fmt: skip
    return {"config.json": config | written_labels(bundle), "preprocessor_config.json": processor}
