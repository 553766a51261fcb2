import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_models import IMAGES, bundle, drawn, vit

from vitjax.config import build, from_json, to_json
from vitjax.errors import UserError
from vitjax.models.deepvit import DeepViT
from vitjax.paths import flatten
from vitjax.training.optimizers import trained_paths
from vitjax.transfer import regimes
from vitjax.transfer.low_rank import merge

HEAD = {"head/bias", "head/kernel"}
TASK = {"task_late/class_token", "task_late/memory", "task_late/head/kernel", "task_late/head/bias"}
FACTORS = {
    f"low_rank/block_{number}.attention.{name}.kernel/{side}"
    for number in range(2)
    for name in ("query", "value")
    for side in "ab"
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "best"
    vit().save(path)
    return str(path)


def started(regime, num_classes=2):
    """The module, its fresh parameters with what `initial` gives in their place, and what it gave."""
    spec = from_json(to_json(regime.model))
    spec.num_classes = num_classes
    module = build(spec, packages=("vitjax",))
    fresh = flatten(drawn(module))
    given = build(regime.initial)(module, {path: leaf.shape for path, leaf in fresh.items()})
    return module, fresh | given, given


CASES = {
    "full": (regimes.full, None),
    "head_only": (regimes.head_only, HEAD),
    "head_and_class_token": (regimes.head_and_class_token, HEAD | {"class_token"}),
    "memory": (regimes.memory, HEAD | {"class_token", "memory"}),
    "masked_memory": (lambda folder: regimes.masked_memory(folder, task="late", cells=1), TASK),
    "low_rank": (regimes.low_rank, FACTORS | {f"base/{path}" for path in HEAD}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_and_where_it_starts(name, folder):
    make, expected = CASES[name]
    regime = make(folder)
    module, start, given = started(regime)
    params = {path.removeprefix("params/"): leaf for path, leaf in start.items()}
    trained = {path for path, is_trained in trained_paths(params, regime.rate_rules).items() if is_trained}
    assert trained == (set(params) if expected is None else expected)
    # All that is not trained comes from the bundle.
    assert {f"params/{path}" for path in set(params) - trained} <= set(given)
    stored = flatten(jax.device_get(vit().variables))
    for path, leaf in given.items():
        old = path.replace("params/base/", "params/").replace("task_late/class_token", "class_token")
        np.testing.assert_array_equal(leaf, stored[old])
    assert module.num_classes == 2


def test_the_old_head_is_kept_by_the_masked_form_alone(folder):
    for name, (make, _) in CASES.items():
        _, _, given = started(make(folder), num_classes=3)
        assert any("head/kernel" in path for path in given) == (name == "masked_memory"), name


def test_merging_gives_a_plain_model_of_the_same_function(folder, tmp_path):
    module, start, _ = started(regimes.low_rank(folder))
    variables = {"params": {}}
    for path, leaf in start.items():
        node = variables
        *parents, last = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    merged = merge(bundle(module, ("x", "y"), variables))
    assert type(merged.module).__name__ == "ViT"
    np.testing.assert_allclose(
        jax.jit(merged.module.apply)(merged.variables, IMAGES), jax.jit(module.apply)(variables, IMAGES), atol=1e-5
    )
    merged.save(tmp_path / "plain")
    with pytest.raises(UserError, match="expected a LowRank"):
        merge(merged)


def test_weights_that_do_not_fit_are_all_listed(folder):
    initial = regimes.FromBundle(folder)
    shapes = {path: leaf.shape for path, leaf in flatten(vit().variables).items()}
    shapes["params/head/kernel"] = (32, 9)
    del shapes["params/class_token"]
    with pytest.raises(UserError, match=r"class_token .* absent.*head/kernel \(32, 3\)"):
        initial(None, shapes)


def test_memory_is_for_vits(tmp_path):
    module = DeepViT(num_classes=3, image_size=16, patch_size=8, width=32, depth=1, num_heads=4, mlp_width=8)
    bundle(module, tuple("abc")).save(tmp_path / "deep")
    with pytest.raises(UserError, match="is no ViT that memory can be added to"):
        regimes.memory(str(tmp_path / "deep"))
    with pytest.raises(UserError, match="expected a bundle"):
        regimes.full(str(tmp_path / "nothing"))
