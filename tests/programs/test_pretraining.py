"""The classifier's run comes first, in its own folder and with its own settings; its trunk starts the second."""

from pathlib import Path

from ml_collections import ConfigDict

from vitjax.config import build, load_config_file
from vitjax.programs import pretraining
from vitjax.programs.pretraining import pretrain_backbone
from vitjax.training.fit import RunSummary


def runs(config, monkeypatch, tmp_path, *, interrupted=False):
    """What `fit` and the following program are asked for, and what comes out."""
    seen = []

    def fit(config):
        seen.append(config)
        return RunSummary(tmp_path, 1, {}, None, interrupted=interrupted, compilations=1, seconds=0.0)

    monkeypatch.setattr(pretraining, "fit", fit)
    return seen, pretrain_backbone(config, then=lambda config: seen.append(config) or "the second's")


def config_of(tmp_path) -> ConfigDict:
    return load_config_file("configs/detr.py", [f"workdir={tmp_path}", "pretraining.steps=7"])


def test_each_run_has_its_settings(monkeypatch, tmp_path):
    config = config_of(tmp_path)
    before = config.to_json_best_effort()
    (classifier, detector), made = runs(config, monkeypatch, tmp_path)
    assert made == "the second's"
    assert config.to_json_best_effort() == before

    assert classifier.steps == 7
    assert Path(classifier.workdir) == tmp_path / "backbone"
    assert classifier.model.target.endswith(":ResNet")
    assert classifier.best_metric == "top1"
    assert classifier.get("initial") is None

    assert detector.steps == config.steps
    assert Path(detector.workdir) == tmp_path
    assert detector.model.target.endswith(":DETR")
    assert build(detector.initial).keywords["path"] == str(tmp_path / "backbone" / "best")
    assert "pretraining" not in classifier
    assert "pretraining" not in detector


def test_an_interrupted_classifier_starts_no_detector(monkeypatch, tmp_path):
    seen, made = runs(config_of(tmp_path), monkeypatch, tmp_path, interrupted=True)
    assert len(seen) == 1
    assert made.interrupted


def test_a_classifier_can_be_the_trunk_itself(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(pretraining, "fit", lambda config: RunSummary(tmp_path, 1, {}, None, False, 1, 0.0))
    config = load_config_file("configs/navit_detr.py", [f"workdir={tmp_path}"])
    pretrain_backbone(config, then=seen.append, trunk=config.program.trunk)
    assert build(seen[0].initial).keywords["trunk"] == ""
