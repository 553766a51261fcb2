"""Training that ends with a picture; what is kept of it opens and predicts segments at the pictures' own sizes."""

import numpy as np
import pytest
from PIL import Image

from vitjax.config import load_config_file
from vitjax.inference.bundle import load
from vitjax.programs import panoptic
from vitjax.programs.panoptic import train_and_draw
from vitjax.training.fit import RunSummary


def small(tmp_path):
    overrides = ["steps=2", "evaluate_every=2", "checkpoint_every=2", "log_every=1", "schedule.warmup_steps=1"]
    overrides += ["model.detector.width=16", "model.detector.mlp_width=16", "model.detector.encoder_depth=1"]
    overrides += ["model.detector.decoder_depth=1", "model.detector.backbone.width=4", "size=64"]
    overrides += ["train.batch_size=8", "train.workers=0", "evaluation.batch_size=8", "evaluation.source.num_scenes=8"]
    return load_config_file("configs/detr_panoptic.py", [*overrides, f"workdir={tmp_path / 'run'}"])


@pytest.mark.long  # tests/test_configs.py trains and draws it as well
def test_it_trains_draws_and_can_be_opened(tmp_path, capsys):
    made = train_and_draw(config := small(tmp_path), images=3)
    assert not made.interrupted
    assert {"PQ", "SQ_stuff", "AP", "mask_loss", "dice_loss"} < set(made.run.scores)
    assert Image.open(made.picture).size[0] > 300
    assert "PQ_things" in capsys.readouterr().out

    bundle = load(tmp_path / "run")
    whole, broken = bundle.predict([np.full((40, 61, 3), 200, np.uint8), b"no picture"])
    assert whole.segment_map.shape == (40, 61)
    assert len(whole.detections) == config.model.detector.num_queries
    assert broken.error is not None
    assert whole.plot(tmp_path / "one.png").is_file()
    bundle.save(tmp_path / "copy")
    again = load(tmp_path / "copy").predict(np.full((40, 61, 3), 200, np.uint8))[0]
    np.testing.assert_array_equal(again.segment_map, whole.segment_map)


def test_an_interrupted_run_draws_nothing(tmp_path, monkeypatch):
    stopped = RunSummary(tmp_path, 1, {}, None, interrupted=True, compilations=1, seconds=0.0)
    seen = []
    monkeypatch.setattr(panoptic, "fit", lambda config: seen.append(config) or stopped)
    made = train_and_draw(config := small(tmp_path))
    assert made.interrupted
    assert made.picture is None
    assert seen[0].task.stuff == (10, 11, 12)  # the data's
    assert config.task.stuff is None


def test_stuff_of_the_config_is_left(tmp_path, monkeypatch):
    seen = []
    stopped = RunSummary(tmp_path, 1, {}, None, interrupted=True, compilations=1, seconds=0.0)
    monkeypatch.setattr(panoptic, "fit", lambda config: seen.append(config) or stopped)
    config = small(tmp_path)
    config.task.stuff = (12,)
    train_and_draw(config)
    assert seen[0].task.stuff == (12,)
