"""Folders and files of others: what opens, what changes aloud, and each mistake in one line with file and key."""

import json
import logging
from functools import partial

import numpy as np
import pytest
from PIL import Image

import vitjax
from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.sources import open_source
from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference import foreign_files
from vitjax.inference.evaluation_modes import MODES, EvaluationMode, evaluation_mode, transforms_of
from vitjax.inference.foreign import initial_weights
from vitjax.inference.foreign_files import merge_settings
from vitjax.inference.preparation import resized_batches, variable_shapes
from vitjax.models import layouts_of, variant_of
from vitjax.models.vit import AveragePooling, LearnedPositions, SinCosPositions, ViT
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.positions import resample_bicubic, resample_bicubic_antialias
from vitjax.paths import flatten
from vitjax.tasks.classification import Classification
from vitjax.training.fit import fit
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine
from vitjax.weights.files import read_weights, write_safetensors
from vitjax.weights.rules import export_weights

SIZES = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32}
FORMATS = ("timm", "huggingface")


def tiny(**settings):
    keywords = {**SIZES, "num_classes": 5, "zero_init_head": False, **settings}
    return vitjax.create_model("vit_base_patch16_224", **keywords)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of each format, as `model.save` writes it; tests/parity shows that the others write the same."""
    root = tmp_path_factory.mktemp("originals")
    bundle = tiny()
    for name in FORMATS:
        bundle.save(root / name, format=name)
    return root


@pytest.fixture(params=FORMATS)
def folder(originals, request, tmp_path):
    """A copy to be damaged."""
    target = tmp_path / request.param
    target.mkdir()
    for file in (originals / request.param).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit(file, **changes):
    """Replaces keys of a JSON file; a double underscore leads into an object, `None` takes a key out."""
    content = json.loads(file.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = content
        for parent in parents:
            node = node[parent]
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    file.write_text(json.dumps(content))


def refused(path, *parts, **keywords):
    """The one line with which `load` refuses, which has to say all of `parts`."""
    with pytest.raises(UserError) as caught:
        vitjax.load(path, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message
    return message


# ------------------------------------------------------------------------------------------------ what opens


def test_a_folder_opens_by_itself_and_predicts(folder):
    opened = vitjax.load(folder)
    assert opened.labels == tuple(f"class {number}" for number in range(5))
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    np.testing.assert_allclose(opened.predict(image)[0].scores, tiny().predict(image)[0].scores, atol=1e-6)


def test_a_file_of_another_model_or_layout_is_refused(originals):
    file = originals / "huggingface" / "model.safetensors"
    refused(file, "give name=")
    refused(file, "wrong shapes", name="vit_tiny_patch16_224", layout="huggingface")
    refused(file, "unexpected keys", "vit.layernorm.weight", name="vit_tiny_patch16_224", layout="timm")
    refused(file, "has no layout 'torch'", name="vit_tiny_patch16_224", layout="torch")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_whole_file_of_a_named_model(folder, suffix, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(foreign_files, "variant_of", lambda name: (ViT, {**SIZES, "num_classes": 1000}))
    file = tmp_path / f"weights{suffix}"
    arrays = read_weights(folder)
    write_safetensors(file, arrays, {}) if suffix == ".safetensors" else np.savez(file, **arrays)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(file, name="vit_base_patch16_224")
    assert f"in the layout of {folder.name}, 5 classes without names" in caplog.text
    assert "mean (0.5, 0.5, 0.5)" in caplog.text
    assert opened.module.num_classes == 5
    whole = flatten(vitjax.load(folder).variables)
    for path, array in flatten(opened.variables).items():
        np.testing.assert_array_equal(whole[path], array, err_msg=path)


def test_a_file_of_another_size_of_images_is_resampled_when_a_size_is_asked_for(folder, caplog):
    file = folder / "model.safetensors"
    named = {"name": "vit_base_patch16_224", **{key: value for key, value in SIZES.items() if key != "image_size"}}
    refused(file, "the weights have 17 positions", "224 px", **named)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(file, **named, image_size=48)
    assert "positions resampled from 4x4 to 6x6" in caplog.text
    assert opened.module.image_size == 48
    assert opened.batches.transforms[-1].size == 48


def test_a_file_with_a_layer_before_its_head(tmp_path):
    arrays = {"head/kernel": np.ones((6, 3)), "head/bias": np.ones(3)}
    arrays |= {"pre_logits/kernel": np.ones((16, 6)), "pre_logits/bias": np.ones(6)}
    shapes = {"cls": (1, 1, 16), "embedding/kernel": (8, 8, 3, 16), "embedding/bias": (16,)}
    shapes["Transformer/posembed_input/pos_embedding"] = (1, 17, 16)
    shapes |= {f"Transformer/encoder_norm/{leaf}": (16,) for leaf in ("scale", "bias")}
    file = tmp_path / "B.npz"
    np.savez(file, **arrays, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    module = vitjax.load(file, name="vit_base_patch16_224", **{**SIZES, "depth": 0}).module
    assert (module.representation_size, module.num_classes, module.activation) == (6, 3, gelu_tanh)


TINY = {**SIZES, "num_classes": 3}
MODELS = {
    "vit_base_patch16_224": TINY,
    "vit_base_r50_s16_224": {**TINY, "stages": (1, 1), "stem_width": 8, "num_groups": 4},
    "flexivit_base": {**TINY, "patch_size": 16},
    "deepvit_s": {**TINY, "mlp_width": 48, "num_reattention": 1},
}
FILES = [
    (name, layout.name) for name in MODELS for layout in layouts_of(variant_of(name)[0]) if layout.name != "vit_pytorch"
]


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_every_layout_of_every_model_opens_as_a_file(name, layout, tmp_path):
    target, keywords = variant_of(name)
    (known,) = (one for one in layouts_of(target) if one.name == layout)
    module = target(**merge_settings(known.settings, keywords, MODELS[name], AS_IN_FILES.get((name, layout), {})))
    batches = ImageBatches(source=None, transforms=(Resize(32),), batch_size=1)
    shapes = variable_shapes(module, Classification(), batches)
    generator = np.random.default_rng(0)
    arrays = {path: generator.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    np.savez(tmp_path / "weights.npz", **export_weights(known.rules(module), arrays))
    settings = {**MODELS[name], **AS_IN_FILES.get((name, layout), {})}
    opened = vitjax.load(tmp_path / "weights.npz", name=name, layout=layout, **settings)
    for path, array in flatten(opened.variables).items():
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


AS_IN_FILES = {("vit_base_patch16_224", "big_vision"): {"positions": partial(LearnedPositions, embed_class=False)}}


# ------------------------------------------------------------------------------------------- numerics, labels


def test_numerics_are_the_layouts_and_the_configs(folder):
    module = vitjax.load(folder).module
    assert module.norm_epsilon == 1e-6
    resampling = module.positions().resampling
    if folder.name == "huggingface":
        assert resampling is resample_bicubic
        edit(folder / "config.json", layer_norm_eps=None, hidden_act="gelu_pytorch_tanh")
        assert vitjax.load(folder).module.norm_epsilon == 1e-12  # ViTConfig's default
    else:
        assert resampling is resample_bicubic_antialias
        edit(folder / "config.json", model_args__act_layer="gelu_tanh")
    assert vitjax.load(folder).module.activation is gelu_tanh


def test_partials_of_one_function_are_merged():
    settings = {"positions": partial(LearnedPositions, resampling=resample_bicubic), "norm_epsilon": 1e-12}
    merged = merge_settings(settings, {"positions": partial(LearnedPositions, embed_class=False)})
    assert merged["positions"].keywords == {"resampling": resample_bicubic, "embed_class": False}
    assert merge_settings(settings, {"positions": SinCosPositions, "norm_epsilon": 1})["norm_epsilon"] == 1


def test_a_file_without_names_of_classes_says_so(folder, caplog):
    edit(folder / "config.json", label_names=None, id2label=None, num_labels=5)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        assert vitjax.load(folder).labels[4] == "class 4"
    assert "names none of its 5 classes" in caplog.text
    named = vitjax.load(folder, labels=["a", "b", "c", "d", "e"])
    assert (named.labels[4], named.module.num_classes) == ("e", 5)


# -------------------------------------------------------------------------------------------------- overrides


def test_a_new_head_and_other_positions_are_said_aloud(folder, caplog):
    before = flatten(vitjax.load(folder).variables)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(folder, num_classes=3, image_size=48, dropout_rate=0.1)
    assert "a new, untrained head for 3 classes instead of the file's 5" in caplog.text
    assert "positions resampled from 4x4 to 6x6 patches" in caplog.text
    after = flatten(opened.variables)
    assert after["params/head/kernel"].shape == (16, 3)
    assert after["params/position_embedding/table"].shape == (1 + 36, 16)
    np.testing.assert_array_equal(
        after["params/position_embedding/table"][0], before["params/position_embedding/table"][0]
    )
    for path in set(before) - {"params/head/kernel", "params/head/bias", "params/position_embedding/table"}:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert opened.module.dropout_rate == 0.1
    result = opened.predict(np.zeros((60, 70, 3), np.uint8))[0]
    assert (result.error, len(result.scores)) == (None, 3)


def test_what_equals_the_file_changes_nothing(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(folder, num_classes=5, image_size=32)
    assert "new" not in caplog.text
    assert "resampled" not in caplog.text
    assert opened.module == vitjax.load(folder).module


def test_overrides_that_make_no_sense(folder):
    with pytest.raises(UserError, match=r"`num_classes` \(=0\) must be positive"):
        vitjax.load(folder, num_classes=0)
    with pytest.raises(UserError, match="`labels` has 2 names, `num_classes` is 3"):
        vitjax.load(folder, labels=["a", "b"], num_classes=3)
    with pytest.raises(UserError, match="ViT has no setting `colour`"):
        vitjax.load(folder, colour="red")
    with pytest.raises(UserError, match="the model of 'vit_base_patch16_224' has no setting `colour`"):
        vitjax.load(folder / "model.safetensors", name="vit_base_patch16_224", colour="red")
    with pytest.raises(UserError, match=r"`image_size` \(=50\) must be divisible by `patch_size`"):
        vitjax.load(folder, image_size=50)


def test_a_preparation_grows_with_the_images():
    square = ImageBatches(source=None, transforms=(ResizeShorterSide(256), CentreCrop(224)), batch_size=1)
    assert resized_batches(square, (224, 224), (448, 448)).transforms == (ResizeShorterSide(512), CentreCrop(448))
    assert resized_batches(square, (224, 224), (224, 336)).transforms == (Resize((224, 336)),)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(224, 224), (32, 48)])
@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0, 0.333])
def test_a_preparation_has_the_same_words_after_a_round_trip(mode, size, share):
    first = EvaluationMode(mode, size, share, "bilinear")
    transforms = transforms_of(first, (0.1, 0.2, 0.3))
    assert transforms_of(evaluation_mode(transforms), (0.1, 0.2, 0.3)) == transforms


# -------------------------------------------------------------------------------------------------- bad input


def change_weights(folder, change):
    file = folder / "model.safetensors"
    arrays = {name: np.array(array) for name, array in read_weights(file).items()}
    change(arrays)
    write_safetensors(file, arrays, {})


QKV = {"timm": "blocks.0.attn.qkv.weight", "huggingface": "vit.encoder.layer.0.attention.attention.key.weight"}


def test_a_key_too_many(folder):
    change_weights(folder, lambda arrays: arrays.update(surplus=np.zeros((2, 3), np.float32)))
    refused(folder, "unexpected keys (1): surplus (2, 3)")


def test_a_key_too_few(folder):
    change_weights(folder, lambda arrays: arrays.pop(QKV[folder.name]))
    refused(folder, "variables that nothing fills", QKV[folder.name])


def test_a_wrong_shape(folder):
    change_weights(folder, lambda arrays: arrays.update({QKV[folder.name]: np.zeros((47, 16), np.float32)}))
    refused(folder, "wrong shapes", f"{QKV[folder.name]} (47, 16)")


@pytest.mark.parametrize("kept", [0, 5, 100, 5000])
def test_a_half_downloaded_file(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    refused(folder, "model.safetensors")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "the folder has no weights")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\x01", '{"a": NaN'])
def test_a_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_an_unknown_architecture(folder):
    edit(folder / "config.json", architecture="vit_bose_patch16_224", model_type="swin")
    if folder.name == "timm":
        refused(folder, "config.json", "`architecture` (='vit_bose_patch16_224')", "vit_base_patch16_224")
    edit(folder / "config.json", architecture=None)
    refused(folder, "config.json", "`model_type` (='swin')")
    edit(folder / "config.json", model_type=None)
    refused(folder, "neither `architecture` (timm) nor `model_type` (Hugging Face)")


CONTRADICTIONS = {
    "timm": [
        ({"num_classes": 7}, ("label_names", "5 names", "7")),
        ({"num_classes": 7, "label_names": None}, ("the weights have 5 classes, not 7",)),
        ({"model_args__img_size": 48}, ("the weights have 17 positions", "48 px", "37")),
        ({"model_args__patch_size": 4}, ("the patch kernel is of another patch size",)),
        ({"pretrained_cfg__input_size": [1, 32, 32]}, ("1 channels",)),
        ({"model_args__in_chans": 1}, ("`model_args.in_chans` (=1)",)),
        ({"model_args__init_values": 1e-5}, ("`model_args.init_values` (=1e-05)",)),
        ({"model_args__surprise": 1}, ("`model_args.surprise` is unknown",)),
        ({"model_args__act_layer": "relu"}, ("`model_args.act_layer` (='relu')",)),
        ({"model_args__global_pool": "max"}, ("`global_pool` (='max')",)),
        ({"model_args": 3}, ("`model_args` (=3)",)),
        ({"pretrained_cfg__crop_mode": "random"}, ("`crop_mode` (='random')",)),
        ({"pretrained_cfg__crop_pct": 1.5}, ("`crop_pct` (=1.5)",)),
        ({"pretrained_cfg__interpolation": "magic"}, ("`pretrained_cfg.interpolation` (='magic')",)),
        ({"pretrained_cfg__mean": [0.5]}, ("`pretrained_cfg.mean` (=[0.5])",)),
        ({"pretrained_cfg__input_size": "big"}, ("`pretrained_cfg.input_size` (='big')",)),
    ],
    "huggingface": [
        ({"id2label": {"0": "a", "1": "b"}}, ("the weights have 5 classes, not 2",)),
        ({"id2label": {"0": "a", "2": "b"}}, ("`id2label`",)),
        ({"image_size": 48}, ("the weights have 17 positions", "48 px", "37")),
        ({"num_channels": 1}, ("`num_channels` (=1)",)),
        ({"hidden_act": "relu"}, ("`hidden_act` (='relu')",)),
        ({"hidden_size": "wide"}, ("`hidden_size` (='wide')",)),
        ({"num_attention_heads": 3}, ("`width` (=16) must be divisible by `num_heads` (=3)",)),
        ({"architectures": ["ViTForMaskedImageModeling"]}, ("`architectures`",)),
        ({"layer_norm_eps": True}, ("`layer_norm_eps` (=True)",)),
    ],
}


@pytest.mark.parametrize(
    ("kind", "changes", "parts"),
    [(kind, changes, parts) for kind, rows in CONTRADICTIONS.items() for changes, parts in rows],
)
def test_a_config_that_says_something_else_than_the_weights_or_nothing_known(originals, tmp_path, kind, changes, parts):
    for file in (originals / kind).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit(tmp_path / "config.json", **changes)
    refused(tmp_path, "config.json", *parts)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"resample": 9}, "`resample` (=9)"),
        ({"size": {"longest_edge": 3}}, "`size`"),
        ({"image_mean": "grey"}, "`image_mean`"),
        ({"image_std": [0, 1, 1]}, "std"),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "leaves pictures of different shapes"),
    ],
)
def test_a_preprocessing_file_that_cannot_be_followed(originals, tmp_path, changes, part):
    for file in (originals / "huggingface").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit(tmp_path / "preprocessor_config.json", **changes)
    refused(tmp_path, "preprocessor_config.json", part)
    (tmp_path / "preprocessor_config.json").write_text("{")
    refused(tmp_path, "preprocessor_config.json", "damaged")


def test_sizes_that_disagree_are_said(originals, tmp_path, caplog):
    for file in (originals / "huggingface").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    edit(tmp_path / "preprocessor_config.json", size={"height": 48, "width": 48}, do_center_crop=False)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        opened = vitjax.load(tmp_path)
    assert "makes pictures of 48x48 px, config.json says `image_size` 32x32" in caplog.text
    assert opened.predict(np.zeros((9, 9, 3), np.uint8))[0].error is None
    (tmp_path / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        assert vitjax.load(tmp_path).batches.transforms == (Resize((32, 32), "bilinear"),)
    assert "there is no preprocessor_config.json" in caplog.text


# -------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"representation_size": 8}, "`representation_size`"),
        ({"positions": SinCosPositions}, "`positions`"),
        ({"norm_epsilon": 1e-3}, "`norm_epsilon` (=0.001) is 1e-06 there"),
        ({"activation": np.tanh}, "`activation`"),
    ],
)
def test_timm_does_not_hold_everything(settings, part, tmp_path):
    module = ViT(**SIZES, num_classes=3, **settings)
    bundle = tiny()
    odd = type(bundle)(module, bundle.task, bundle.batches, ("a", "b", "c"), bundle.make_variables)
    with pytest.raises(UserError) as caught:
        odd.save(tmp_path / "out", format="timm")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_neither_overwrites_other_things(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for name in FORMATS:
        with pytest.raises(UserError, match="exists and holds other things"):
            tiny().save(tmp_path, format=name)
    navit = vitjax.create_model("navit_base_patch16", num_classes=3, width=16, depth=1, num_heads=2, mlp_width=32)
    with pytest.raises(UserError, match="NaViT has no such layout"):
        navit.save(tmp_path / "out", format="timm")


# -------------------------------------------------------------------------------------------- initial weights


def test_initial_weights_leave_the_head_out_and_resample(folder, caplog):
    target = ViT(**{**SIZES, "image_size": 48}, num_classes=3, norm_epsilon=1e-5)
    batches = ImageBatches(source=None, transforms=(Resize(48),), batch_size=1)
    shapes = variable_shapes(target, Classification(), batches)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        given = initial_weights(target, shapes, path=str(folder))
    assert set(shapes) - set(given) == {"params/head/kernel", "params/head/bias"}
    assert all(array.shape == shapes[path] for path, array in given.items())
    assert "the head is left out, it has 5 classes and the model 3" in caplog.text
    assert "positions resampled from 4x4 to 6x6" in caplog.text
    assert "computed with `norm_epsilon` 1e-06, the model has 1e-05" in caplog.text

    same = ViT(**SIZES, num_classes=5)
    whole = initial_weights(same, variable_shapes(same, Classification(), batches), path=str(folder))
    assert "params/head/kernel" in whole

    wider = ViT(**{**SIZES, "width": 32}, num_classes=3)
    with pytest.raises(UserError, match=r"the weights do not fit the model: .*expected"):
        initial_weights(wider, variable_shapes(wider, Classification(), batches), path=str(folder))


def test_initial_weights_of_our_own_runs(tmp_path):
    bundle = tiny()
    bundle.save(tmp_path / "run" / "best")
    target = ViT(**SIZES, num_classes=3)
    batches = ImageBatches(source=None, transforms=(Resize(32),), batch_size=1)
    given = initial_weights(target, variable_shapes(target, Classification(), batches), path=str(tmp_path / "run"))
    before = flatten(bundle.variables)
    assert set(before) - set(given) == {"params/head/kernel", "params/head/bias"}
    for path, array in given.items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("Apfel", "Birne", "Cello"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            image = generator.normal(60, 5, (40, 40, 3))
            image[..., ("Apfel", "Birne", "Cello").index(name)] += 150
            image = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def fine_tuning(folder, pictures, workdir):
    from ml_collections import ConfigDict

    batches = {"batch_size": 8, "transforms": (spec(Resize, size=48),)}
    source = {"data": f"folder:{pictures}"}
    return ConfigDict(
        {
            "seed": 0, "workdir": str(workdir), "steps": 30, "task": spec(Classification),
            "model": spec(ViT, **{**SIZES, "image_size": 48}, norm_epsilon=1e-6),
            "initial": factory(initial_weights, path=str(folder)),
            "train": spec(ImageBatches, source=spec(open_source, split="train", **source), **batches),
            "evaluation": spec(ImageBatches, source=spec(open_source, split="validation", **source), **batches),
            "optimizer": spec(AdamW, lr=1e-2, weight_decay=0.0), "schedule": spec(Cosine, warmup_steps=1),
            "decay_rules": ((".*", 0.0),), "rate_rules": ((".*", 1.0),), "clip_norm": 1.0, "accumulate_steps": 1,
            "ema_decay": None, "mesh": {"data": 1, "fsdp": 1, "tensor": 1}, "sharding_rules": (), "log_every": 6,
            "evaluate_every": 30, "checkpoint_every": 30, "keep_checkpoints": 1, "best_metric": "top1",
        }
    )  # fmt: skip


@pytest.mark.slow
def test_a_fine_tuned_runs_best_predicts_with_the_right_names(originals, pictures, tmp_path):
    fit(fine_tuning(originals / "timm", pictures, tmp_path / "run"))
    opened = vitjax.load(tmp_path / "run")
    assert opened.labels == ("Apfel", "Birne", "Cello")
    for name in opened.labels:
        assert opened.predict(str(pictures / name / "0.png"))[0].top1.label == name
    # And on to the others, with its labels.
    opened.save(tmp_path / "out", format="timm")
    assert vitjax.load(tmp_path / "out").labels == opened.labels
    assert opened.module.pool is not AveragePooling
    smaller = vitjax.load(tmp_path / "run", num_classes=2, image_size=32)
    assert smaller.predict(str(pictures / "Birne" / "1.png"))[0].scores.shape == (2,)
