import json

import jax
import numpy as np
import pytest
from fake_run import Batches, Classify, Net, config

from vitjax.config import spec
from vitjax.errors import UserError
from vitjax.training.fit import fit
from vitjax.training.optimizers import AdamW
from vitjax.weights.bundle_io import read_bundle


def rows(workdir, kind="train"):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, fit(config(workdir))


def test_run_folder_and_summary(finished):
    workdir, summary = finished
    assert summary.step == 6
    assert not summary.interrupted
    assert summary.compilations == 1
    assert {path.name for path in workdir.iterdir()} == {
        *("config.json", "metrics.jsonl", "examples.jsonl", "tensorboard", "plots", "checkpoints", "best")
    }
    assert {path.name for path in (workdir / "plots").iterdir()} == {"loss.png", "scores.png", "inputs.png"}
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "6"]
    assert [row["step"] for row in rows(workdir)] == [2, 4, 6]
    assert {"loss", "top1", "learning_rate", "gradient_norm", "images_per_second", "data_wait", "padding_share"} < set(
        rows(workdir)[0]
    )
    assert [row["step"] for row in rows(workdir, "evaluation")] == [3, 6]
    assert summary.scores["images"] == 21  # three batches of eight, the last one padded


def test_best_is_a_bundle_of_the_averaged_parameters(finished):
    workdir, summary = finished
    bundle = read_bundle(workdir / "best")
    assert bundle.labels == ("class 0", "class 1", "class 2")
    assert bundle.model.num_classes == 3
    assert bundle.batches.source is None
    assert bundle.score == summary.best_score
    if bundle.step == 6:
        import orbax.checkpoint as ocp

        state = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / "6" / "state")
        jax.tree.map(np.testing.assert_array_equal, bundle.variables["params"], state["ema_params"])


def test_the_same_config_goes_on_and_another_is_refused(finished, capsys):
    workdir, _ = finished
    with pytest.raises(UserError, match=r"another config: `optimizer.lr` was 0.01 and is 0.5; give another folder"):
        fit(config(workdir, optimizer=spec(AdamW, lr=0.5, weight_decay=0.1)))
    before = rows(workdir)
    assert fit(config(workdir)).step == 6
    assert "is finished at step 6" in capsys.readouterr().out
    assert rows(workdir) == before
    summary = fit(config(workdir, steps=8, log_every=1))
    assert summary.step == 8
    assert "resuming" in capsys.readouterr().out
    assert [row["step"] for row in rows(workdir)] == [2, 4, 6, 7, 8]


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": {"data": -1, "fsdp": 1, "tensor": 1}},
        {"mesh": {"data": 2, "fsdp": 4, "tensor": 1}},
        {
            "mesh": {"data": 2, "fsdp": 1, "tensor": 2},
            "sharding_rules": (("hidden/kernel", (None, "tensor")), (".*", ())),
            "accumulate_steps": 2,
        },
    ],
)
def test_meshes_train_alike(changes, finished, tmp_path):
    fit(config(tmp_path, steps=6, evaluate_every=6, checkpoint_every=6, **changes))
    losses = [[row["loss"] for row in rows(folder)][:3] for folder in (tmp_path, finished[0])]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": spec(Batches, classes=1), "evaluation": spec(Batches, classes=1)}, "has 1 class "),
        ({"evaluation": spec(Batches, classes=4)}, "3 classes and `evaluation` 4, different in class 3"),
        ({"model": spec(Net, num_classes=7)}, "`model.num_classes=7`, but the training data has 3"),
        ({"mesh": {"data": 16, "fsdp": 1, "tensor": 1}}, "asks for 16 devices, but there are 8"),
        ({"mesh": {"data": 1, "fsdp": 1, "tensor": 2}}, "needs `sharding_rules`"),
        ({"train": spec(Batches, batch_size=9), "mesh": {"data": 2, "fsdp": 1, "tensor": 1}}, "not divisible by 2"),
        ({"best_metric": "top9"}, "`best_metric=top9`: the evaluation gives loss, top1"),
        ({"decay_rules": (("head/.*", 1.0),)}, r"no pattern matches hidden/bias, hidden/kernel"),
        ({"evaluation": spec(Batches, source=0)}, "yields no batch"),
    ],
)
def test_mistakes_are_told_before_the_first_step(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit(config(tmp_path, **changes))
    assert not (tmp_path / "metrics.jsonl").exists() or not rows(tmp_path)


def test_batch_norm_dropout_and_no_average(tmp_path):
    summary = fit(
        config(
            tmp_path,
            steps=2,
            model=spec(Net, batch_norm=True, dropout_rate=0.1),
            ema_decay=None,
            best_metric="-loss",
            task=spec(Classify),
        )
    )
    bundle = read_bundle(tmp_path / "best")
    assert bundle.metric == "loss"
    assert summary.best_score == bundle.score
    assert np.any(bundle.variables["batch_stats"]["norm"]["mean"])
