"""Decoding of image files that nobody has vetted: always uint8 RGB, or a `BrokenExample` that says why not."""

import functools
import io
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image

from vitjax.errors import UserError

__all__ = ["DEFAULT_MAX_PIXELS", "BrokenExample", "decode_frames", "decode_image", "image_size"]

DEFAULT_MAX_PIXELS = 2**26
"""Largest image read by default, rows times columns: 67 megapixels, 201 MB once decoded."""

# Photographs and drawings only. Pillow also opens EPS (which runs Ghostscript), FITS, HDF5 and game textures; none of
# these belongs to a data set, and each is one more parser for a hostile file to aim at.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")

# EXIF 2.32, table 4.6.4-6, tag 0x0112: what to do to the stored pixels so that the picture stands upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)

Encoded = bytes | str | os.PathLike


class BrokenExample(Exception):
    """An example that cannot be read. The loader counts and names it, and goes on.

    Attributes:
        name: file, URL or number of the example.
        reason: what is wrong with it, without a full stop.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decode_image(
    data: Encoded | Image.Image | np.ndarray, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image as uint8 RGB, the way a viewer would show it.

    EXIF orientation is applied. Grey, palette, bilevel, CMYK and YCbCr become RGB (colour profiles are not applied,
    as in the tools that published models were trained with). 16-bit samples are scaled to 0...255, never cut off.
    Transparent pixels are composited on white. Of an animation the first frame is taken.

    Args:
        data: the file's bytes, a path, a PIL image or an array. Arrays are `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or
            `[H, W, 4]`: uint8 in 0...255, uint16 in 0...65535, bool, or floating point in 0...1.
        max_pixels: rows times columns above which a file is refused; the size is read from the header, so a
            decompression bomb costs nothing. Arrays are in memory already and are not limited.
        name: what a `BrokenExample` calls the image; the path, if that is what was given.

    Returns:
        uint8 `[H, W, 3]`, 0...255; possibly a read-only view.

    Raises:
        BrokenExample: the bytes are no image, are truncated or corrupt, or hold more than `max_pixels`.
        UserError: an array of another type, shape or range.
    """
    if isinstance(data, np.ndarray):
        return _from_array(data, name or "array")
    if isinstance(data, Image.Image):
        return _guarded(lambda: _upright_rgb(data, max_pixels), name or getattr(data, "filename", "") or "PIL image")

    def read() -> np.ndarray:
        with _open(data) as image:
            return _upright_rgb(image, max_pixels)

    return _guarded(read, name or _default_name(data))


