"""Folders of timm and transformers with mobile networks, opened and written: equal logits, pixels and labels.

The tolerance of logits is that of the other parity tests: 30 times the reference's own float64-float32 noise.
"""

import copy
import json
import logging

import jax
import numpy as np
import pytest
from PIL import Image

import vitjax
from benchmarks.comparison import TIMES_NOISE, random_weights
from vitjax.data.transforms import ResizeShorterSide, ReverseChannels, apply_transforms
from vitjax.errors import UserError
from vitjax.inference import foreign_files, foreign_timm, writing_mobile
from vitjax.inference.channel_order import channel_order_of
from vitjax.inference.evaluation_modes import CropOrPad
from vitjax.inference.foreign import initial_weights
from vitjax.inference.preparation import default_preparation, image_shape_of, variable_shapes
from vitjax.models import layouts_of, variant_of
from vitjax.models.mobilevit import MobileViT
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.weights.files import write_safetensors
from vitjax.weights.rules import export_weights

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

NAMES = [f"class of {number}" for number in range(5)]


def logits_of(module, images, dtype) -> np.ndarray:
    with torch.no_grad():
        outputs = copy.deepcopy(module).to(dtype)(torch.tensor(images.transpose(0, 3, 1, 2), dtype=dtype))
    logits = (outputs if torch.is_tensor(outputs) else outputs.logits).double().numpy()
    return logits.transpose(0, 2, 3, 1) if logits.ndim == 4 else logits


def assert_equal_logits(bundle, *modules):
    """Ours and those of one or more references, which hold the same weights."""
    shape = image_shape_of(bundle.module)
    images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    # Compiled without optimisation: it runs twice, and compiling is what a test pays for.
    forward = jax.jit(bundle.module.apply).lower(bundle.variables, images)
    (ours,) = jax.tree.leaves(
        forward.compile(compiler_options={"xla_backend_optimization_level": 0})(bundle.variables, images)
    )
    for module in modules:
        theirs = logits_of(module, images, torch.float32)
        noise = np.abs(logits_of(module, images, torch.float64) - theirs).max()
        assert np.ptp(theirs) > 0.1  # nothing is proven by zeros
        assert np.abs(ours - theirs).max() <= TIMES_NOISE * noise


