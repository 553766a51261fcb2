"""SSDLite: the published sizes, what comes out, folding, and settings that cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.parity_cases_ssdlite import small
from vitjax.errors import UserError
from vitjax.models import create_model
from vitjax.ops.anchors import SSDAnchors
from vitjax.paths import flatten, unflatten

# apple/ml-cvnets: the layout's own count for MobileViT; README-mobilevit-v2's table, in millions, for version 2.
PUBLISHED = {
    "mobilevit_xxs": 1_755_050,
    "mobilevit_xs": 2_742_042,
    "mobilevit_s": 5_738_826,
    "mobilevitv2_050": 2.0e6,
    "mobilevitv2_075": 3.6e6,
    "mobilevitv2_100": 5.6e6,
    "mobilevitv2_125": 8.2e6,
    "mobilevitv2_150": 11.3e6,
    "mobilevitv2_175": 14.9e6,
    "mobilevitv2_200": 19.1e6,
}
QUICK = ("mobilevit_xxs", "mobilevitv2_050")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in PUBLISHED]
)
def test_sizes_and_shapes_are_the_published_ones(name):
    module = create_model(f"ssdlite_{name}")
    found, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), jnp.zeros((1, 320, 320, 3))))
    count, published = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])), PUBLISHED[name]
    assert count == published if isinstance(published, int) else round(count / 1e6, 1) == published / 1e6
    assert found["offsets"].shape == (1, 3232, 4)
    assert found["logits"].shape == (1, 3232, 81)
    assert found["anchors"].shape == (3232, 4)


def draw_variables(module, images, seed=0):
    """Random ones, scales and variances around 1."""
    generator = np.random.default_rng(seed)
    shapes = flatten(jax.eval_shape(lambda: dict(module.init(jax.random.key(0), images))))
    around = {path: float(path.endswith(("scale", "var"))) for path in shapes if not path.startswith("intermediates")}
    return unflatten({
        path: (mean + generator.uniform(-0.3, 0.3, shapes[path].shape)).astype(np.float32)
        for path, mean in around.items()
    })  # fmt: skip


def test_folding_leaves_the_outputs_and_no_statistics():
    images = np.random.default_rng(1).normal(size=(2, 32, 48, 3)).astype(np.float32)
    module = small()
    variables = draw_variables(module, images)
    folded, folded_variables = module.fuse(variables)
    assert set(folded_variables) == {"params"}
    expected, found = jax.jit(module.apply)(variables, images), jax.jit(folded.apply)(folded_variables, images)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    assert found["offsets"].shape[1] == 8 * 12 * 6 + 4 * 6 * 4 + 2 * 3 * 4 + 4


def test_half_precision_returns_whole_numbers():
    module = small(dtype="bfloat16")
    images = jnp.zeros((1, 32, 32, 3))
    found, _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images))
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"head_widths": (8, 8)}, r"`head_widths` \(=\(8, 8\)\) must have one width for each of the 3 maps"),
        ({"pooled_width": None}, "`anchors` are of 4 levels, but there are 3 feature maps"),
        ({"anchors": SSDAnchors(((2,),))}, "`anchors` are of 1 levels, but there are 4 feature maps"),
    ],
)
def test_numbers_of_levels_must_agree(keywords, message):
    with pytest.raises(UserError, match=message):
        small(**keywords)


def test_classes_must_be_known():
    module = small(num_classes=None)
    with pytest.raises(UserError, match=r"`num_classes` \(=None\) must be set: classes without the background"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def test_a_folded_model_cannot_be_trained():
    module, _ = create_model("ssdlite_mobilevit_xxs").fuse({})
    with pytest.raises(UserError, match="a fused model has no batch statistics and cannot be trained"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=True))
