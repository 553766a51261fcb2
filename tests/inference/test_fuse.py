"""`Bundle.fuse`: the same predictions without batch norms, said in numbers, and what cannot be fused or written."""

import logging
import re

import jax
import numpy as np
import pytest

import vitjax
from vitjax.analysis.cost import cost_report
from vitjax.config import describe
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.preparation import default_preparation, variable_shapes
from vitjax.models.efficientvit import EfficientViT
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.paths import flatten, unflatten

LABELS = ("one", "two", "three")


def bundle_of(module) -> Bundle:
    """A model whose running statistics are those of nothing in particular."""
    task, batches = default_preparation(module)
    generator = np.random.default_rng(0)
    arrays = {}
    for path, shape in variable_shapes(module, task, batches).items():
        near_one = path.endswith(("/var", "/scale"))
        arrays[path] = generator.uniform(0.5, 1.5, shape) if near_one else generator.normal(0, 0.3, shape)
    variables = unflatten({path: array.astype(np.float32) for path, array in arrays.items()})
    return Bundle(module, task, batches, LABELS, make_variables=lambda: jax.device_put(variables))


def test_a_fused_bundle_predicts_the_same_and_says_so(tmp_path, caplog):
    bundle = bundle_of(MobileViTV2(num_classes=3, image_size=32, width_multiplier=0.125, depths=(1, 1, 1)))
    with caplog.at_level(logging.INFO, logger="vitjax"):
        fused = bundle.fuse()
    said = re.search(
        r"fused MobileViTV2: (\d+) parameters and (\d+) running statistics before, (\d+) parameters and (\d+) after; "
        r"outputs on random pictures, up to (\S+), differ by (\S+) at most",
        caplog.text,
    )
    assert said is not None
    before, statistics, after, left, largest, difference = (float(number) for number in said.groups())
    assert (before, after) == (cost_report(bundle).parameters, cost_report(fused).parameters)
    assert before - after == statistics / 2  # of scale, bias, mean and variance one bias remains
    assert left == 0
    assert difference <= 1e-5 * max(largest, 1)
    assert set(flatten(fused.variables)) == set(
        variable_shapes(fused.module, *default_preparation(fused.module))
    )  # fmt: skip
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    scores = [one.predict(image)[0].scores for one in (bundle, fused)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)

    with pytest.raises(UserError, match="MobileViTV2 is fused already"):
        fused.fuse()
    with pytest.raises(UserError, match=r"`format` \(='timm'\) cannot hold this MobileViTV2: it is fused") as caught:
        fused.save(tmp_path / "timm", format="timm")
    assert "\n" not in str(caught.value)
    fused.save(tmp_path / "ours")
    again = vitjax.load(tmp_path / "ours")
    assert describe(again.module) == describe(fused.module)
    for path, array in flatten(fused.variables).items():
        np.testing.assert_array_equal(flatten(again.variables)[path], array, err_msg=path)


def test_what_has_no_norms_is_left_alone():
    vit = vitjax.create_model(
        "vit_tiny_patch16_224", image_size=32, width=8, depth=1, num_heads=2, mlp_width=8, num_classes=3
    )  # fmt: skip
    with pytest.raises(UserError, match="ViT has no batch norms to fold into convolutions"):
        vit.fuse()


@pytest.mark.long
def test_efficientvit_folds_its_head_and_its_residuals_too(caplog):
    small = {"widths": (16, 24), "depths": (1, 1), "num_heads": (2, 3), "query_kernels": (3, 3, 3), "key_size": 8}
    bundle = bundle_of(EfficientViT(num_classes=3, image_size=32, **small))
    with caplog.at_level(logging.INFO, logger="vitjax"):
        fused = bundle.fuse()
    assert cost_report(fused).total.norm_operations == 0
    largest, difference = re.search(r"up to (\S+), differ by (\S+) at most", caplog.text).groups()
    assert float(difference) <= 1e-5 * max(float(largest), 1)
