"""Mobile networks, ResNet and DeepLabv3 in the words of timm's and transformers' configs."""

from collections.abc import Callable, Mapping
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.inference.foreign_types import Holding, Parts, demand, one_if_equal
from vitjax.inference.preparation import image_shape_of
from vitjax.inference.writing_preparation import demand_rgb, labels_of, processor_of, timm_config
from vitjax.models import list_models, variant_of
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.tasks.classification import Classification

__all__ = [
    "deeplab_to_huggingface",
    "efficientvit_to_timm",
    "mobilevit_to_huggingface",
    "mobilevit_to_timm",
    "mobilevit_v2_to_huggingface",
    "resnet_to_huggingface",
    "resnet_to_timm",
]

_NO_SIZES = ("num_classes", "image_size", "dropout_rate", "transformer_dropout_rate", "conv_norm", "dtype")
"""Settings that play no part in which architecture it is."""


def _check(bundle: Holding) -> None:
    task, batches = bundle.task, bundle.batches
    demand(
        isinstance(task, Classification) and isinstance(batches, ImageBatches), "it classifies images of one size"
    )  # fmt: skip
    demand(bool(bundle.module.num_classes), "`num_classes` (=0): it needs a head")


# -------------------------------------------------------------------------------------------------- timm


def _settings(module: Any) -> dict[str, Any]:
    """Sizes of a module by name."""
    fields = type(module).__dataclass_fields__
    return {name: getattr(module, name) for name in fields if name not in ("parent", "name", *_NO_SIZES)}


def mobilevit_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """MobileViT, v1 and v2: the architecture's name says everything.

    Raises:
        UserError: no architecture has these sizes, or the preparation has no words.
    """
    _check(bundle)
    demand_rgb(bundle)
    module = bundle.module
    demand(module.output_stride == 32, f"`output_stride` (={module.output_stride}) means other dilations there")
    own = _settings(module)
    found = [
        name
        for name, (target, keywords) in _variants_of(type(module)).items()
        # Names for other sizes of images are ours alone.
        if not name.endswith("_384") and _settings(target(**keywords)) == own
    ]
    demand(bool(found), f"no architecture has its sizes, {own}, and arguments cannot say them")
    width = getattr(module, "final_width", 0) or _last_width(module)
    names = {"first_conv": "stem.conv", "classifier": "head.fc"}
    return {"config.json": timm_config(bundle, found[0], {}, num_features=width, fixed_input_size=False, **names)}, {
        "dilate_blocks"
    }


def _last_width(module: Any) -> int:
    return round(512 * module.width_multiplier)


def efficientvit_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """EfficientViT of any sizes, as arguments of `efficientvit_m0`.

    Raises:
        UserError: the model is pruned or distilled, or the preparation has no words.
    """
    _check(bundle)
    module = bundle.module
    demand(not module.distilled, "`distilled`: it has one head")
    demand(not module.channel_sizes, "`channel_sizes`: it has no pruned models")
    stages = len(module.widths)
    demand(stages == 3, f"`widths` (={module.widths}): it has three stages")
    arguments = {
        "img_size": list(image_shape_of(module)),
        "embed_dim": list(module.widths),
        "depth": list(module.depths),
        "num_heads": list(module.num_heads),
        "kernels": list(module.query_kernels),
        "key_dim": [module.key_size] * stages,
        "window_size": [module.window_size] * stages,
    }
    names = {"first_conv": "patch_embed.conv1.conv", "classifier": "head.linear"}
    config = timm_config(
        bundle, "efficientvit_m0", arguments, num_features=module.widths[-1], fixed_input_size=True, **names
    )
    made, own = tuple(config["pretrained_cfg"]["input_size"][1:]), image_shape_of(module)
    demand(made == own, f"the preparation makes {made} px, the model takes {own}")
    return {"config.json": config}, set()


def resnet_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """ResNet of any depths, as arguments of `resnet50`.

    Raises:
        UserError: it has another width, or the preparation has no words.
    """
    _check(bundle)
    module = bundle.module
    demand(module.width == 64, f"`width` (={module.width}): it has 64")
    known = {tuple(keywords["depths"]): name for name, (_, keywords) in _variants_of(type(module)).items()}
    arguments: dict[str, Any] = {}
    if tuple(module.depths) not in known:
        arguments["layers"] = list(module.depths)
    if module.output_stride != 32:
        arguments["output_stride"] = module.output_stride
    name = known.get(tuple(module.depths), "resnet50")
    names = {"first_conv": "conv1", "classifier": "fc"}
    config = timm_config(bundle, name, arguments, num_features=2048, fixed_input_size=False, **names)
    return {"config.json": config}, set()


def _variants_of(kind: type) -> dict[str, tuple[Any, dict[str, Any]]]:
    found = {name: variant_of(name) for name in list_models()}
    return {name: variant for name, variant in found.items() if variant[0] is kind}


# ------------------------------------------------------------------------------------------ Hugging Face


