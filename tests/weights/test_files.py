"""Which reader a path goes to, what is said of paths without weights, and the way to the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.weights.files import find_weights, put_on_device, read_weights, write_safetensors

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_stands_for_its_weights(tmp_path, name):
    if name.endswith("bin"):
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(array) for key, array in ARRAYS.items()}, tmp_path / name)
    else:
        write_safetensors(tmp_path / name, ARRAYS)
    assert find_weights(tmp_path) == tmp_path / name
    for path in (tmp_path, str(tmp_path / name)):
        read = read_weights(path)
        assert set(read) == set(ARRAYS)
        np.testing.assert_array_equal(read["a.weight"], ARRAYS["a.weight"])


def test_safetensors_go_before_pickles(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    assert set(read_weights(tmp_path)) == set(ARRAYS)


def test_paths_without_weights_are_named(tmp_path):
    assert "no weights; expected one of model.safetensors" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"x" * 100)
    assert "read from .safetensors" in refusal(tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text("{}")
    assert "read from .safetensors" in refusal(tmp_path / "config.json")


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.index.json", ".pth", ".pth.tar", ".bin", ".npz"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_what_a_failed_download_leaves_is_named(tmp_path, suffix, content, said):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert said in refusal(path)


def test_arrays_are_copied_to_the_device_in_float32(tmp_path):
    path = tmp_path / "model.safetensors"
    # 64 KiB each: arrays of this size, at multiples of 64 bytes, are what jax would rather share than copy.
    stored = {name: np.full((128, 128), 2, dtype) for name, dtype in (("w", np.float32), ("half", jnp.bfloat16))}
    write_safetensors(path, stored | {"count": np.int32(7)})
    arrays = read_weights(path)
    placed = put_on_device(arrays)
    assert arrays == {}
    assert {name: array.dtype for name, array in placed.items()} == {
        "w": np.float32, "half": np.float32, "count": np.int32,
    }  # fmt: skip
    assert all(isinstance(array, jax.Array) for array in placed.values())
    path.write_bytes(b"\0" * path.stat().st_size)  # the same file, so a view of it would change
    assert float(placed["w"].min()) == float(placed["half"].min()) == 2
    assert int(placed["count"]) == 7
