"""Pruning: what is left computes what the whole model does with the other channels at 0; bundles; errors."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import vitjax
from tests.transfer.tiny_models import IMAGES, vit
from vitjax.analysis.importance import channels_of
from vitjax.config import describe
from vitjax.errors import UserError
from vitjax.inference.foreign import initial_weights
from vitjax.models.deepvit import DeepViT
from vitjax.models.efficientvit import EfficientViT
from vitjax.paths import flatten, unflatten
from vitjax.transfer.pruning import choose_channels, cut_variables, prune


def importance_of(whole, seed=0):
    """Random numbers in the shapes of a model's channels."""
    rng, found = np.random.default_rng(seed), {}
    for rule in channels_of(whole.module):
        for path, leaf in flatten(whole.variables).items():
            if (match := re.fullmatch(rule.weights, path)) is not None:
                size = leaf[..., slice(*rule.part)].shape[-1]
                found.setdefault(rule.kind, {})[match["place"]] = rng.random(size)
    return found


def with_zeros(whole, chosen):
    """The whole model's variables, the channels that go set to 0 where they are made."""
    left = {path: np.array(leaf) for path, leaf in flatten(whole.variables).items()}
    for rule in channels_of(whole.module):
        for path, leaf in left.items():
            match = re.fullmatch(rule.makers, path) if rule.unit in chosen else None
            if match is not None and not path.startswith("batch_stats/"):
                gone = np.setdiff1d(np.arange(leaf.shape[-1]), chosen[rule.unit][match["place"]])
                leaf[..., gone] = 0
    return unflatten(left)


@pytest.mark.parametrize("keep", [{"hidden": 0.5}, {"query": 0.5, "value": 0.25, "hidden": 0.1}, {"value": 0.01}])
def test_a_pruned_vit_is_the_whole_one_with_zeros(keep):
    whole = vit()
    importance = importance_of(whole)
    smaller = prune(whole, importance, keep)
    chosen = choose_channels(channels_of(whole.module), importance, keep)
    run = jax.jit(whole.module.apply)
    expected = run(with_zeros(whole, chosen), IMAGES)
    np.testing.assert_allclose(jax.jit(smaller.module.apply)(smaller.variables, IMAGES), expected, atol=2e-6)
    assert not np.allclose(run(whole.variables, IMAGES), expected, atol=1e-3)


def test_an_efficientvits_ffns():
    module = EfficientViT(num_classes=3, image_size=16, widths=(8,), depths=(1,), num_heads=(1,), query_kernels=(3,))
    shapes = flatten(jax.eval_shape(module.init, jax.random.key(0), IMAGES))
    rng = np.random.default_rng(0)
    variables = unflatten({path: (0.5 + rng.random(leaf.shape)).astype(np.float32) for path, leaf in shapes.items()})
    whole = dataclasses.replace(vit(), module=module, make_variables=lambda: variables)
    importance = importance_of(whole)
    smaller = prune(whole, importance, {"hidden": 0.4})
    chosen = choose_channels(channels_of(module), importance, {"hidden": 0.4})
    expected = jax.jit(module.apply)(with_zeros(whole, chosen), IMAGES)
    np.testing.assert_allclose(jax.jit(smaller.module.apply)(smaller.variables, IMAGES), expected, rtol=1e-4)
    assert sum(size for _, size in smaller.module.channel_sizes) == round(0.4 * 32)
    with pytest.raises(UserError, match=r"`keep` has 'query'; this model can be pruned in hidden"):
        prune(whole, importance, {"query": 0.5})


def test_the_most_important_stay_over_the_whole_model():
    rules = channels_of(vit().module)
    importance = {"hidden": {"block_0": np.array([5.0, 1.0, 4.0]), "block_1": np.array([0.0, 3.0, 2.0])}}
    kept = choose_channels(rules, importance, {"hidden": 0.5})["hidden"]
    assert {place: numbers.tolist() for place, numbers in kept.items()} == {"block_0": [0, 2], "block_1": [1]}
    # Four heads of two channels: the best of each, even if another head has better ones.
    values = np.array([1.0, 2.0, 8.0, 7.0, 3.0, 4.0, 6.0, 5.0])
    importance = {"query": {"block_0": values}, "key": {"block_0": values}}
    assert choose_channels(rules, importance, {"query": 0.5})["query"]["block_0"].tolist() == [1, 2, 5, 6]


def test_saved_loaded_and_started_from(tmp_path):
    smaller = prune(vit(), importance_of(vit()), {"hidden": 0.5, "query": 0.5})
    smaller.save(tmp_path / "smaller")
    again = vitjax.load(tmp_path / "smaller")
    assert again.module == smaller.module
    outputs = [each.module.apply(each.variables, IMAGES) for each in (smaller, again)]
    np.testing.assert_array_equal(*outputs)
    twice = prune(again, importance_of(again), {"hidden": 0.5})
    assert sum(leaf.size for leaf in jax.tree.leaves(twice.variables)) < sum(
        leaf.size for leaf in jax.tree.leaves(again.variables)
    )
    shapes = {path: leaf.shape for path, leaf in flatten(smaller.variables).items()}
    given = initial_weights(smaller.module, shapes, path=str(tmp_path / "smaller"))
    assert given.keys() == shapes.keys()
    assert dict(describe(smaller.module).channel_sizes)["block_0/hidden"] == smaller.module.channel_sizes[0][1]


def test_errors():
    whole = vit()
    importance = importance_of(whole)
    for keep, message in (
        ({"heads": 0.5}, "`keep` has 'heads'; this model can be pruned in hidden, query, value"),
        ({"hidden": 0.0}, r"`keep\['hidden'\]` \(=0.0\) must be above 0 and at most 1"),
    ):
        with pytest.raises(UserError, match=message):
            prune(whole, importance, keep)
    with pytest.raises(UserError, match="DeepViT cannot be pruned: it has no field `channel_sizes`"):
        prune(dataclasses.replace(whole, module=DeepViT(num_classes=3)), importance, {"hidden": 0.5})
    assert cut_variables({"params/head/bias": np.ones(3)}, channels_of(whole.module), {})["params/head/bias"].size == 3


def test_other_libraries_have_no_such_model(tmp_path):
    smaller = prune(vit(), importance_of(vit()), {"hidden": 0.5})
    with pytest.raises(UserError, match="cannot hold this ViT: it is pruned"):
        smaller.save(tmp_path / "timm", format="timm")
