"""The panoptic head: one softmax over heads and places, torch's nearest, padding that changes nothing, chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import MaskAttention, PanopticDETR, upsample_nearest
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten, unflatten

TRUNK = functools.partial(ResNetTrunk, depths=(1, 1, 1, 1), width=4, norm=functools.partial(BatchNorm, frozen=True))
BOXES = functools.partial(
    DETR, num_queries=5, width=16, num_heads=8, mlp_width=16, encoder_depth=1, decoder_depth=2, dropout_rate=0.0,
    backbone=TRUNK,
)  # fmt: skip
MODEL = PanopticDETR(num_classes=3, detector=BOXES, query_chunk=2)


@functools.cache
def variables():
    """Random ones, no norm's scale at 0; by path."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    generator = np.random.default_rng(0)
    return {
        path: generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if path.endswith(("scale", "var"))
        else (generator.normal(size=leaf.shape) * max(leaf.size // leaf.shape[-1], 1) ** -0.5).astype(np.float32)
        for path, leaf in flatten(dict(shapes)).items()
        if not path.startswith("intermediates")
    }


def pictures(*sizes, frame=(64, 96)):
    generator, images = np.random.default_rng(1), np.zeros((len(sizes), *frame, 3), np.float32)
    for image, (rows, columns) in zip(images, sizes, strict=True):
        image[:rows, :columns] = generator.normal(size=(rows, columns, 3))
    return images


def test_weights_of_the_box_model_fit_under_their_paths():
    boxes = jax.eval_shape(BOXES(num_classes=3).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    own = {path: leaf.shape for path, leaf in variables().items()}
    theirs = {path: leaf.shape for path, leaf in flatten(dict(boxes)).items() if not path.startswith("intermediates")}
    assert theirs.items() < own.items()
    assert {path.split("/")[1] for path in own.keys() - theirs.keys()} == {"mask_attention", "mask_head"}


def test_the_head_has_the_papers_size():
    full = PanopticDETR(num_classes=250)
    shapes = jax.eval_shape(full.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    counts = {"mask_head": 0, "mask_attention": 0}
    for path, leaf in flatten(dict(shapes["params"])).items():
        if path.split("/")[0] in counts:
            counts[path.split("/")[0]] += leaf.size
    assert counts == {"mask_head": 1_202_073, "mask_attention": 131_584}  # of the authors' modules


def test_a_picture_in_a_padded_batch_is_the_picture_alone():
    sizes = [(64, 64), (33, 90)]
    images = pictures(*sizes)
    apply = jax.jit(MODEL.apply)
    padded = apply(unflatten(variables()), images, np.array(sizes, np.int32))
    for number, (rows, columns) in enumerate(sizes):
        alone = apply(unflatten(variables()), images[number : number + 1, :rows, :columns])
        for name in ("logits", "boxes"):
            np.testing.assert_allclose(padded[name][:, number], alone[name][:, 0], atol=1e-5)
        cells = alone["masks"].shape[2:]
        masks = np.asarray(padded["masks"])[number, :, : cells[0], : cells[1]]
        np.testing.assert_allclose(masks, alone["masks"][0], atol=1e-5 * np.abs(alone["masks"]).max())
        assert np.abs(alone["masks"]).max() > 0.1


@pytest.mark.long
def test_selected_queries_have_the_masks_that_they_have_among_all():
    images, chosen = pictures((64, 96), (64, 96)), jnp.array([[3, -1, 0], [4, 1, 2]])

    def made(values, chunk, select):
        model = MODEL.clone(query_chunk=chunk)
        outputs = model.apply(unflatten(values), images, select=select, train=True)
        masks = outputs["masks"]
        if select is None:
            masks = jnp.take_along_axis(masks, jnp.maximum(chosen, 0)[..., None, None], axis=1)
        masks = jnp.where((chosen >= 0)[..., None, None], masks, 0)
        return jnp.sum(jnp.square(masks)), masks

    params = {path: leaf for path, leaf in variables().items() if path.startswith("params")}
    rest = {path: leaf for path, leaf in variables().items() if path not in params}
    run = jax.jit(
        jax.value_and_grad(lambda p, chunk, select: made(p | rest, chunk, select), has_aux=True), static_argnums=(1, 2)
    )
    (_, masks), gradient = run(params, None, None)
    (_, same), again = run(params, 2, select := lambda outputs: chosen)
    np.testing.assert_allclose(same, masks, rtol=0, atol=1e-5)  # seen: 0
    assert not np.asarray(same)[0, 1].any()
    largest = max(float(jnp.abs(leaf).max()) for leaf in gradient.values())
    for path, leaf in gradient.items():  # seen: 6e-7 of the largest, the chunks add up in another order
        np.testing.assert_allclose(again[path], leaf, rtol=0, atol=5e-6 * largest, err_msg=path)
    outputs = jax.eval_shape(lambda: MODEL.apply(unflatten(variables()), images, select=select))
    assert outputs["masks"].shape[1] == 5, "outside training all queries have masks"


def test_it_is_an_nnx_module_too():
    def run():
        wrapped = bridge.ToNNX(MODEL, rngs=nnx.Rngs(0)).lazy_init(pictures((64, 96)))
        return nnx.to_pure_dict(nnx.state(wrapped, (nnx.Param, nnx.BatchStat))), wrapped(pictures((64, 96)))

    state, outputs = nnx.eval_shape(run)
    assert flatten(state).keys() == {path.partition("/")[2] for path in variables()}
    assert outputs["masks"].shape == (1, 5, 16, 24)


def test_one_softmax_over_heads_and_places():
    generator = np.random.default_rng(0)
    states, memory = (generator.normal(size=shape).astype(np.float32) for shape in ((2, 3, 16), (2, 4, 5, 16)))
    mask = np.ones((2, 4, 5), bool)
    mask[1, 3:] = mask[1, :, 2:] = False
    layer = MaskAttention(4)
    values = layer.init(jax.random.key(0), states, memory, mask)
    maps = np.asarray(layer.apply(values, states, memory, mask))
    assert maps.shape == (2, 3, 4, 5, 4)
    np.testing.assert_allclose(maps.sum(axis=(2, 3, 4)), 1, rtol=1e-5)
    assert not maps[1][:, ~mask[1]].any()
    assert maps.sum(axis=(2, 3)).std() > 1e-3, "heads have unequal shares"


@pytest.mark.parametrize(("old", "new"), [((2, 3), (4, 6)), ((2, 3), (3, 5)), ((4, 6), (4, 6)), ((2, 3), (7, 8))])
def test_nearest_is_torchs(old, new):
    x = np.random.default_rng(0).normal(size=(1, 2, *old, 3)).astype(np.float32)
    expected = x[:, :, [row * old[0] // new[0] for row in range(new[0])]]
    expected = expected[:, :, :, [column * old[1] // new[1] for column in range(new[1])]]
    np.testing.assert_array_equal(upsample_nearest(x, new), expected)


def test_fused_it_is_the_same():
    images = pictures((64, 96))
    fused, folded = MODEL.fuse(unflatten(variables()))
    before, after = (
        jax.jit(model.apply)(values, images) for model, values in ((MODEL, unflatten(variables())), (fused, folded))
    )
    np.testing.assert_allclose(after["masks"], before["masks"], atol=1e-4)
    assert not any("batch_stats" in path for path in flatten(folded))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 4}, "8 groups cannot divide 20 channels"),
        ({"width": 24, "num_heads": 4}, "8 groups cannot divide 28 channels"),
    ],
)
def test_sizes_that_the_norms_cannot_divide(settings, message):
    model = MODEL.clone(detector=functools.partial(BOXES, **settings))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
