import shutil

import numpy as np
import pytest
from fake_run import Batches, Classify, Net

from vitjax.config import spec
from vitjax.errors import UserError
from vitjax.weights.bundle_io import read_bundle, save_bundle

VARIABLES = {"params": {"head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}


def save(folder, **changes):
    parts = {"model": spec(Net, num_classes=3), "task": spec(Classify), "batches": spec(Batches)}
    save_bundle(folder, labels=("a", "b", "c"), variables=VARIABLES, **(parts | changes))


def test_round_trip(tmp_path):
    save(tmp_path / "best", step=7, score=0.5, metric="top1")
    bundle = read_bundle(tmp_path / "best")
    np.testing.assert_array_equal(bundle.variables["params"]["head"]["kernel"], VARIABLES["params"]["head"]["kernel"])
    assert isinstance(bundle.variables["params"]["head"]["kernel"], np.ndarray)
    assert (bundle.labels, bundle.step, bundle.score, bundle.metric) == (("a", "b", "c"), 7, 0.5, "top1")
    assert bundle.model == spec(Net, num_classes=3)
    assert bundle.batches.source is None
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert read_bundle(tmp_path / "best", variables=False).variables == {}


def test_replaces_the_old_one_and_survives_a_kill_between_the_moves(tmp_path):
    save(tmp_path / "best", step=1)
    save(tmp_path / "best", step=2)
    assert read_bundle(tmp_path / "best").step == 2
    shutil.move(tmp_path / "best", tmp_path / ".best.old")
    assert read_bundle(tmp_path / "best").step == 2


def test_no_bundle(tmp_path):
    with pytest.raises(UserError, match="expected a bundle"):
        read_bundle(tmp_path)
    save(tmp_path / "best")
    (tmp_path / "best" / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_bundle(tmp_path / "best")
