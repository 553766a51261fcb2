"""PyTorch's files: tensors out of every usual wrapping, and nothing run that a file holds."""

import argparse
import logging
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.weights.files import read_weights

torch = pytest.importorskip("torch")

OLD = {"_use_new_zipfile_serialization": False}
FORMS = [{}, OLD]


def weights() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 2, generator=generator), "a.bias": torch.randn(3, generator=generator)}


def assert_weights(read):
    assert set(read) == set(weights())
    for key, tensor in weights().items():
        np.testing.assert_array_equal(read[key], tensor.numpy())


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class Touch:
    """Leaves a trace if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.pth.tar"])
def test_state_dicts_are_read(tmp_path, name, form, caplog):
    torch.save(weights(), tmp_path / name, **form)
    with caplog.at_level(logging.INFO, "vitjax"):
        assert_weights(read_weights(tmp_path / name))
    assert not caplog.messages


def test_types_are_kept(tmp_path):
    tensors = {
        "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "half": torch.tensor([[0.5]], dtype=torch.float16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, tmp_path / "a.pth")
    read = read_weights(tmp_path / "a.pth")
    assert read["brain"].dtype == jnp.bfloat16
    assert read["brain"].tolist() == [1.5, -2.0]
    assert read["half"].dtype == np.float16
    assert read["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read["count"].shape == ()
    assert read["parameter"].sum() == 2


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda w: {"state_dict": w, "epoch": 3}, "weights taken from `state_dict`; not read: epoch"),
        (lambda w: {"model": w, "optimizer": {}}, "weights taken from `model`; not read: optimizer"),
        (lambda w: {"state_dict": {"a.bias": torch.zeros(3)}, "state_dict_ema": w},
         "weights taken from `state_dict_ema`; not read: state_dict"),
        (lambda w: {"model": {"state_dict": w}}, "weights taken from `model.state_dict`; not read: nothing"),
        (lambda w: {f"module.{key}": tensor for key, tensor in w.items()}, "`module.` taken off all 2 keys"),
        (lambda w: {f"_orig_mod.{key}": tensor for key, tensor in w.items()}, "`_orig_mod.` taken off all 2 keys"),
        (lambda w: w | {"version": 2, "name": "vit"}, "2 entries are no tensors and not read: version, name"),
    ],
)  # fmt: skip
def test_wrappings_are_taken_off_aloud(tmp_path, wrap, said, caplog):
    torch.save(wrap(weights()), tmp_path / "a.pth")
    with caplog.at_level(logging.INFO, "vitjax"):
        assert_weights(read_weights(tmp_path / "a.pth"))
    assert caplog.messages == [f"{tmp_path / 'a.pth'}: {said}"]


def test_a_prefix_of_some_keys_stays(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert set(read_weights(tmp_path / "a.pth")) == {"module.a", "b"}


@pytest.mark.parametrize("form", FORMS)
def test_foreign_classes_are_refused_by_name_and_not_run(tmp_path, form):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    torch.save({"state_dict": weights(), "args": Touch(trace)}, path, **form)
    message = refusal(path)
    assert "refused, nothing of it was run" in message
    assert "it holds io.open" in message or "it holds _io.open" in message
    assert not trace.exists()
    torch.save({"state_dict": weights(), "args": argparse.Namespace(lr=1)}, path, **form)
    assert "it holds argparse.Namespace" in refusal(path)
    torch.save(torch.nn.Linear(2, 2), path, **form)
    assert "it holds torch.nn.modules.linear.Linear" in refusal(path)


def test_a_wish_to_run_files_in_the_environment_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Touch(tmp_path / "trace"), tmp_path / "a.pth")
    assert "refused" in refusal(tmp_path / "a.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", range(5))
def test_bare_pickles_are_refused(tmp_path, protocol):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": Touch(tmp_path / "trace")}, protocol))
    refusal(tmp_path / "a.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(2)], "expected a dict of tensors (a `state_dict()`), found a list"),
        ({"epoch": 3, "lr": 0.1}, "no tensors among 2 entries (epoch, lr)"),
        ({}, "no tensors among 0 entries"),
        ({"a.weight": torch.ones(2).to_sparse()}, "a.weight is a tensor of torch.sparse_coo"),
    ],
)
def test_files_without_plain_tensors_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pth")
    assert said in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("form", FORMS)
def test_half_a_download_is_refused(tmp_path, form):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1000)}, path, **form)
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.97):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "damaged" in refusal(path)


def test_archives_of_programs_are_refused(tmp_path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.trace(Twice(), torch.ones(1)).save(tmp_path / "a.pt")
    assert "TorchScript" in refusal(tmp_path / "a.pt")


def test_without_torch_a_line_says_what_to_do(tmp_path, monkeypatch):
    torch.save(weights(), tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refusal(tmp_path / "a.pth")
    assert "pip install torch" in message
    assert ".safetensors" in message
