import numpy as np
import pytest
from fake_run import Net, config

from vitjax.config import factory, spec
from vitjax.errors import UserError
from vitjax.training.fit import fit
from vitjax.training.program import run_config
from vitjax.weights.bundle_io import read_bundle


def hidden_of_ones(module, shapes):
    assert isinstance(module, Net)
    assert shapes["batch_stats/norm/mean"] == (8,)
    given = {path: np.ones(shape, np.float64) for path, shape in shapes.items() if "hidden" in path}
    return given | {"batch_stats/norm/mean": np.full(8, 3.0)}


def wrong_shape(module, shapes):
    return {"params/hidden/kernel": np.zeros((1, 1)), "params/tail/bias": np.zeros(2)}


def frozen(workdir, initial):
    """A run that changes nothing but the batch statistics, so that its best model is what it started from."""
    settings = config(workdir, steps=1, ema_decay=0.5)
    settings.model.batch_norm = True
    settings.optimizer.lr = 0.0
    settings.optimizer.weight_decay = 0.0
    settings.initial = factory(initial)
    return settings


def test_training_starts_from_what_is_given_and_says_what_is_fresh(tmp_path, capsys):
    fit(frozen(tmp_path, hidden_of_ones))
    variables = read_bundle(tmp_path / "best").variables
    assert np.all(variables["params"]["hidden"]["kernel"] == 1)  # the moving average, which is what is kept
    assert np.all(variables["batch_stats"]["norm"]["mean"] > 1)  # half of 3, and half of the batch's own
    assert np.std(variables["params"]["head"]["kernel"]) > 0
    output = capsys.readouterr().out
    assert "variables given; fresh:" in output
    assert "params/head/kernel" in output.split("fresh:")[1].splitlines()[0]


def test_weights_that_do_not_fit_are_all_listed(tmp_path):
    with pytest.raises(UserError, match=r"params/hidden/kernel \(1, 1\), params/tail/bias \(2,\)"):
        fit(frozen(tmp_path, wrong_shape))


def twice(config, *, steps):
    from vitjax.config import override

    summaries = []
    for name in ("one", "two"):
        part = config.copy_and_resolve_references()
        override(part, "workdir", f"{config.workdir}/{name}")
        override(part, "steps", steps)
        summaries.append(fit(part))
    return summaries


def test_a_program_makes_several_runs(tmp_path):
    settings = config(tmp_path, steps=1)
    settings.program = factory(twice, steps=2)
    settings.lock()  # as a config file is read
    summaries = run_config(settings)
    assert [summary.step for summary in summaries] == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert "program" in settings


def test_without_a_program_the_config_is_one_run(tmp_path):
    assert run_config(config(tmp_path, steps=1)).step == 1


def test_fresh_weights_without_initial(tmp_path):
    settings = config(tmp_path, steps=1)
    settings.model = spec(Net)
    assert fit(settings).step == 1
