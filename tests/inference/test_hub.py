"""The hub, faked: one download, pinned to its commit, checked ever after; without a connection one clear line."""

import shutil

import pytest

import vitjax
from vitjax.errors import UserError
from vitjax.inference import hub
from vitjax.weights.pins import read_pin

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A hub with one repository, which lies in a folder, and a cache of what has been asked for."""

    def __init__(self, repository, cache):
        self.repository, self.cache = repository, cache
        self.commits = {None: COMMIT, "main": COMMIT}
        self.calls = []
        self.online = True

    def describe(self, repository, revision):
        self._connect("describe")
        return self.commits[revision], sorted([*(file.name for file in self.repository.iterdir()), "README.md"])

    def folder(self, repository, commit, files, *, cached):
        place = self.cache / commit
        if cached:
            return place if all((place / name).is_file() for name in files) else None
        self._connect("download")
        place.mkdir(exist_ok=True)
        for name in files:
            shutil.copy(self.repository / name, place / name)
        return place

    def _connect(self, call):
        self.calls.append(call)
        if not self.online:
            raise ConnectionError("no route to host\nand more")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32}
    folder = tmp_path_factory.mktemp("published") / "repository"
    vitjax.create_model("vit_base_patch16_224", num_classes=3, **sizes).save(folder, format="timm")
    return folder


@pytest.fixture
def fake(published, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(published, tmp_path / "repository")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"never asked for")
    (tmp_path / "downloads").mkdir()
    fake = FakeHub(tmp_path / "repository", tmp_path / "downloads")
    monkeypatch.setattr(hub, "HuggingFace", lambda: fake)
    return fake


def test_a_repository_is_asked_for_once_and_pinned(fake):
    first = vitjax.load("hf-hub:somebody/tiny")
    assert first.labels == ("class 0", "class 1", "class 2")
    assert fake.calls == ["describe", "download"]
    pin = read_pin("hf-hub:somebody/tiny")
    assert pin.revision == COMMIT
    assert set(pin.files) == {"config.json", "model.safetensors"}
    assert all(len(digest) == 64 for digest in pin.files.values())

    fake.commits[None] = "f" * 40  # the repository moves on
    fake.online = False
    assert vitjax.load("hf-hub:somebody/tiny").labels == first.labels
    assert fake.calls == ["describe", "download"]


def test_a_pinned_commit_is_downloaded_again_when_the_cache_is_gone(fake):
    vitjax.load("hf-hub:somebody/tiny@main")
    shutil.rmtree(fake.cache / COMMIT)
    fake.commits["main"] = "f" * 40
    vitjax.load("hf-hub:somebody/tiny@main")
    assert fake.calls == ["describe", "download", "download"]
    assert [file.name for file in fake.cache.iterdir()] == [COMMIT]


def test_a_file_that_changed_is_refused(fake):
    vitjax.load("hf-hub:somebody/tiny")
    file = fake.cache / COMMIT / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"model.safetensors: not the file that was downloaded"):
        vitjax.load("hf-hub:somebody/tiny")


def test_without_a_connection_there_is_one_line_and_nothing_is_recorded(fake):
    fake.online = False
    with pytest.raises(UserError, match=r"the hub cannot be reached \(ConnectionError: no route to host\)") as caught:
        vitjax.load("hf-hub:somebody/tiny")
    assert "\n" not in str(caught.value)
    assert "give its folder's path" in str(caught.value)
    assert read_pin("hf-hub:somebody/tiny") is None


def test_repositories_without_what_is_needed(fake):
    (fake.repository / "model.safetensors").unlink()
    (fake.repository / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has none of model.safetensors"):
        vitjax.load("hf-hub:somebody/tiny")
    (fake.repository / "config.json").unlink()
    with pytest.raises(UserError, match=r"the repository has no config.json"):
        vitjax.load("hf-hub:somebody/tiny")
    assert "download" not in fake.calls


@pytest.mark.parametrize("address", ["tiny", "", "a/b/c", "../etc/passwd", "a b/c"])
def test_addresses_that_are_none(fake, address):
    with pytest.raises(UserError, match="expected hf-hub:organisation/name"):
        vitjax.load(f"hf-hub:{address}")
    assert fake.calls == []


def test_unknown_repositories_are_told_from_broken_connections(fake, monkeypatch):
    class RepositoryNotFoundError(Exception):
        pass

    def describe(repository, revision):
        raise RepositoryNotFoundError("404")

    monkeypatch.setattr(fake, "describe", describe)
    with pytest.raises(UserError, match="no such repository or revision, or does not show it: 404"):
        vitjax.load("hf-hub:somebody/tiny")


def test_the_fake_has_the_real_ones_form(fake):
    real = pytest.importorskip("huggingface_hub")
    assert isinstance(fake, hub.Transport)
    assert {"revision", "allow_patterns", "local_files_only"} <= set(signature_of(real.snapshot_download))
    assert "revision" in signature_of(real.HfApi.model_info)


def signature_of(function):
    import inspect

    return inspect.signature(function).parameters