def _to_huggingface(
    bundle: Holding, name: str, model_type: str, sizes: Mapping[str, Any], head: str = "ForImageClassification"
) -> Parts:
    module = bundle.module
    config = {
        "architectures": [f"{name}{head}"],
        "model_type": model_type,
        "image_size": one_if_equal(image_shape_of(module)),
        "patch_size": 2,
        "num_channels": 3,
        "conv_kernel_size": 3,
        "layer_norm_eps": 1e-5,
        "output_stride": module.output_stride,
        **sizes,
        **labels_of(bundle),
        "dtype": "float32",
    }
    processor = processor_of(bundle, image_shape_of(module))
    return {"config.json": config, "preprocessor_config.json": processor}


def _sizes_of_v1(trunk: Any) -> dict[str, Any]:
    demand(tuple(trunk.depths) == (2, 4, 3), f"`depths` (={trunk.depths}): it has 2, 4 and 3 layers")
    return {
        "hidden_sizes": list(trunk.transformer_widths),
        # The last is the convolution's in front of the classifier, if there is one.
        "neck_hidden_sizes": [*trunk.widths, getattr(trunk, "final_width", 4 * trunk.widths[-1])],
        "num_attention_heads": trunk.num_heads,
        "mlp_ratio": 2.0,
        "expand_ratio": float(trunk.expansion),
        "hidden_act": "silu",
        "hidden_dropout_prob": trunk.transformer_dropout_rate,
        "attention_probs_dropout_prob": 0.0,
        "qkv_bias": True,
    }


def _sizes_of_v2(trunk: Any, output_stride: int, size: tuple[int, int]) -> dict[str, Any]:
    demand(
        output_stride == 32 or not trunk.dilate_blocks, "`dilate_blocks`: it never dilates them; False changes it"
    )  # fmt: skip
    odd = [side for side in size if side % (2 * output_stride)]
    demand(
        not odd,
        f"images of {size[0]}x{size[1]} px have maps with odd sides, which it cuts; give image_size= a multiple of "
        f"{2 * output_stride}",
    )
    return {
        "width_multiplier": trunk.width_multiplier,
        "n_attn_blocks": list(trunk.depths),
        "base_attn_unit_dims": [128, 192, 256],
        "expand_ratio": 2.0,
        "ffn_multiplier": 2,
        "hidden_act": "swish",
        "attn_dropout": 0.0,
        "ffn_dropout": 0.0,
    }


def mobilevit_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`MobileViTForImageClassification`.

    Raises:
        UserError: it has other depths, or the preparation has no words.
    """
    _check(bundle)
    sizes = {**_sizes_of_v1(bundle.module), "classifier_dropout_prob": bundle.module.dropout_rate}
    return _to_huggingface(bundle, "MobileViT", "mobilevit", sizes), set()


def mobilevit_v2_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`MobileViTV2ForImageClassification`.

    Raises:
        UserError: the preparation has no words, or maps have odd sides, which are cut there and enlarged here.
    """
    _check(bundle)
    module = bundle.module
    sizes = _sizes_of_v2(module, module.output_stride, image_shape_of(module))
    return _to_huggingface(bundle, "MobileViTV2", "mobilevitv2", sizes), {"dilate_blocks"}


def deeplab_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`MobileViTForSemanticSegmentation` and `MobileViTV2ForSemanticSegmentation`.

    Raises:
        UserError: another trunk, other depths, or an auxiliary head.
    """
    module = bundle.module
    demand(isinstance(bundle.batches, ImageBatches), "its preparation is that of images without class maps")
    demand(module.auxiliary is None, "`auxiliary`: it has no auxiliary head")
    demand(bool(module.num_classes), "`num_classes` (=0): it needs a head")
    trunk = module.backbone(parent=None)
    kinds = {MobileViTTrunk: ("MobileViT", "mobilevit"), MobileViTV2Trunk: ("MobileViTV2", "mobilevitv2")}
    demand(type(trunk) in kinds, f"`backbone`: it has none like {type(trunk).__name__}")
    makers: dict[type, Callable[[], dict[str, Any]]] = {
        MobileViTTrunk: lambda: _sizes_of_v1(trunk),
        MobileViTV2Trunk: lambda: _sizes_of_v2(trunk, module.output_stride, image_shape_of(module)),
    }
    head = {
        "aspp_out_channels": module.aspp_width,
        "atrous_rates": list(module.rates),
        "aspp_dropout_prob": 0.0,
        "classifier_dropout_prob": module.dropout_rate,
    }
    sizes = {**makers[type(trunk)](), **head}
    return _to_huggingface(bundle, *kinds[type(trunk)], sizes, "ForSemanticSegmentation"), {"backbone"}


def resnet_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`ResNetForImageClassification`.

    Raises:
        UserError: it is dilated, or the preparation has no words.
    """
    _check(bundle)
    module = bundle.module
    demand(module.output_stride == 32, f"`output_stride` (={module.output_stride}): it has 32")
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": module.width,
        "hidden_sizes": [4 * module.width * 2**stage for stage in range(4)],
        "depths": list(module.depths),
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        **labels_of(bundle),
        "dtype": "float32",
    }
    processor = processor_of(bundle, image_shape_of(module))
    return {"config.json": config, "preprocessor_config.json": processor}, set()
