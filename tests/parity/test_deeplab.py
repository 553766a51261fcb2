"""DeepLabv3 against transformers': forward, stages, gradients and running statistics; files; the authors' settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights
from benchmarks.parity_cases_deeplab import DEEPLAB_CASES, LAYOUT, small
from vitjax.errors import UserError
from vitjax.layers.segmentation_head import AuxiliaryHead
from vitjax.models import layouts_of
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.paths import flatten, unflatten
from vitjax.weights.rules import export_weights, import_weights

TRUNKS = [MobileViTTrunk, MobileViTV2Trunk]
WHOLE = ["DeepLabv3 on MobileViT vs Hugging Face", "DeepLabv3 on MobileViTv2 vs Hugging Face"]


QUICK = ("DeepLabv3 on MobileViT vs Hugging Face, training", "DeepLabv3 on MobileViTv2 vs Hugging Face")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DEEPLAB_CASES]
)
def test_deeplab_is_the_reference(name):
    case = DEEPLAB_CASES[name]()
    found = compare(case, 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"stage_5", "pyramid", "logits", "gradient of params/aspp/pooled/norm/scale"} < names
    assert ("batch_stats/aspp/pooled/norm/var" in names) == case.training


def state_of(module):
    return {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", WHOLE)
def test_transformers_files_come_back_bit_for_bit(name):
    case = DEEPLAB_CASES[name]()
    random_weights(case.reference, 0)
    random_batch_norms(case.reference, 0)
    foreign = state_of(case.reference)
    back = export_weights(case.table, import_weights(case.table, foreign, case.variables))
    kept = {key: array for key, array in foreign.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for key, array in kept.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@functools.cache
def variables_of(trunk):
    """Random variables of a small model with an auxiliary head, as the authors compute it, by path."""
    model = small(trunk, layout="authors", auxiliary=functools.partial(AuxiliaryHead, min_width=8))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    generator = np.random.default_rng(0)
    drawn = {
        path: generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32) * 0.2
        for path, leaf in flatten(dict(shapes)).items()
        if not path.startswith("intermediates")
    }
    return model, drawn


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_authors_files_come_back_bit_for_bit(trunk):
    model, variables = variables_of(trunk)
    layout = LAYOUT["authors"]
    foreign = export_weights(layout.rules(model), variables)
    assert {"encoder.conv_1.block.conv.weight", "seg_head.aux_head.2.block.conv.bias"} < set(foreign)
    assert "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1.block.norm.running_var" in foreign
    shapes = {path: array.shape for path, array in variables.items()}
    old = {
        f"module.{key.replace('seg_head.classifier.', 'seg_head.classifier.classifier.')}": array
        for key, array in foreign.items()
    }
    back = import_weights(layout.rules(model), layout.prepare(old), shapes)
    assert back.keys() == variables.keys()
    for path, array in variables.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)
    without = {path: shape for path, shape in shapes.items() if "/auxiliary_head/" not in path}
    assert import_weights(layout.rules(model.clone(auxiliary=None)), foreign, without).keys() == without.keys()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_layouts_settings_are_the_two_sides_ways(trunk):
    theirs, (authors, variables) = small(trunk), variables_of(trunk)
    images = np.random.default_rng(1).normal(size=(1, 64, 128, 3)).astype(np.float32)
    variables = {path: array for path, array in variables.items() if "/auxiliary_head/" not in path}
    here, there = (
        np.asarray(jax.jit(module.apply)(unflatten(variables), images)["logits"])
        for module in (theirs, authors.clone(auxiliary=None))
    )
    assert here.shape == (1, 4, 8, 5)
    assert there.shape == (1, 64, 128, 5)
    # Corners stay in place when the authors enlarge; what is dilated there and not here shows in version 2 alone.
    same = np.allclose(there[:, [0, -1], [0, -1]], here[:, [0, -1], [0, -1]], rtol=1e-4, atol=1e-6)
    assert same == (trunk is MobileViTTrunk)
    undilated = authors.clone(auxiliary=None, backbone=theirs.backbone)
    there = np.asarray(jax.jit(undilated.apply)(unflatten(variables), images)["logits"])
    np.testing.assert_allclose(there[:, [0, -1], [0, -1]], here[:, [0, -1], [0, -1]], rtol=1e-4, atol=1e-6)


def test_the_files_are_those_of_the_head_not_of_the_trunk():
    assert layouts_of(small(MobileViTTrunk)) is layouts_of(type(small(MobileViTTrunk)))
    assert {layout.name for layout in layouts_of(small(MobileViTTrunk))} == {"huggingface", "authors"}


def test_a_trunk_that_nobody_has():
    import flax.linen as nn

    with pytest.raises(UserError, match="DeepLabV3 on Dense: nobody else's files hold it"):
        LAYOUT["authors"].rules(small(MobileViTTrunk, backbone=functools.partial(nn.Dense, features=3)))
