"""Files of each layout, read by us and by the library that reads them: the same outputs."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.comparison import Difference, misfits
from vitjax.models.vit import AttentionPooling, AveragePooling, LearnedPositions, ViT
from vitjax.models.vit_tables import LAYOUTS
from vitjax.ops.activations import gelu_tanh
from vitjax.paths import flatten, unflatten
from vitjax.weights.files import read_weights, write_safetensors
from vitjax.weights.rules import export_weights, import_weights

BY_NAME = {layout.name: layout for layout in LAYOUTS}
SIZES = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4, "mlp_width": 128, "num_classes": 7}
TIMM_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}


def vit(layout, **keywords) -> ViT:
    return ViT(**{**SIZES, **layout.settings, **keywords})


def shapes(module):
    images = np.zeros((1, *module.image_shape, 3), np.float32)
    return {
        path: leaf.shape
        for path, leaf in flatten(dict(jax.eval_shape(module.init, jax.random.key(0), images))).items()
        if path.startswith("params/")
    }


def random_weights(module, seed) -> dict[str, np.ndarray]:
    """None is 0 or 1, where an error could hide. Tokens are small, so that the first norm's epsilon is seen."""
    draw = np.random.default_rng(seed).normal
    found = {}
    for path, shape in shapes(module).items():
        noise = draw(size=shape) * (shape[0] ** -0.5 if path.endswith("kernel") else 0.2)
        embeds = path.startswith(("params/patch_embedding", "params/position_embedding", "params/class_token"))
        found[path] = (path.endswith("scale") + noise * (0.01 if embeds else 1)).astype(np.float32)
    return found


def assert_equal_outputs(module, variables, reference, run, *, size=(32, 32)):
    """Within 30 times the reference's own noise; gradients are in test_vit.py, with the same tables."""
    import torch

    images = np.random.default_rng(99).normal(size=(2, *size, 3)).astype(np.float32)

    def theirs(dtype) -> np.ndarray:
        model = copy.deepcopy(reference).eval().to(dtype)
        with torch.no_grad():
            return run(model, torch.tensor(images, dtype=dtype).permute(0, 3, 1, 2)).double().numpy()

    single = theirs(torch.float32)
    noise = np.abs(theirs(torch.float64) - single).max()
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(module.apply)(unflatten(variables), images))
    magnitude = np.abs(single).max()
    assert magnitude > 0.1
    assert misfits([Difference("outputs", "logits", np.abs(ours - single).max(), noise, magnitude)]) == []


# ------------------------------------------------------------------------------------- timm reads npz files

MAP = {"use_class_token": False, "pool": functools.partial(AttentionPooling, num_heads=4, mlp_width=128)}
MAP_TANH = MAP | {"pool": functools.partial(MAP["pool"], activation=gelu_tanh)}
AVERAGE = {"use_class_token": False, "pool": AveragePooling}


def stacked(arrays, depth=2):
    """The same file as a model with `scan` writes it."""
    first = "Transformer/encoderblock_0/"
    found = {key: array for key, array in arrays.items() if "/encoderblock_" not in key}
    for inside in [key.removeprefix(first) for key in arrays if key.startswith(first)]:
        parts = [arrays[f"Transformer/encoderblock_{number}/{inside}"] for number in range(depth)]
        found[f"Transformer/encoderblock/{inside}"] = np.stack(parts)
    return found


