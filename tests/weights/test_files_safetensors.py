"""safetensors: the same file for other libraries, no copy, and nothing but a UserError for a file that is wrong."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.weights.files import read_weights, safetensors_metadata, write_safetensors

TYPES = [
    np.float64, np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, np.complex64,
    np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8, np.bool_,
]  # fmt: skip


def random_array(shape, dtype, seed=0) -> np.ndarray:
    return np.asarray(100 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def assert_same(one, other):
    assert list(one) == list(other) or set(one) == set(other)
    for key, array in one.items():
        assert (array.dtype, array.shape) == (other[key].dtype, other[key].shape), key
        assert array.tobytes() == other[key].tobytes(), key


@settings(max_examples=40, deadline=None)
@given(
    described=st.dictionaries(
        st.text(max_size=8).filter(lambda key: key != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(TYPES)),
        max_size=6,
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_written_arrays_come_back(tmp_path_factory, described, metadata):
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"
    arrays = {key: random_array(shape, dtype) for key, (shape, dtype) in described.items()}
    write_safetensors(path, arrays, metadata)
    assert_same(read_weights(path), arrays)
    assert safetensors_metadata(path) == metadata
    assert os.listdir(path.parent) == [path.name]


def test_the_format_is_that_of_its_own_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {
        "a": random_array((3, 2), np.float32),
        "b": random_array((5,), np.int8),
        "c": random_array((), np.float64),
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays, {"format": "np"})
    assert_same(library.load_file(path), arrays)
    assert path.read_bytes() == library.save(arrays, {"format": "np"})
    library.save_file(arrays, tmp_path / "theirs.safetensors")
    assert_same(read_weights(tmp_path / "theirs.safetensors"), arrays)


def test_torch_reads_and_writes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    arrays = {"half": random_array((3,), np.float16), "brain": random_array((4, 2), jnp.bfloat16)}
    write_safetensors(path, arrays)
    assert safetensors_metadata(path) == {"format": "pt"}
    read = library.load_file(path)
    assert read["brain"].dtype == torch.bfloat16
    np.testing.assert_array_equal(read["brain"].float().numpy(), arrays["brain"].astype(np.float32))
    library.save_file(read, tmp_path / "theirs.safetensors")
    assert_same(read_weights(tmp_path / "theirs.safetensors"), arrays)


def test_device_arrays_and_views_are_written(tmp_path):
    path = tmp_path / "model.safetensors"
    square = random_array((4, 6), np.float32)
    write_safetensors(path, {"device": jnp.asarray(square), "transposed": square.T, "part": square[::2, 1:]})
    assert_same(read_weights(path), {"device": square, "transposed": square.T, "part": square[::2, 1:]})


def test_arrays_are_views_that_nobody_can_write_into(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones((256, 256), np.float32), "b": np.zeros(3, np.float32)})
    arrays = read_weights(path)
    assert not any(array.flags.owndata or array.flags.writeable for array in arrays.values())
    assert np.asarray(arrays["a"]).sum() == 256 * 256
    # A file that is replaced, as write_safetensors does it, leaves what was read alone.
    write_safetensors(path, {"a": np.zeros((256, 256), np.float32)})
    assert arrays["a"].sum() == 256 * 256


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"model\.safetensors: b of object cannot be written"):
        write_safetensors(path, {"a": np.zeros(3, np.float32), "b": np.array([None])})
    with pytest.raises(UserError, match=r"absent/model\.safetensors: cannot be written: No such file"):
        write_safetensors(tmp_path / "absent" / "model.safetensors", {})
    assert os.listdir(tmp_path) == [path.name]
    assert read_weights(path)["a"].sum() == 3


# --------------------------------------------------------------------------------------------- wrong files


def write_raw(path, header, body=b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 1000])
def test_a_header_of_absurd_size_is_not_read(tmp_path, length):
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    assert f"a header of {length:,} bytes in a file of 110" in refusal(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\xff\xfe", "header is damaged"),
        (b"{", "header is damaged"),
        (b"[]", "expected an object"),
        (b"[" * 50_000, "header is damaged"),
        (b'{"a":{},"a":{}}', "a key comes twice"),
        ({"a": 3}, "no shape and offsets of 'a'"),
        ({"a": entry(shape=(-2,))}, "no shape and offsets of 'a'"),
        ({"a": entry(shape=(True, 2))}, "no shape and offsets of 'a'"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, "no shape and offsets of 'a'"),
        ({"a": entry(dtype="F4")}, "a has the type 'F4'; expected one of F64"),
        ({"a": entry(dtype=["F32"])}, "a has the type"),
        ({"a": entry(shape=(3,))}, "a (3,) of F32 does not fill its 8 bytes"),
        ({"a": entry(shape=(2**62, 4))}, "does not fill its 8 bytes"),
        ({"a": entry(0, 12, shape=(3, *[1] * 70))}, "numpy has no arrays such as a (3, 1, 1"),
        ({"a": entry(0, 0, (0, 2**63, 2**63)), "b": entry(0, 12, (3,))}, "numpy has no arrays such as a (0, 9223"),
        ({"a": entry(begin=8, end=0)}, "does not fill its -8 bytes"),
        ({"a": entry(), "b": entry(4, 12)}, "b begins at byte 4 of the arrays, expected 8"),
        ({"a": entry(4, 12)}, "a begins at byte 4 of the arrays, expected 0"),
        ({"a": entry(), "b": entry(8, 16)}, "b ends at byte 16 of the arrays, of which the file holds 12"),
        ({"a": entry()}, "4 bytes behind the last array belong to none"),
    ],
)
def test_headers_that_do_not_describe_the_file(tmp_path, header, said):
    path = tmp_path / "wrong.safetensors"
    write_raw(path, header, bytes(12))
    assert said in refusal(path)


def test_every_half_download_is_refused(tmp_path):
    path = tmp_path / "half.safetensors"
    write_safetensors(path, {"first": np.ones((3, 5), np.float32), "second": np.ones(4, np.float16)})
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        assert "cut short" in refusal(path) or "no safetensors file" in refusal(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_of_the_header_is_refused_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_safetensors(path, {"a": np.ones((3, 5), np.float32), "b": np.ones(4, np.float16)})
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        arrays = read_weights(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert sum(array.nbytes for array in arrays.values()) == 68


def test_metadata_that_is_no_words_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_raw(path, {"__metadata__": {"step": 3}})
    with pytest.raises(UserError, match="must be words"):
        safetensors_metadata(path)


# ------------------------------------------------------------------------------------------------- in parts


def write_parts(folder, weight_map=None) -> dict[str, np.ndarray]:
    arrays = {name: random_array((2, 3), np.float32, seed) for seed, name in enumerate("abc")}
    write_safetensors(folder / "model-1.safetensors", {"a": arrays["a"], "b": arrays["b"]})
    write_safetensors(folder / "model-2.safetensors", {"c": arrays["c"]})
    names = {"a": "model-1.safetensors", "c": "model-2.safetensors", "b": "model-1.safetensors"}
    index = {"metadata": {"total_size": 72}, "weight_map": names if weight_map is None else names | weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return arrays


def test_parts_are_read_together(tmp_path):
    arrays = write_parts(tmp_path)
    assert_same(read_weights(tmp_path), arrays)
    assert list(read_weights(tmp_path / "model.safetensors.index.json")) == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"c": "../model-2.safetensors"}, "'../model-2.safetensors' (of c) is no safetensors file of the same folder"),
        ({"c": "model-2.bin"}, "'model-2.bin' (of c) is no safetensors file"),
        ({"c": 3}, "'3' (of c) is no safetensors file"),
        ({"d": "model-3.safetensors"}, "model-3.safetensors: this file is missing"),
        ({"d": "model-2.safetensors"}, "not what model.safetensors.index.json says of 1 keys: d"),
        ({"b": "model-2.safetensors"}, "of 1 keys: b"),
    ],
)
def test_an_index_that_does_not_fit_its_parts(tmp_path, weight_map, said):
    write_parts(tmp_path, weight_map)
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_a_damaged_index_is_refused(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    assert "expected `weight_map`" in refusal(index)
