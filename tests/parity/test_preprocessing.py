"""Evaluation preprocessing against timm's own: the same pixels, to one level of 255."""

import numpy as np
import pytest
from PIL import Image

from vitjax.data.images import decode_image
from vitjax.data.transforms import Normalise, apply_transforms, evaluation_transforms

create_transform = pytest.importorskip("timm.data").create_transform

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(rows: int, columns: int) -> np.ndarray:
    """Slopes, edges and noise: all that tells filters apart."""
    y, x = np.mgrid[:rows, :columns]
    generator = np.random.default_rng(rows * 10_000 + columns)
    slopes = np.stack([255 * y / rows, 255 * x / columns, 255 * ((x // 7 + y // 5) % 2)], axis=-1)
    return np.clip(slopes + generator.normal(0, 40, slopes.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(375, 500), (500, 375), (256, 256), (257, 511), (101, 333), (224, 224), (80, 61), (37, 700), (1, 9)],
)
@pytest.mark.parametrize(("size", "crop_share"), [(224, 0.9), (224, 0.875), (97, 1.0), (160, 0.95)])
def test_evaluation_preprocessing_equals_timm(rows, columns, size, crop_share, interpolation):
    image = picture(rows, columns)
    theirs = create_transform(
        (3, size, size),
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop_share,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )(Image.fromarray(image))
    ours = apply_transforms(
        evaluation_transforms(size, crop_share, interpolation), decode_image(image), np.random.default_rng(0)
    )
    difference = np.abs(ours / 255 - theirs.numpy().transpose(1, 2, 0)).max()
    assert difference <= 1 / 255 + 1e-6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_from_file_to_normalised_pixels(kind, tmp_path):
    path = tmp_path / "picture"
    Image.fromarray(picture(150, 211)).save(path, kind)
    theirs = create_transform((3, 96, 96), is_training=False, interpolation="bicubic", crop_pct=0.9, **IMAGENET)(
        Image.open(path).convert("RGB")
    )
    transforms = (*evaluation_transforms(96, 0.9), Normalise(**IMAGENET))
    ours = apply_transforms(transforms, decode_image(path), np.random.default_rng(0))
    # One level of 255, in units of the smallest standard deviation.
    assert np.abs(ours - theirs.numpy().transpose(1, 2, 0)).max() <= 1 / 255 / 0.224 + 1e-5


@pytest.mark.parametrize(("rows", "columns"), [(31, 32), (32, 31), (33, 30), (20, 41), (30, 30), (64, 31)])
def test_centre_crop_of_odd_remainders_equals_torchvision(rows, columns):
    from torchvision.transforms import CenterCrop

    from vitjax.data.transforms import CentreCrop

    image = picture(rows, columns)
    for size in (29, 30, 31, 32, 33):
        theirs = np.asarray(CenterCrop(size)(Image.fromarray(image)))
        np.testing.assert_array_equal(CentreCrop(size)(image, np.random.default_rng(0)), theirs)
