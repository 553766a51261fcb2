"""The evaluation of a bundle: every score it prints is in its table, and those of other labels are left out aloud."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

import vitjax
from vitjax.config import factory, spec
from vitjax.data.folders import ImageFolder
from vitjax.data.sources import FakeImages
from vitjax.errors import UserError
from vitjax.inference.bundle import load
from vitjax.programs.evaluate import evaluate_bundle
from vitjax.training.program import run_config

TINY = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32, "zero_init_head": False, "patch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    vitjax.create_model("vit_base_patch16_224", **TINY, image_size=32, num_classes=3).save(path)
    return path


@pytest.fixture
def config(folder, tmp_path):
    # `create_model` calls its labels as FakeImages does
    source = {"num_classes": 3, "shapes": ((32, 32),)}
    return ConfigDict(
        {
            "workdir": str(tmp_path / "out"),
            "bundle": str(folder),
            "train": spec(FakeImages, num_examples=36, **source),
            "evaluation": spec(FakeImages, num_examples=24, seed=1, **source),
        }
    )


def test_colours_tell_the_classes_apart(config, tmp_path, capsys):
    config.program = factory(evaluate_bundle, shots=(1, 5), neighbours=4)
    found = run_config(config)
    assert not found.interrupted
    assert set(found.scores) == {
        "1_shot", "5_shot", "4_neighbours", "linear_probe", "top1", "calibration_error", "calibration_error_equal_mass",
        "temperature", "half_before_temperature", "half_after_temperature",
    }  # fmt: skip
    for name in ("5_shot", "4_neighbours", "linear_probe"):
        assert found.scores[name] > 0.9  # chance is 1/3; each class of FakeImages has a colour of its own
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == found.scores
    assert (tmp_path / "out" / "plots" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(name in printed for name in found.scores)
    bundle = load(config.bundle)
    assert found.scores["top1"] == pytest.approx(bundle.evaluate(FakeImages(24, 3, ((32, 32),), seed=1))["top1"])


def test_other_labels_leave_the_probabilities_out(config, capsys):
    for name in ("train", "evaluation"):
        config[name].num_classes = 4
    found = evaluate_bundle(config, shots=(), neighbours=100, probe=False)
    assert list(found.scores) == ["36_neighbours"]
    assert "probabilities are left out: fake has other labels" in capsys.readouterr().out


def test_real_labels_are_found_by_file_name(folder, config, tmp_path):
    from PIL import Image

    for label in range(3):
        path = tmp_path / "images" / f"class {label}"
        path.mkdir(parents=True)
        for number in range(6):
            name = f"ILSVRC2012_val_{6 * label + number + 1:08d}.png"
            Image.fromarray(np.full((32, 32, 3), 80 * label, np.uint8)).save(path / name)
    for name, split in (("train", "train"), ("evaluation", "validation")):
        config[name] = spec(ImageFolder, path=str(tmp_path / "images"), split=split, validation_share=0.5)
    # at first every class is right, then none
    (tmp_path / "real.json").write_text(json.dumps([[0, 1, 2]] * 18))
    options = {"shots": (), "neighbours": 0, "probe": False}
    assert evaluate_bundle(config, **options, real_labels=str(tmp_path / "real.json")).scores["real_top1"] == 1.0
    (tmp_path / "real.json").write_text(json.dumps([[7]] * 18))
    assert evaluate_bundle(config, **options, real_labels=str(tmp_path / "real.json")).scores["real_top1"] == 0.0


def test_mistakes_are_one_line(config, tmp_path):
    with pytest.raises(UserError, match="ReaL needs ImageNet as a folder of files"):
        evaluate_bundle(config, shots=(), neighbours=0, probe=False, real_labels=str(tmp_path / "real.json"))
    config.train.num_classes = 2
    with pytest.raises(UserError, match="fake and fake have different labels"):
        evaluate_bundle(config)
    del config["bundle"]
    with pytest.raises(UserError, match="the config lacks `bundle`"):
        evaluate_bundle(config)