def picture(rows=61, columns=90) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    slopes = np.stack([255 * y / rows, 255 * x / columns, 255 * ((x // 7 + y // 5) % 2)], axis=-1)
    return np.clip(slopes + np.random.default_rng(0).normal(0, 40, slopes.shape), 0, 255).astype(np.uint8)


def assert_equal_pixels(bundle, theirs: np.ndarray):
    """One level of 255, in units of the smallest standard deviation."""
    pixels = apply_transforms(bundle.batches.transforms, picture(), np.random.default_rng(0))
    ours = np.asarray(bundle.task.inputs({"image": pixels[None]})["images"])[0]
    assert np.ptp(theirs) > 0.5
    assert np.abs(ours - theirs).max() <= 1 / 255 / min(bundle.task.std) + 1e-5


def timm_pixels(model) -> np.ndarray:
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    return transform(Image.fromarray(picture())).numpy().transpose(1, 2, 0)


def huggingface_pixels(folder) -> np.ndarray:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return np.asarray(processor(Image.fromarray(picture()))["pixel_values"][0]).transpose(1, 2, 0)


def edit(file, **changes):
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# ---------------------------------------------------------------------------------------------------- timm

EFFICIENTVIT = {
    "embed_dim": (16, 24, 32), "depth": (1, 1, 1), "num_heads": (2, 3, 2), "kernels": (5, 3, 3), "key_dim": (8, 8, 8),
}  # fmt: skip
TIMM = {
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "efficientvit_m1": {**EFFICIENTVIT, "img_size": 64},
    "resnet50": {"layers": (1, 2, 1, 1), "output_stride": 16},
}
SMALL_V1 = {
    "widths": (8, 8, 8, 16, 16, 16), "transformer_widths": (16, 16, 24), "depths": (1, 1, 1), "expansion": 2,
    "final_width": 32, "num_classes": 1000,
}  # fmt: skip
SMALL_V2 = {"width_multiplier": 0.125, "depths": (1, 1, 1), "num_classes": 1000}


@pytest.fixture
def small_architectures(monkeypatch):
    """The sizes of `ByobNet` are the architecture's, so two of them become small ones, here and there."""
    from timm.models import mobilevit as theirs

    first, second, third = theirs._inverted_residual_block, theirs._mobilevit_block, theirs._mobilevitv2_block
    common = {"stem_type": "3x3", "stem_pool": "", "downsample": "", "act_layer": "silu"}
    v1 = (
        first(d=1, c=8, s=1, br=2.0), first(d=3, c=8, s=2, br=2.0),
        *(second(d=1, c=16, s=2, transformer_dim=d, transformer_depth=1, patch_size=2, br=2.0) for d in (16, 16, 24)),
    )  # fmt: skip
    v2 = (
        first(d=1, c=16, s=1, br=2.0), first(d=2, c=16, s=2, br=2.0),
        *(third(d=1, c=c, s=2, transformer_depth=1) for c in (32, 48, 64)),
    )  # fmt: skip
    sizes = {
        "mobilevit_xxs": theirs.ByoModelCfg(blocks=v1, stem_chs=8, num_features=32, **common),
        "mobilevitv2_050": theirs.ByoModelCfg(blocks=v2, stem_chs=16, **common),
    }
    for name, config in sizes.items():
        monkeypatch.setitem(theirs.model_cfgs, name, config)
    ours = {"mobilevit_xxs": (MobileViT, SMALL_V1), "mobilevitv2_050": (MobileViTV2, SMALL_V2)}
    for module in (foreign_timm, writing_mobile):
        monkeypatch.setattr(module, "variant_of", lambda name: ours.get(name) or variant_of(name))


def save_timm(folder, architecture, **arguments):
    model = timm.create_model(architecture, num_classes=5, **arguments).eval()
    random_weights(model, 0)
    timm.models.save_for_hf(
        model, folder, model_config={"label_names": NAMES}, safe_serialization=True,
        data_config={"input_size": (3, 64, 64)},
    )  # fmt: skip
    return model


def rows(table, *quick):
    """Compiling costs seconds for each; tests/parity has the networks' own."""
    return [
        pytest.param(name, case, id=name, marks=[] if name in quick else [pytest.mark.long])
        for name, case in table.items()
    ]


@pytest.mark.parametrize(("architecture", "arguments"), rows(TIMM, "mobilevit_xxs", "efficientvit_m1"))
def test_a_folder_of_timm_opens_by_itself_and_goes_back(architecture, arguments, small_architectures, tmp_path):
    model = save_timm(tmp_path / "theirs", architecture, **arguments)
    bundle = vitjax.load(tmp_path / "theirs")
    assert bundle.labels == tuple(NAMES)
    bundle.save(tmp_path / "ours", format="timm")
    written = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert_equal_logits(bundle, model, written)
    for reference in (timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True), written):
        assert_equal_pixels(bundle, timm_pixels(reference))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(written.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)


REFUSED = {
    "mobilevit_xxs": [{"width_factor": 2.0}, {"output_stride": 16}, {"act_layer": "relu"}, {"surprise": 1}],
    "efficientvit_m0": [{"key_dim": [16, 8, 16]}, {"window_size": [7, 7, 9]}, {"down_ops": [["", 1], ["", 2]]},
                        {"embed_dim": "wide"}, {"global_pool": "max"}],
    "resnet50": [{"stem_type": "deep"}, {"cardinality": 32}, {"channels": [64, 128, 256, 256]}, {"avg_down": True}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "arguments"), [(name, one) for name, cases in REFUSED.items() for one in cases]
)
def test_arguments_that_change_the_network_are_honoured_or_refused(architecture, arguments, tmp_path):
    content = {"architecture": architecture, "num_classes": 5, "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=rf"config.json: `model_args.{next(iter(arguments))}`"):
        vitjax.load(tmp_path)


# --------------------------------------------------------------------------------------------- transformers

V1 = {
    "hidden_sizes": [16, 16, 24], "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32], "num_attention_heads": 2,
    "expand_ratio": 2.0, "image_size": 64,
}  # fmt: skip
V2 = {"width_multiplier": 0.125, "n_attn_blocks": [1, 1, 1], "image_size": 64}
DENSE = {"output_stride": 16, "aspp_out_channels": 16, "atrous_rates": [1, 2, 3]}
RESNET = {"embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 2, 1, 1]}
CLASSES, PIXELS = "ForImageClassification", "ForSemanticSegmentation"
HUGGINGFACE = {
    "MobileViT": (CLASSES, V1, "MobileViTImageProcessor", "bgr"),
    "MobileViTV2": (CLASSES, V2, "MobileViTImageProcessor", "bgr"),
    "MobileViT, pixels": (PIXELS, {**V1, **DENSE}, "MobileViTImageProcessor", "bgr"),
    "MobileViTV2, pixels": (PIXELS, {**V2, **DENSE}, "MobileViTImageProcessor", "bgr"),
    "ResNet": (CLASSES, RESNET, "ConvNextImageProcessor", "rgb"),
}
PROCESSORS = {
    "MobileViTImageProcessor": {
        "size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 2,
    },
    "ConvNextImageProcessor": {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "image_mean": [0.4, 0.5, 0.6]},
}  # fmt: skip


def save_huggingface(folder, kind, head, settings, processor):
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: n for n, name in enumerate(NAMES)}}
    config = getattr(transformers, f"{kind}Config")(**settings, **names)
    model = getattr(transformers, kind + head)(config).eval()
    random_weights(model, 0)
    model.save_pretrained(folder)
    getattr(transformers, processor)(**PROCESSORS[processor]).save_pretrained(folder)
    return model


@pytest.mark.parametrize(("name", "case"), rows(HUGGINGFACE, "MobileViTV2"))
def test_a_folder_of_transformers_opens_by_itself_and_goes_back(name, case, tmp_path):
    head, settings, processor, order = case
    model = save_huggingface(tmp_path / "theirs", name.split(",")[0], head, settings, processor)
    bundle = vitjax.load(tmp_path / "theirs")
    assert bundle.labels == tuple(NAMES)
    assert channel_order_of(bundle.batches.transforms) == order
    bundle.save(tmp_path / "ours", format="huggingface")
    written = type(model).from_pretrained(tmp_path / "ours").eval()
    assert_equal_logits(bundle, model, written)
    for folder in ("theirs", "ours"):
        assert_equal_pixels(bundle, huggingface_pixels(tmp_path / folder))
    assert [written.config.id2label[number] for number in range(5)] == NAMES
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(written.state_dict()[key].numpy(), tensor.numpy(), err_msg=key)


def test_the_order_of_channels_goes_with_a_model_and_is_never_guessed(tmp_path, caplog):
    save_huggingface(tmp_path / "theirs", "MobileViTV2", CLASSES, V2, "MobileViTImageProcessor")
    bundle = vitjax.load(tmp_path / "theirs")
    with pytest.raises(UserError, match="expect blue, green, red, and timm feeds red, green, blue"):
        bundle.save(tmp_path / "timm", format="timm")
    bundle.save(tmp_path / "bundle")
    assert vitjax.load(tmp_path / "bundle").batches.transforms == bundle.batches.transforms
    with pytest.raises(UserError, match="a bundle has its preparation with it"):
        vitjax.load(tmp_path / "bundle", channel_order="rgb")

    # Smaller than the crop: transformers' own defaults pad, 224 px in a frame of 256.
    edit(tmp_path / "theirs" / "preprocessor_config.json", size={"shortest_edge": 57})
    assert_equal_pixels(vitjax.load(tmp_path / "theirs"), huggingface_pixels(tmp_path / "theirs"))
    edit(tmp_path / "theirs" / "preprocessor_config.json", do_flip_channel_order=False)
    assert channel_order_of(vitjax.load(tmp_path / "theirs").batches.transforms) == "rgb"
    (tmp_path / "theirs" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"nothing says whether .*; give channel_order='bgr' or channel_order='rgb'"):
        vitjax.load(tmp_path / "theirs")
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        told = vitjax.load(tmp_path / "theirs", channel_order="bgr")
    assert "there is no preprocessor_config.json" in caplog.text
    assert told.batches.transforms == (
        ResizeShorterSide(72, "bilinear"), CropOrPad((64, 64), halves_down=True), ReverseChannels()
    )  # fmt: skip
    assert told.task == bundle.task
    with pytest.raises(UserError, match=r"`channel_order` \(='gbr'\) must be one of rgb, bgr"):
        vitjax.load(tmp_path / "theirs", channel_order="gbr")


def test_a_file_of_the_authors_first_network_asks_for_the_order(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(foreign_files, "variant_of", lambda name: (MobileViT, {**SMALL_V1, "image_size": 64}))
    module = MobileViT(**{**SMALL_V1, "num_classes": 5}, image_size=64)
    shapes = variable_shapes(module, *default_preparation(module))
    generator = np.random.default_rng(0)
    arrays = {path: generator.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    layouts = {layout.name: layout for layout in layouts_of(module)}
    for layout in ("authors", "timm"):
        file = tmp_path / f"{layout}.safetensors"
        write_safetensors(file, export_weights(layouts[layout].rules(module), arrays), {})
    with pytest.raises(UserError, match=r"authors.safetensors: nothing says whether .* channel_order='bgr'"):
        vitjax.load(tmp_path / "authors.safetensors", name="mobilevit_s")
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(tmp_path / "authors.safetensors", name="mobilevit_s", channel_order="bgr")
    assert "ReverseChannels()" in caplog.text
    assert "mean (0.0, 0.0, 0.0), std (1.0, 1.0, 1.0)" in caplog.text
    assert opened.batches.transforms[-1] == ReverseChannels()
    assert channel_order_of(vitjax.load(tmp_path / "timm.safetensors", name="mobilevit_s").batches.transforms) == "rgb"
    given = initial_weights(
        module, shapes, path=str(tmp_path / "authors.safetensors"), name="mobilevit_s", channel_order="bgr"
    )  # fmt: skip
    assert set(given) == set(shapes)
    assert "must turn pictures round by ReverseChannels()" in caplog.text
    wider = MobileViT(**{**SMALL_V1, "widths": (8, 8, 8, 16, 16, 32)}, image_size=64)
    with pytest.raises(UserError, match=r"the weights do not fit the model: .*expected"):
        initial_weights(
            wider, variable_shapes(wider, *default_preparation(wider)), path=str(tmp_path / "timm.safetensors"),
            name="mobilevit_s",
        )  # fmt: skip


def test_a_network_without_positions_only_gets_larger_pictures(tmp_path):
    save_huggingface(tmp_path / "v2", "MobileViTV2", CLASSES, V2, "MobileViTImageProcessor")
    larger = vitjax.load(tmp_path / "v2", image_size=128)
    assert [transform.size for transform in larger.batches.transforms[:2]] == [144, (128, 128)]
    assert larger.batches.transforms[-1] == ReverseChannels()
    assert larger.module.image_size == 128
    np.testing.assert_array_equal(
        larger.variables["params"]["head"]["kernel"], vitjax.load(tmp_path / "v2").variables["params"]["head"]["kernel"]
    )


@pytest.mark.long
def test_efficientvits_biases_follow_its_windows_as_timms_do(tmp_path, caplog):
    save_timm(tmp_path / "timm", "efficientvit_m1", **EFFICIENTVIT, img_size=64)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, img_size=96).eval()
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        assert_equal_logits(vitjax.load(tmp_path / "timm", image_size=96), theirs)
    assert "tables of biases resampled" in caplog.text
