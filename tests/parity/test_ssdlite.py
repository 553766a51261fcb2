"""SSDLite against the authors' form in torch's layers: maps, predictions, gradients, running statistics; files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights
from benchmarks.parity_cases_ssdlite import SSDLITE_CASES, small
from vitjax.errors import UserError
from vitjax.models import create_model, layouts_of
from vitjax.paths import flatten
from vitjax.weights.rules import export_weights, import_weights

# The trunk has parity tests of its own; with it a case takes longer to compile than all others here.
_CASES = [name if "on" not in name.split() else pytest.param(name, marks=pytest.mark.long) for name in SSDLITE_CASES]


@pytest.mark.parametrize("name", _CASES)
def test_ssdlite_is_the_reference(name):
    case = SSDLITE_CASES[name]()
    found = compare(case, 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"level_0", "level_3", "logits", "gradient of params/head_0/projection/norm/scale"} < names
    assert ("batch_stats/extra_0/depthwise/norm/var" in names) == case.training
    assert all(difference.magnitude > 0 for difference in found)


def test_state_dicts_come_back_bit_for_bit():
    case = SSDLITE_CASES["SSDLite vs authors' form"]()
    random_weights(case.reference, 0)
    random_batch_norms(case.reference, 0)
    foreign = {key: tensor.detach().numpy() for key, tensor in case.reference.state_dict().items()}
    back = export_weights(case.table, import_weights(case.table, foreign, case.variables))
    kept = {key: array for key, array in foreign.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for key, array in kept.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize("name", ["ssdlite_mobilevit_xxs", "ssdlite_mobilevitv2_050"])
def test_the_authors_keys_of_a_whole_model(name):
    module = create_model(name)
    (layout,) = layouts_of(module)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 320, 320, 3))))
    variables = {
        path: np.broadcast_to(np.float32(number), leaf.shape)
        for number, (path, leaf) in enumerate(flatten(dict(shapes)).items())
        if not path.startswith("intermediates")
    }
    foreign = export_weights(layout.rules(module), variables)
    assert {
        "encoder.conv_1.block.conv.weight",
        "extra_layers.os_256.dw_conv.block.norm.running_mean",
        "extra_layers.os_-1.1.block.conv.weight",
        "ssd_heads.0.proj_layer.block.norm.weight",
        "ssd_heads.4.loc_cls_layer.pw_conv.block.conv.bias",
        "ssd_heads.5.loc_cls_layer.block.conv.weight",
    } < set(foreign)
    shapes = {path: array.shape for path, array in variables.items()}
    prepared = layout.prepare({f"module.{key}": array for key, array in foreign.items()})
    back = import_weights(layout.rules(module), prepared, shapes)
    assert back.keys() == variables.keys()
    for path, array in variables.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)


def test_a_trunk_that_nobody_has():
    (layout,) = layouts_of(small())
    with pytest.raises(UserError, match="SSDLite on Dense: nobody else's files hold it"):
        layout.rules(small(backbone=lambda **keywords: nn.Dense(3, parent=keywords["parent"])))
