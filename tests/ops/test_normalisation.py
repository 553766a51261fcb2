"""Normalised pixels against the formula, and patches against the image they were cut from."""

import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vitjax.errors import UserError
from vitjax.ops.normalisation import normalise_images, normalise_patches

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_images(shape=(2, 8, 12, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_every_byte_follows_the_formula():
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalise_images(pixels, MEAN, STD), expected, rtol=1e-6, atol=1e-6)


def test_patches_get_the_values_of_the_image_they_come_from():
    images = random_images()

    def cut(images):
        return rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=4, q=4)

    np.testing.assert_array_equal(
        normalise_patches(cut(images), MEAN, STD), cut(np.asarray(normalise_images(images, MEAN, STD)))
    )


def test_half_precision_rounds_once_from_float32():
    images = random_images()
    expected = normalise_images(images, MEAN, STD).astype(jnp.bfloat16)
    result = normalise_images(images, MEAN, STD, jnp.bfloat16)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(result, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("images", "mean", "std", "message"),
    [
        (random_images((1, 4, 4, 1)), MEAN, STD, "has 3 channels, but the images have 1"),
        (random_images(), MEAN, (0.2, 0.2), "must both have one number per channel"),
        (random_images(), MEAN, (0.2, 0.0, 0.2), "must be positive"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(images, mean, std, message):
    with pytest.raises(UserError, match=message):
        normalise_images(images, mean, std)


def test_a_patch_that_is_no_multiple_of_the_channels_is_refused():
    with pytest.raises(UserError, match="a patch of 16 values cannot be cut"):
        normalise_patches(random_images((1, 5, 16)), MEAN, STD)
