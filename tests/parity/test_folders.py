"""Folders of timm and transformers, opened and written: equal logits, equal pixels, equal labels, on both sides.

The tolerance of logits is that of the other parity tests: 30 times the reference's own float64-float32 noise.
"""

import copy
import logging

import numpy as np
import pytest

import vitjax
from benchmarks.comparison import TIMES_NOISE, random_weights
from benchmarks.parity_preprocessing import huggingface_pixels, picture, pixel_difference, timm_pixels
from vitjax.config import describe
from vitjax.errors import UserError

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

NAMES = [f"class of {number}" for number in range(5)]
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4}


def logits_of(module, images: np.ndarray, dtype) -> np.ndarray:
    with torch.no_grad():
        outputs = copy.deepcopy(module).to(dtype)(torch.tensor(images.transpose(0, 3, 1, 2), dtype=dtype))
    return (outputs if torch.is_tensor(outputs) else outputs.logits).double().numpy()


def assert_equal_logits(bundle, module, seed=0):
    rows, columns = bundle.module.image_shape
    images = np.random.default_rng(seed).normal(size=(2, rows, columns, 3)).astype(np.float32)
    theirs = logits_of(module, images, torch.float32)
    noise = np.abs(logits_of(module, images, torch.float64) - theirs).max()
    ours = np.asarray(bundle.module.apply(bundle.variables, images))
    assert np.ptp(theirs) > 0.1  # nothing is proven by zeros
    assert np.abs(ours - theirs).max() <= TIMES_NOISE * noise


def assert_equal_pixels(bundle, theirs: np.ndarray, std):
    """One grey level of 255, in each channel's units of the standard deviation."""
    np.testing.assert_allclose(bundle.task.std, std, rtol=1e-6)
    assert pixel_difference(bundle, theirs) <= 1.001


def save_timm(folder, architecture="vit_tiny_patch16_224", *, safe=True, data=None, **arguments):
    arguments = {"num_classes": 5, **SIZES, **arguments}
    model = timm.create_model(architecture, **{k: v for k, v in arguments.items() if v is not None}).eval()
    random_weights(model, 0)
    timm.models.save_for_hf(
        model, folder, model_config={"label_names": NAMES}, safe_serialization=safe, data_config=data
    )
    return model


def save_huggingface(folder, processor=None, **settings):
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: n for n, name in enumerate(NAMES)}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**{"image_size": 32, "patch_size": 8, **sizes, **names, **settings})
    model = transformers.ViTForImageClassification(config).eval()
    random_weights(model, 0)
    model.save_pretrained(folder)
    (processor or transformers.ViTImageProcessor(size={"height": 32, "width": 32})).save_pretrained(folder)
    return model


TIMM = {
    "plain": {},
    "torch's own file": {"safe": False},
    "average, norm behind": {"global_pool": "avg"},
    "average, norm before, no class token": {"global_pool": "avg", "fc_norm": False, "class_token": False},
    "attention pooling": {"global_pool": "map", "class_token": False},
    "no position of the class token": {"no_embed_class": True},
    "tanh, narrow MLP, no biases": {"act_layer": "gelu_tanh", "mlp_ratio": 3.0, "qkv_bias": False},
    "pictures that are no squares": {"img_size": (32, 48)},
    "another family's name": {"architecture": "vit_base_patch16_siglip_224"},
    "DeiT": {"architecture": "deit_tiny_patch16_224"},
    "hybrid, root only": {"architecture": "vit_tiny_r_s16_p8_224", "img_size": 64, "patch_size": None},
    "hybrid": {"architecture": "vit_small_r26_s32_224", "img_size": 64, "patch_size": None},
    "squash": {"data": {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"}},
    "border": {"data": {"crop_mode": "border", "mean": (0.2, 0.4, 0.6), "std": (0.3, 0.2, 0.1)}},
}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(arguments, id=name, marks=[pytest.mark.slow] * (name == "hybrid"))
        for name, arguments in TIMM.items()
    ],
)
def test_a_folder_of_timm_opens_by_itself_and_goes_back(arguments, tmp_path):
    model = save_timm(tmp_path / "theirs", **arguments)
    bundle = vitjax.load(tmp_path / "theirs")
    assert bundle.labels == tuple(NAMES)
    assert_equal_logits(bundle, model)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True)
    std = theirs.pretrained_cfg["std"]
    assert_equal_pixels(bundle, timm_pixels(theirs), std)

    bundle.save(tmp_path / "ours", format="timm")
    written = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert_equal_logits(bundle, written, seed=1)
    assert_equal_pixels(bundle, timm_pixels(written), std)
    assert list(written.pretrained_cfg["label_names"]) == NAMES
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(written.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)
    again = vitjax.load(tmp_path / "ours")
    assert (again.labels, again.task, describe(again.module)) == (bundle.labels, bundle.task, describe(bundle.module))


