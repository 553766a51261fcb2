"""A loss that is no number ends the run before it can spoil the state or a checkpoint."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from fake_run import Batches, Classify, config

from vitjax.config import spec
from vitjax.errors import UserError
from vitjax.training.fit import fit


class _Shards:
    process_index, process_count, groups = 0, 1, 1

    def local_size(self, size, setting):
        return size


def first_step_with(number):
    stream = Batches().stream(0, _Shards())
    for step in range(1, 100):
        if number in next(stream)["example"]:
            return step
    raise AssertionError(f"example {number} never comes")


def test_stops_before_the_update(tmp_path):
    """The example that is poisoned comes first at a step in the middle of the run."""
    poisoned = next(number for number in range(40) if 3 <= first_step_with(number) <= 6)
    step = first_step_with(poisoned)
    given = config(
        tmp_path,
        steps=8,
        task=spec(Classify, poisoned=poisoned),
        evaluation=spec(Batches, source=poisoned or 1),  # without the poisoned example
        checkpoint_every=1,
        keep_checkpoints=20,
    )
    with pytest.raises(UserError, match=rf"step {step}: loss nan.*\b{poisoned}\b.*last checkpoint: step {step - 1} "):
        fit(given)
    saved = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert saved == list(range(1, step))
    event = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert event["kind"] == "nonfinite"
    assert event["step"] == step
    assert poisoned in event["examples"]

    import orbax.checkpoint as ocp

    state = ocp.PyTreeCheckpointer().restore(tmp_path / "checkpoints" / str(step - 1) / "state")
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state["params"]))
    assert not state["halted"]
