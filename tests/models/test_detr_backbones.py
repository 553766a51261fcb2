"""ViT and NaViT under DETR: padding, sizes, training in bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.models.detr import DETR
from vitjax.models.detr_backbones import NaViTBackbone, ViTBackbone
from vitjax.models.navit import NaViT
from vitjax.models.vit import ViT

SIZES = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 24}
NAVIT = functools.partial(NaViTBackbone, model=functools.partial(NaViT, **SIZES), patch_size=16, max_grid=(6, 6))
VIT = functools.partial(ViTBackbone, model=functools.partial(ViT, image_size=64, **SIZES), patch_size=16)
CONTENT = np.array([[50, 80], [64, 33]], np.int32)


def detr(backbone, **settings):
    sizes = {"num_queries": 5, "width": 16, "num_heads": 2, "mlp_width": 24, "encoder_depth": 1, "decoder_depth": 1}
    return DETR(num_classes=3, backbone=backbone, **sizes, **settings)


def pictures():
    return np.random.default_rng(0).normal(size=(2, 64, 80, 3)).astype(np.float32)


def test_navit_leaves_padding_out():
    module = detr(NAVIT)
    images = pictures()
    found, variables = jax.jit(module.init_with_output)(jax.random.key(0), images, CONTENT)
    for picture, (rows, columns) in enumerate(CONTENT):
        alone = jax.jit(module.apply)(variables, images[picture : picture + 1, :rows, :columns])
        for key in found:
            np.testing.assert_allclose(found[key][:, picture], alone[key][:, 0], atol=1e-5)


def test_frames_larger_than_the_position_tables():
    with pytest.raises(UserError, match="112x64 px have 7x4 patches of 16 px; `max_grid` \\(=\\(6, 6\\)\\)"):
        jax.eval_shape(lambda: detr(NAVIT).init(jax.random.key(0), jnp.zeros((1, 112, 64, 3))))


def test_the_map_is_the_vits_own_tokens():
    backbone = VIT()
    images = pictures()[:, :, :64]
    variables = jax.jit(backbone.init)(jax.random.key(0), images)
    (tokens,) = backbone.apply(variables, images).values()
    vit = ViT(num_classes=0, image_size=64, **SIZES)
    _, state = vit.apply({"params": variables["params"]["vit"]}, images, mutable=["intermediates"])
    (normed,) = state["intermediates"]["normed"]
    np.testing.assert_allclose(tokens.reshape(2, 16, 16), normed[:, 1:], atol=1e-6)


FIRST_SCALE = "['decoder']['block_0']['norm_1']['scale']"


@pytest.mark.parametrize("backbone", [NAVIT, VIT])
def test_training_in_bfloat16(backbone):
    module = detr(backbone, dtype="bfloat16", dropout_rate=0.1)
    images = pictures()[:, :57]  # no whole number of patches, and other positions than the tables'

    def loss(params, key):
        outputs = module.apply({"params": params}, images, CONTENT - 8, train=True, rngs={"dropout": key})
        return sum(jnp.square(leaf).mean() for leaf in outputs.values())

    @jax.jit
    def step(key):
        params = module.init(key, images)["params"]
        return jax.grad(loss)(params, key)

    gradients = jax.tree.leaves_with_path(step(jax.random.key(0)))
    # The class token alone is read by nobody behind the last block, but attended to.
    assert all(np.isfinite(leaf).all() for _, leaf in gradients)
    silent = [jax.tree_util.keystr(path) for path, leaf in gradients if not np.asarray(leaf).any()]
    # The first decoder block's self-attention has zeros for values, and at first for biases.
    assert all(path.startswith(("['decoder']['block_0']['attention']", FIRST_SCALE)) for path in silent)


def test_no_norms_to_fold():
    with pytest.raises(UserError, match="the backbone ViTBackbone has no batch norms to fold"):
        detr(VIT).fuse({})