HUGGINGFACE = {
    "plain": {},
    "other numerics": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3, "qkv_bias": False},
    "crop": {
        "processor": {
            "size": {"shortest_edge": 40}, "resample": 3, "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
        }
    },
    "unscaled": {
        "processor": {"size": {"height": 32, "width": 32}, "do_normalize": False, "rescale_factor": 1 / 127.5}
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", HUGGINGFACE.values(), ids=HUGGINGFACE)
def test_a_folder_of_transformers_opens_by_itself_and_goes_back(settings, tmp_path):
    settings = dict(settings)
    processor = settings.pop("processor", None)
    kind = transformers.BitImageProcessor if processor and "crop_size" in processor else transformers.ViTImageProcessor
    model = save_huggingface(tmp_path / "theirs", processor and kind(**processor), **settings)
    bundle = vitjax.load(tmp_path / "theirs")
    assert bundle.labels == tuple(NAMES)
    assert_equal_logits(bundle, model)
    assert_equal_pixels(bundle, huggingface_pixels(tmp_path / "theirs"), bundle.task.std)

    bundle.save(tmp_path / "ours", format="huggingface")
    written = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert type(written) is transformers.ViTForImageClassification
    assert_equal_logits(bundle, written, seed=1)
    assert_equal_pixels(bundle, huggingface_pixels(tmp_path / "ours"), bundle.task.std)
    assert [written.config.id2label[number] for number in range(5)] == NAMES
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(written.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)


def test_flexivit_of_timm_opens_and_computes_the_same(tmp_path):
    model = save_timm(tmp_path, "flexivit_small", img_size=32)
    assert_equal_logits(vitjax.load(tmp_path), model)


def test_the_model_without_a_head_keeps_its_pooler(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    model = transformers.ViTModel(config).eval()
    random_weights(model, 0)
    model.save_pretrained(tmp_path)
    bundle = vitjax.load(tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        pooled = model(torch.tensor(images.transpose(0, 3, 1, 2))).pooler_output.numpy()
    np.testing.assert_allclose(bundle.module.apply(bundle.variables, images), pooled, atol=1e-5)
    assert bundle.labels == ()
    assert len(vitjax.load(tmp_path, labels=NAMES).predict(picture())[0].scores) == 5


def test_what_transformers_wraps_of_timm_opens_as_well(tmp_path):
    wrapped = transformers.TimmWrapperForImageClassification(
        transformers.TimmWrapperConfig.from_dict(
            {
                "architecture": "vit_tiny_patch16_224",
                "model_args": SIZES,
                "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
                "num_classes": 5,
                "label_names": NAMES,
            }
        )
    ).eval()
    random_weights(wrapped, 0)
    wrapped.save_pretrained(tmp_path)
    assert_equal_logits(vitjax.load(tmp_path), wrapped)


def test_larger_images_as_each_library_resamples(tmp_path, caplog):
    timm_model = save_timm(tmp_path / "timm")
    larger = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, img_size=48).eval()
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        assert_equal_logits(vitjax.load(tmp_path / "timm", image_size=48), larger)
    assert "positions resampled from 4x4 to 6x6 patches by resample_bicubic_antialias" in caplog.text
    assert timm_model.pos_embed.shape != larger.pos_embed.shape

    model = save_huggingface(tmp_path / "huggingface")
    bundle = vitjax.load(tmp_path / "huggingface", image_size=48)
    images = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.tensor(images.transpose(0, 3, 1, 2))
        theirs = model(pixels, interpolate_pos_encoding=True).logits.numpy()
    np.testing.assert_allclose(bundle.module.apply(bundle.variables, images), theirs, atol=1e-5)


def test_across_formats_only_what_computes_the_same(tmp_path):
    save_huggingface(tmp_path / "huggingface")
    bundle = vitjax.load(tmp_path / "huggingface")
    with pytest.raises(UserError, match=r"`norm_epsilon` \(=1e-12\) is 1e-06 there") as caught:
        bundle.save(tmp_path / "timm", format="timm")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "timm").exists()
    changed = vitjax.load(tmp_path / "huggingface", norm_epsilon=1e-6)
    changed.save(tmp_path / "timm", format="timm")
    assert_equal_logits(changed, timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval())

    save_timm(tmp_path / "average", global_pool="avg")
    with pytest.raises(UserError, match="`pool`: it takes the class token"):
        vitjax.load(tmp_path / "average").save(tmp_path / "out", format="huggingface")
    save_timm(tmp_path / "token")
    vitjax.load(tmp_path / "token").save(tmp_path / "out", format="huggingface")
    written = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert_equal_logits(vitjax.load(tmp_path / "token"), written)