def decode_frames(
    data: Encoded | Image.Image | np.ndarray, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Reads all frames of an animation (GIF, WebP, PNG) as uint8 RGB; a still picture is one frame.

    Each frame becomes what `decode_image` makes of a picture. For how long it is to be shown is not read.

    Args:
        data: as in `decode_image`; arrays may have time in front, `[T, H, W, C]`.
        max_pixels: frames times rows times columns above which a file is refused.
        name: as in `decode_image`.

    Raises:
        BrokenExample: the bytes are no image, are truncated or corrupt, hold more than `max_pixels`, or are pages of
            different sizes.
        UserError: an array of another type, shape or range.
    """
    if isinstance(data, np.ndarray):
        if data.ndim != 4 or 0 in data.shape:
            return _from_array(data, name or "array")[None]
        tall = _from_array(data.reshape(-1, *data.shape[2:]), name or "array")
        return tall.reshape(*data.shape[:3], 3)
    if isinstance(data, Image.Image):
        return _guarded(lambda: _all_frames(data, max_pixels), name or getattr(data, "filename", "") or "PIL image")

    def read() -> np.ndarray:
        with _open(data) as image:
            return _all_frames(image, max_pixels)

    return _guarded(read, name or _default_name(data))


def image_size(
    data: Encoded | Image.Image | np.ndarray, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> tuple[int, int]:
    """(rows, columns) of what `decode_image` would return, read from the header without decoding pixels.

    Raises:
        BrokenExample: the bytes are no image, or hold more than `max_pixels`. Damage to the pixels goes unnoticed.
    """
    if isinstance(data, np.ndarray):
        if data.ndim not in (2, 3):
            raise UserError(
                f"{name or 'array'}: shape {data.shape}, expected [rows, columns] or [rows, columns, channels]"
            )
        return int(data.shape[0]), int(data.shape[1])
    if isinstance(data, Image.Image):
        return _guarded(lambda: _header_size(data, max_pixels), name or "PIL image")

    def read() -> tuple[int, int]:
        with _open(data) as image:
            return _header_size(image, max_pixels)

    return _guarded(read, name or _default_name(data))


def _default_name(data: Encoded) -> str:
    return f"{len(data)} bytes" if isinstance(data, bytes) else os.fspath(data)


def _guarded(read: Callable[[], Any], name: str) -> Any:
    """Runs `read`; whatever Pillow raises on a bad file (it raises a dozen types) becomes a `BrokenExample`."""
    try:
        return read()
    except (BrokenExample, MemoryError):
        raise
    except _TooLarge as error:
        raise BrokenExample(name, str(error)) from None
    except FileNotFoundError as error:
        raise BrokenExample(name, "no such file") from error
    except Image.UnidentifiedImageError as error:
        raise BrokenExample(name, f"not an image in a known format ({', '.join(_FORMATS)})") from error
    except Exception as error:
        detail = str(error).strip() or "no further detail"
        raise BrokenExample(name, f"{type(error).__name__}: {' '.join(detail.split())}") from error


class _TooLarge(Exception):
    """The header promises more pixels than allowed."""


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this build of Pillow can open."""
    Image.init()
    return tuple(format_name for format_name in _FORMATS if format_name in Image.OPEN)


def _open(data: Encoded) -> Image.Image:
    """Opens without decoding."""
    source = io.BytesIO(data) if isinstance(data, bytes) else os.fspath(data)
    return Image.open(source, formats=_known_formats())


def _check_size(image: Image.Image, max_pixels: int) -> None:
    columns, rows = image.size
    if rows * columns > max_pixels:
        raise _TooLarge(
            f"{columns}x{rows} pixels are more than `max_pixels`={max_pixels}; refused before decoding, "
            "raise `max_pixels` if the file is to be trusted"
        )
    if rows * columns == 0:
        raise ValueError(f"{columns}x{rows} pixels, an image has at least one")


def _header_size(image: Image.Image, max_pixels: int) -> tuple[int, int]:
    _check_size(image, max_pixels)
    columns, rows = image.size
    return (columns, rows) if _orientation(image) in _SWAPS_SIDES else (rows, columns)


def _upright_rgb(image: Image.Image, max_pixels: int) -> np.ndarray:
    _check_size(image, max_pixels)
    # Before the pixels: Pillow keeps only what stands in front of them, and `image_size` must say the same.
    orientation = _orientation(image)
    image.load()
    _check_size(image, max_pixels)  # some formats learn their true size on decoding
    return _to_rgb(image, orientation)


def _all_frames(image: Image.Image, max_pixels: int) -> np.ndarray:
    count = getattr(image, "n_frames", 1)
    columns, rows = image.size
    if count * rows * columns > max_pixels:
        raise _TooLarge(
            f"{count} frames of {columns}x{rows} pixels are more than `max_pixels`={max_pixels}; refused before "
            "decoding, raise `max_pixels` if the file is to be trusted"
        )
    frames = []
    # A PNG may have a picture in front for readers that know no animations; it is no part of the clip.
    for number in range(int(count > 1 and bool(image.info.get("default_image"))), count):
        image.seek(number)
        frames.append(_upright_rgb(image, max_pixels))
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"{count} pages of different sizes, the frames of a clip have one")
    return np.stack(frames)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) when there is none or the metadata is damaged; reads no pixels."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF files itself, `size` included
    try:
        # The base class's method: PNG's own decodes the whole image to look behind it.
        exif = Image.Image.getexif(image)
        if ExifTags.Base.Orientation not in exif and image.format == "PNG":
            exif = _exif_behind_pixels(image)
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not make the picture unreadable
        return 1


def _exif_behind_pixels(image: Image.Image) -> Image.Exif:
    """EXIF of a PNG whose `eXIf` chunk follows the pixel data, found by hopping from chunk to chunk."""
    exif = Image.Exif()
    stream = getattr(image, "fp", None)
    if stream is None:
        return exif
    position = stream.tell()
    try:
        stream.seek(8)  # the signature
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                exif.load(stream.read(length))
                break
            stream.seek(length + 4, os.SEEK_CUR)  # the data and their checksum
    finally:
        stream.seek(position)
    return exif


def _to_rgb(image: Image.Image, orientation: int) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES:
        return _turn(_grey_to_rgb(np.asarray(image), image.info.get("transparency")), orientation)
    if image.mode == "I":
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ValueError(f"32-bit samples from {samples.min()} to {samples.max()}, expected 0...65535")
        return _turn(_grey_to_rgb(samples, image.info.get("transparency")), orientation)
    if image.mode == "F":
        return _turn(_from_array(np.asarray(image), "samples"), orientation)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, with_alpha).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _turn(rgb: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _UPRIGHT:
        return rgb
    return np.asarray(Image.fromarray(rgb).transpose(_UPRIGHT[orientation]))


def _grey_to_rgb(samples: np.ndarray, transparent: Any = None) -> np.ndarray:
    """16-bit grey `[H, W]` to uint8 RGB: 65535 / 257 = 255, rounded to nearest; `transparent` samples are white."""
    grey = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_array(array: Shaped[np.ndarray, "..."], name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; the channels stand first, pass array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; pass the images of a batch one by one, as a list"
        raise UserError(f"{name}: shape {array.shape}, expected [rows, columns] or [rows, columns, 1, 3 or 4]{hint}")
    array = _to_uint8(array, name)
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint32)
        array = ((array[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise UserError(f"{name}: holds NaN or infinity, expected numbers in 0...1")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise UserError(
                f"{name}: {array.dtype} from {low:.4g} to {high:.4g}, expected 0...1; "
                "undo a normalisation, or pass array.astype(np.uint8) if it is in 0...255"
            )
        return np.floor(array * 255 + 0.5).astype(np.uint8)
    raise UserError(
        f"{name}: dtype {array.dtype}, expected uint8 (0...255), uint16 (0...65535), bool or floating point (0...1); "
        "pass array.astype(np.uint8) if it is in 0...255"
    )
