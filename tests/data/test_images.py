"""Decoding: every kind of file becomes upright uint8 RGB, and the header alone gives the same size."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from vitjax.data.images import decode_image, image_size
from vitjax.errors import UserError

_RAMP = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3  # 6 rows, 4 columns, every pixel different


def encode(picture: Image.Image, kind: str = "PNG", **keywords) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **keywords)
    return buffer.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# What each EXIF value says of the stored rows and columns (EXIF 2.32, 4.6.4): where the picture's top left pixel lies.
_TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(_RAMP), kind, exif=with_orientation(orientation), **options)
    decoded = decode_image(data)
    np.testing.assert_array_equal(decoded, _TURNS[orientation](_RAMP))
    assert image_size(data) == decoded.shape[:2]


def test_jpeg_orientation_from_bytes_path_and_opened_picture(tmp_path):
    picture = Image.fromarray(np.full((20, 30, 3), (200, 30, 60), np.uint8))
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(picture, "JPEG", exif=with_orientation(6), quality=95))
    for data in (path, str(path), path.read_bytes(), Image.open(path)):
        assert image_size(data) == (30, 20)
        decoded = decode_image(data)
        assert decoded.shape == (30, 20, 3)
        assert np.abs(decoded.astype(int) - (200, 30, 60)).max() <= 3


def test_png_orientation_behind_the_pixels():
    data = encode(Image.fromarray(_RAMP))
    exif = with_orientation(8).tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    late = data[:-12] + chunk + data[-12:]  # before IEND, which is 12 bytes long
    np.testing.assert_array_equal(decode_image(late), np.rot90(_RAMP, 1))
    assert image_size(late) == (4, 6)


def test_orientation_of_16_bit_images_is_applied():
    samples = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2570
    data = encode(Image.fromarray(samples), "PNG", exif=with_orientation(6))
    expected = np.rot90(np.round(samples / 257).astype(np.uint8), -1)
    np.testing.assert_array_equal(decode_image(data)[:, :, 1], expected)


def test_damaged_exif_leaves_the_picture_readable():
    picture = encode(Image.fromarray(_RAMP), exif=b"Exif\x00\x00MM\x00*garbage that is no directory")
    np.testing.assert_array_equal(decode_image(picture), _RAMP)
    assert image_size(picture) == (6, 4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_cut_off(kind):
    samples = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(samples), kind))
    np.testing.assert_array_equal(decoded[:, :, 0], [[0, 0, 1, 1], [128, 254, 255, 255]])
    assert (decoded == decoded[:, :, :1]).all()


def test_16_bit_colour_is_scaled():
    # Pillow writes no 16-bit RGB; a PNG of one row is four chunks.
    row = struct.pack(">6H", 0, 32768, 65535, 65535, 257, 1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    np.testing.assert_array_equal(decode_image(data), [[[0, 128, 255], [255, 1, 0]]])


def test_modes_become_rgb():
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8))
    expected = np.asarray(colours)
    np.testing.assert_array_equal(decode_image(encode(colours.convert("P", palette=Image.Palette.ADAPTIVE))), expected)
    np.testing.assert_array_equal(decode_image(encode(colours, "GIF")), expected)
    np.testing.assert_array_equal(decode_image(encode(colours, "BMP")), expected)
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(grey))), np.repeat(grey[:, :, None], 3, axis=2))
    bilevel = Image.fromarray(np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(decode_image(encode(bilevel))[:, :, 0], [[255, 0], [0, 255]])


def test_cmyk_jpeg():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1] = 255  # magenta only
    decoded = decode_image(encode(Image.fromarray(ink, "CMYK"), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - (255, 0, 255)).max() <= 6


def test_transparency_is_composited_on_white():
    red = (255, 0, 0)
    rgba = np.array([[(*red, 255), (*red, 0), (*red, 128)]], np.uint8)
    expected = [[red, (255, 255, 255), (255, 127, 127)]]
    assert np.abs(decode_image(encode(Image.fromarray(rgba))).astype(int) - expected).max() <= 1
    assert np.abs(decode_image(rgba).astype(int) - expected).max() <= 1

    grey_alpha = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA")
    np.testing.assert_array_equal(decode_image(encode(grey_alpha))[0, :, 0], [255, 0])

    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([*red, 0, 0, 255])
    np.testing.assert_array_equal(decode_image(encode(palette, transparency=0)), [[(255, 255, 255), (0, 0, 255)]])

    keyed = Image.fromarray(np.array([[red, (1, 2, 3)]], np.uint8))
    np.testing.assert_array_equal(decode_image(encode(keyed, transparency=red)), [[(255, 255, 255), (1, 2, 3)]])

    samples = Image.fromarray(np.array([[0, 65535, 514]], np.uint16))
    np.testing.assert_array_equal(decode_image(encode(samples, transparency=0))[0, :, 0], [255, 255, 2])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 5), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(decoded, np.asarray(frames[0]))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9).map(lambda s: (*s[:2], 3))))
@settings(max_examples=25, deadline=None)
def test_lossless_files_keep_every_pixel(pixels):
    data = encode(Image.fromarray(pixels))
    np.testing.assert_array_equal(decode_image(data), pixels)
    np.testing.assert_array_equal(decode_image(pixels), pixels)
    assert image_size(data) == image_size(pixels) == pixels.shape[:2]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]]), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[[7], [8]]], np.uint8), [7, 8]),
    ],
)
def test_arrays_are_scaled_by_their_type(array, expected):
    decoded = decode_image(array)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 20, 20, 3), np.uint8), "one by one"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.full((4, 4, 3), 7, np.int64), r"astype\(np.uint8\)"),
        (np.full((4, 4, 3), 254.0), r"from 254 to 254, expected 0...1"),
        (np.full((4, 4, 3), -0.1), "undo a normalisation"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(UserError, match=message) as caught:
        decode_image(array, name="input 3")
    assert str(caught.value).startswith("input 3: ")
    assert "\n" not in str(caught.value)
