"""Files that nobody should trust: each becomes a `BrokenExample` that names it and says why, and none costs memory."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitjax.data.images import BrokenExample, decode_image, image_size


def encode(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def bomb(columns: int, rows: int) -> bytes:
    """A PNG whose header promises a huge picture."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 1000)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncated_files(kind, tmp_path):
    data = encode(kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BrokenExample) as caught:
        decode_image(path)
    assert caught.value.name == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"<html></html>", bytes(1000)])
def test_bytes_that_are_no_image(data):
    for read in (decode_image, image_size):
        with pytest.raises(BrokenExample) as caught:
            read(data, name="row 7")
        assert caught.value.name == "row 7"


def test_formats_that_run_programs_are_not_opened():
    # Pillow would hand this to Ghostscript.
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    with pytest.raises(BrokenExample, match="known format"):
        decode_image(script)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BrokenExample, match="no such file"):
        decode_image(tmp_path / "gone.jpg")
    with pytest.raises(BrokenExample) as caught:
        decode_image(tmp_path)
    assert caught.value.name == str(tmp_path)


@pytest.mark.parametrize(("columns", "rows"), [(9000, 9000), (12000, 12000), (60000, 60000), (2**31 - 1, 1)])
def test_decompression_bombs_are_refused_from_the_header(columns, rows):
    tracemalloc.start()
    with pytest.raises(BrokenExample):
        decode_image(bomb(columns, rows))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_the_limit_is_the_callers():
    data = encode("PNG", (64, 48))
    assert decode_image(data, max_pixels=64 * 48).shape == (48, 64, 3)
    for read in (decode_image, image_size):
        with pytest.raises(BrokenExample, match=r"64x48 pixels are more than `max_pixels`=3071"):
            read(data, max_pixels=64 * 48 - 1)
    with pytest.raises(BrokenExample, match="max_pixels"):
        decode_image(Image.open(io.BytesIO(data)), max_pixels=100)


def test_samples_of_unknown_range():
    wide = Image.fromarray(np.array([[0, 70000]], np.int32))
    floats = Image.fromarray(np.array([[0.0, 900.0]], np.float32))
    for picture, message in ((wide, "70000"), (floats, "900")):
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF")
        with pytest.raises(BrokenExample, match=message):
            decode_image(buffer.getvalue(), name="scan.tif")


@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_give_an_image_or_a_broken_example(kind, changes):
    data = bytearray(encode(kind, (24, 16)))
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        decoded = decode_image(bytes(data), max_pixels=10**6)
    except BrokenExample:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3


def test_broken_example_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(BrokenExample("a.jpg", "truncated")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")
