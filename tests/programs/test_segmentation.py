"""Training that ends with a picture; what is kept of it opens and predicts class maps at the pictures' own sizes."""

import numpy as np
import pytest
from PIL import Image

from vitjax.config import load_config_file
from vitjax.data.scene_batching import SceneBatches
from vitjax.inference.bundle import load
from vitjax.programs import segmentation
from vitjax.programs.segmentation import save_comparison, train_and_draw
from vitjax.training.fit import RunSummary


def small(tmp_path):
    overrides = ["steps=2", "evaluate_every=2", "checkpoint_every=2", "log_every=1", "schedule.warmup_steps=1"]
    overrides += ["model.backbone.depths=(1,1,1)", "model.backbone.widths=(8,8,8,8,8,8)", "model.aspp_width=8"]
    overrides += ["model.backbone.transformer_widths=(8,8,8)", "size=32", "train.batch_size=4", "train.workers=0"]
    overrides += ["evaluation.batch_size=4", "evaluation.source.num_scenes=4", f"workdir={tmp_path / 'run'}"]
    return load_config_file("configs/mobilevit_segmentation.py", overrides)


@pytest.mark.long
def test_it_trains_draws_and_can_be_opened(tmp_path, capsys):
    made = train_and_draw(small(tmp_path), images=3)
    assert not made.interrupted
    assert 0 <= made.run.scores["mean_iou"] <= 1
    assert made.picture == tmp_path / "run" / "plots" / "predictions.png"
    assert Image.open(made.picture).size[0] > 300
    assert "mean_iou" in capsys.readouterr().out

    bundle = load(tmp_path / "run")
    assert isinstance(bundle.batches, SceneBatches)
    whole, broken = bundle.predict([np.full((40, 61, 3), 200, np.uint8), b"no picture"])
    assert whole.class_map.shape == (40, 61)
    assert whole.top1.label in bundle.labels
    assert broken.error is not None
    assert whole.plot(tmp_path / "one.png").is_file()


def test_an_interrupted_run_draws_nothing(tmp_path, monkeypatch):
    stopped = RunSummary(tmp_path, 1, {}, None, interrupted=True, compilations=1, seconds=0.0)
    monkeypatch.setattr(segmentation, "fit", lambda config: stopped)
    made = train_and_draw(small(tmp_path))
    assert made.interrupted
    assert made.picture is None


def test_scenes_truth_and_prediction_stand_side_by_side(tmp_path):
    from vitjax.inference.segmentation_results import segmentation_result

    scenes = [{"image": np.full((8, 12, 3), 99, np.uint8), "class_map": np.eye(8, 12, dtype=np.uint8)}] * 4
    found = [segmentation_result(str(n), ("background", "x"), np.zeros((4, 4), int), (8, 12), 1) for n in range(3)]
    lost = segmentation_result("3", ("background", "x"), None, None, 1, error="cannot be read")
    path = save_comparison(scenes, [*found, lost], tmp_path / "plots" / "p.png")
    assert Image.open(path).size[0] > Image.open(path).size[1]