NPZ = {
    "vit_jax": ("vit_jax", {}, {}, "", None),
    "vit_jax, optimizer's state": ("vit_jax", {}, {}, "opt/target/", None),
    "big_vision, class token": ("big_vision", {}, {"no_embed_class": True}, "params/", None),
    "big_vision, average": (
        "big_vision", AVERAGE, {"class_token": False, "global_pool": "avg", "fc_norm": False}, "params/", None,
    ),
    "big_vision, attention pooling": (
        "big_vision", MAP_TANH, {"class_token": False, "global_pool": "map"}, "params/img/", None,
    ),
    "big_vision, stacked": ("big_vision", {}, {"no_embed_class": True}, "", stacked),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_npz_files_mean_what_timm_reads_in_them(tmp_path, case):
    import torch
    from timm.models.vision_transformer import VisionTransformer

    name, keywords, theirs, prefix, change = NPZ[case]
    layout = BY_NAME[name]
    # timm computes these files with the exact GELU unless told otherwise; the settings are those of the origin.
    reference = VisionTransformer(**TIMM_SIZES, act_layer="gelu_tanh", **theirs)
    module = vit(layout, **keywords)
    foreign = export_weights(layout.rules(module), random_weights(module, 0))
    foreign = foreign if change is None else change(foreign)
    path = tmp_path / "model.npz"
    np.savez(path, **{f"{prefix}{key}": array for key, array in foreign.items()})
    with torch.no_grad():
        reference.load_pretrained(str(path))
    variables = import_weights(layout.rules(module), layout.prepare(read_weights(path)), shapes(module))
    assert_equal_outputs(module, variables, reference, lambda model, images: model(images))


def test_bfloat16_files_mean_what_timm_reads_in_them(tmp_path):
    import torch
    from timm.models.vision_transformer import VisionTransformer, _load_weights

    layout = BY_NAME["vit_jax"]
    module = vit(layout)
    foreign = export_weights(layout.rules(module), random_weights(module, 2))
    np.savez(tmp_path / "model.npz", **{key: np.asarray(array, jnp.bfloat16) for key, array in foreign.items()})
    reference = VisionTransformer(**TIMM_SIZES, act_layer="gelu_tanh")
    with torch.no_grad():
        _load_weights(reference, str(tmp_path / "model.npz"), load_bfloat16=True)
    read = layout.prepare(read_weights(tmp_path / "model.npz"))
    variables = import_weights(layout.rules(module), read, shapes(module))
    assert {array.dtype for array in variables.values()} == {np.dtype(jnp.bfloat16)}
    variables = {path: array.astype(np.float32) for path, array in variables.items()}
    assert_equal_outputs(module, variables, reference, lambda model, images: model(images))


# ------------------------------------------------------------------------------ torch reads what we write

AFTER = {"pool": AveragePooling, "norm_after_pooling": True}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AFTER, {"global_pool": "avg"}),
        (MAP, {"global_pool": "map", "class_token": False}),
        ({"positions": functools.partial(LearnedPositions, embed_class=False)}, {"no_embed_class": True}),
    ],
)
def test_timm_reads_what_we_write(tmp_path, ours, theirs):
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    layout = BY_NAME["timm"]
    module = vit(layout, **ours)
    variables = random_weights(module, 4)
    write_safetensors(tmp_path / "model.safetensors", export_weights(layout.rules(module), variables))
    reference = VisionTransformer(**TIMM_SIZES, **theirs)
    reference.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert_equal_outputs(module, variables, reference, lambda model, images: model(images))


# ----------------------------------------------------------------------------------------------- transformers


def huggingface_config():
    from transformers import ViTConfig

    return ViTConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     intermediate_size=128, num_labels=7)  # fmt: skip


def randomised(model, seed):
    import torch

    from benchmarks.comparison import random_weights as draw

    draw(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(0.01 if "embeddings" in name else 1)
    return model


def huggingface_variables(folder, module):
    layout = BY_NAME["huggingface"]
    return import_weights(layout.rules(module), layout.prepare(read_weights(folder)), shapes(module))


def test_hugging_face_folders(tmp_path):
    import torch
    from transformers import ViTForImageClassification

    reference = randomised(ViTForImageClassification(huggingface_config()), 6)
    reference.save_pretrained(tmp_path / "whole")
    module = vit(BY_NAME["huggingface"])
    whole = huggingface_variables(tmp_path / "whole", module)
    for size in ((32, 32), (48, 24)):
        resampled = size != (32, 32)
        assert_equal_outputs(
            module,
            whole,
            reference,
            lambda model, images, resampled=resampled: model(images, interpolate_pos_encoding=resampled).logits,
            size=size,
        )
    reference.save_pretrained(tmp_path / "parts", max_shard_size="50KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    (tmp_path / "memory").mkdir()
    torch.save(reference.state_dict(), tmp_path / "memory" / "pytorch_model.bin")  # version 5 has other names there
    for other in ("parts", "memory"):
        for path, array in huggingface_variables(tmp_path / other, module).items():
            np.testing.assert_array_equal(array, whole[path], err_msg=path)


def test_hugging_face_reads_what_we_write(tmp_path):
    from transformers import ViTForImageClassification

    layout = BY_NAME["huggingface"]
    module = vit(layout)
    variables = random_weights(module, 8)
    huggingface_config().save_pretrained(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", export_weights(layout.rules(module), variables))
    reference, report = ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert_equal_outputs(module, variables, reference, lambda model, images: model(images).logits)


def test_a_bare_vit_with_its_pooler(tmp_path):
    from transformers import ViTModel

    reference = randomised(ViTModel(huggingface_config()), 10)
    reference.save_pretrained(tmp_path)
    module = vit(BY_NAME["huggingface"], num_classes=0, representation_size=32)
    variables = huggingface_variables(tmp_path, module)
    assert_equal_outputs(module, variables, reference, lambda model, images: model(images).pooler_output)
