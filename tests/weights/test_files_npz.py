"""npz: bfloat16 as it comes out of numpy, and no pickles."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.weights.files import read_weights


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_by_their_paths(tmp_path, save):
    arrays = {
        "Transformer/encoderblock_0/LayerNorm_0/scale": np.arange(3, dtype=np.float32),
        "opt/step": np.int64(7),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "brain": np.array([[1.5, -2.0]], jnp.bfloat16),
        "empty": np.zeros((0, 3), np.float16),
    }
    save(tmp_path / "model.npz", **arrays)
    read = read_weights(tmp_path / "model.npz")
    assert list(read) == list(arrays)
    for key, array in arrays.items():
        assert read[key].dtype == array.dtype, key
        np.testing.assert_array_equal(read[key], array)


class Touch:
    """Leaves a trace if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_refused_by_key_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "model.npz", good=np.ones(2), bad=np.array([Touch(trace)], object))
    trace.unlink(missing_ok=True)  # in case that saving made it
    assert "bad is pickled" in refusal(tmp_path / "model.npz")
    assert not trace.exists()


@pytest.mark.parametrize("array", [np.array(["word"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "V4")])
def test_what_is_no_number_is_refused(tmp_path, array):
    np.savez(tmp_path / "model.npz", **{"some/key": array})
    assert "some/key of type" in refusal(tmp_path / "model.npz")


def test_half_a_download_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, a=np.ones(100), b=np.ones(3))
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "cut short" in refusal(path)


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, a=np.ones(100))
    content = bytearray(path.read_bytes())
    content[content.index(np.ones(100).tobytes()) + 5] ^= 1  # the archive's own sum does not fit any more
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def npy(header: str, body: bytes, version=(1, 0)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}", bytes(8)), "has 8 bytes, not"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)), "a has 8 bytes, not -1"),
        (npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {2**70})}}", b""), "a is damaged"),
        (npy("{'descr': '<f8'}", bytes(8)), "a is damaged"),
        (npy("__import__('os')", bytes(8)), "a is damaged"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", bytes(8), (9, 0)), "a is damaged: version"),
        (b"no array", "a is damaged"),
        (b"", "a is damaged"),
    ],
)
def test_headers_that_lie(tmp_path, content, said):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    assert said in refusal(path)


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    assert "no .npz" in refusal(tmp_path / "a.npz")
