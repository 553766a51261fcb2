"""One model at several budgets: what each costs, how it is calibrated, and the cascade of two of them."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

import vitjax
from vitjax.config import factory, spec
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import TokenBudget
from vitjax.data.sources import FakeImages
from vitjax.errors import UserError
from vitjax.evaluation.calibration import calibration_error, fill_bins, top_confidences
from vitjax.inference.bundle import Bundle, load
from vitjax.programs.budgets import accuracy_over_budgets, measure_budget
from vitjax.training.program import run_config

SOURCE = {"num_examples": 18, "num_classes": 3, "shapes": ((32, 32), (24, 40))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    created = vitjax.create_model(
        "navit_base_patch16", num_classes=3, width=16, depth=1, num_heads=2, mlp_width=32, zero_init_head=False,
        patch_size=8,
    )  # fmt: skip
    batches = PackedBatches(
        source=None, patch_size=8, length=48, rows=2, packers=1, max_images=6, resolution=TokenBudget(16)
    )
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    Bundle(created.module, created.task, batches, created.labels, created.make_variables).save(path)
    return path


def test_every_budget_has_its_figures_and_the_cascade_lies_between(folder, tmp_path):
    config = ConfigDict({"workdir": str(tmp_path), "evaluation": {"source": spec(FakeImages, **SOURCE)}})
    config.program = factory(
        accuracy_over_budgets, budgets=(4, 16), cascade=(4, 16), shares=(0.0, 0.5, 1.0), repeats=1, bundle=str(folder)
    )
    found = run_config(config)
    small, large = found.curves["one budget"]
    assert (small.tokens, large.tokens) == (4, 16)
    assert small.mean_tokens <= 4 < large.mean_tokens <= 16
    assert 0 < small.macs < large.macs
    assert small.seconds > 0
    for point, share in zip(found.curves["cascade"], (0.0, 0.5, 1.0), strict=True):
        assert point.share == share
        assert point.mean_tokens == pytest.approx(small.mean_tokens + share * large.mean_tokens)
        assert point.macs == pytest.approx(small.macs + share * large.macs)
    none, _, every = found.curves["cascade"]
    assert (none.top1, none.calibration_error) == (small.top1, small.calibration_error)
    assert (every.top1, every.calibration_error) == (large.top1, large.calibration_error)
    assert len(json.loads((tmp_path / "table.json").read_text())) == 5
    assert (tmp_path / "plots" / "budgets.png").stat().st_size > 5_000

    measured = measure_budget(load(folder), FakeImages(**SOURCE), 16, repeats=1)
    bundle = load(folder)
    assert measured.point.top1 == pytest.approx(bundle.evaluate(FakeImages(**SOURCE), tokens=16)["top1"])
    bins = fill_bins(*top_confidences(measured.probabilities, measured.labels), num_bins=30)
    assert measured.point.calibration_error == calibration_error(bins) > 0
    np.testing.assert_array_equal(measured.labels, np.arange(18) % 3)  # in the order of the source


def test_mistakes_are_one_line(folder, tmp_path):
    config = ConfigDict({"workdir": str(tmp_path)})
    with pytest.raises(UserError, match=r"`cascade` \(=\(4, 9\)\) must be two of `budgets`"):
        accuracy_over_budgets(config, budgets=(4, 16), cascade=(4, 9))
    with pytest.raises(UserError, match="the bundle 3 others"):
        measure_budget(load(folder), FakeImages(num_classes=4), 4)
