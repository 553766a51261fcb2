"""Published weights by name: a table that holds together, downloads that are checked; the network is faked."""

import hashlib
import io
import urllib.error
import urllib.request

import numpy as np
import pytest

import vitjax
from vitjax.errors import UserError
from vitjax.models import layouts_of, list_models, variant_of
from vitjax.weights import pretrained
from vitjax.weights.pins import cache_folder, read_pin
from vitjax.weights.pretrained import PUBLISHED, Published, fetch, find_published

PLACES = [(name, place) for name, places in PUBLISHED.items() for place in places]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class FakeWeb:
    """Answers with `content`, of which `sent` bytes arrive."""

    def __init__(self, content=b"", sent=None, error=None):
        self.content, self.sent, self.error, self.calls = content, sent, error, []

    def __call__(self, request, timeout):
        self.calls.append(request.full_url)
        if self.error is not None:
            raise self.error
        answer = io.BytesIO(self.content[: self.sent])
        answer.headers = {"Content-Length": str(len(self.content))}
        return answer


def serve(monkeypatch, **keywords):
    web = FakeWeb(**keywords)
    monkeypatch.setattr(urllib.request, "urlopen", web)
    return web


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_names_a_model_a_layout_and_a_licence(name):
    known = set(list_models())
    for place in PUBLISHED[name]:
        assert place.model in known
        assert place.layout in {layout.name for layout in layouts_of(variant_of(place.model)[0])}
        assert place.licence
        assert place.source.startswith(("hf-hub:", "https://"))


def test_no_revision_is_invented_and_no_source_named_twice():
    assert {place.revision for _, place in PLACES} == {""}
    downloads = [place.source for _, place in PLACES if not place.by_hand]
    assert len(set(downloads)) == len(downloads)


def test_timms_names_are_timms():
    pytest.importorskip("torch")
    from benchmarks.torch_side import import_torch

    import_torch(threads=1)
    timm = pytest.importorskip("timm")
    theirs = set(timm.list_models(pretrained=True))
    ours = {name for name, place in PLACES if place.source.startswith("hf-hub:timm/")}
    assert ours - theirs == set()
    addresses = {timm.get_pretrained_cfg(name).url for name in theirs}
    files = {place.source for name, place in PLACES if place.source.endswith(".npz") and "90ep" not in name}
    assert files - addresses == set()


def test_a_layout_picks_the_source():
    name = "vit_base_patch16_224.augreg_in21k_ft_in1k"
    assert find_published(name).source == f"hf-hub:timm/{name}"
    assert find_published(name, "vit_jax").source.endswith("B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
                                                           "--imagenet2012-steps_20k-lr_0.01-res_224.npz")  # fmt: skip
    with pytest.raises(UserError, match="published in the layout of timm, vit_jax, not authors"):
        find_published(name, "authors")
    with pytest.raises(UserError, match=r"by hand, see https://github.com/.*name='deepvit_s'"):
        vitjax.load("deepvit_s.authors")


def test_a_download_is_made_once_and_checked_ever_after(monkeypatch):
    web = serve(monkeypatch, content=b"weights")
    place = Published("vit_tiny_patch16_224", "https://example.org/tiny.npz", "vit_jax")
    file = fetch("tiny", place)
    assert file.read_bytes() == b"weights"
    assert read_pin(place.source).files == {"tiny.npz": hashlib.sha256(b"weights").hexdigest()}
    assert fetch("tiny", place) == file
    assert web.calls == [place.source]
    file.write_bytes(b"weighty")
    with pytest.raises(UserError, match="not the file that was downloaded"):
        fetch("tiny", place)
    file.unlink()
    web.content = b"another"
    with pytest.raises(UserError, match="not the file that was downloaded"):
        fetch("tiny", place)
    assert not file.exists()


@pytest.mark.parametrize(
    "failure",
    [{"content": b"weights", "sent": 3}, {"error": urllib.error.URLError("no route")}, {"error": TimeoutError("slow")}],
)
def test_what_does_not_arrive_whole_is_not_kept(monkeypatch, failure):
    serve(monkeypatch, **failure)
    place = Published("vit_tiny_patch16_224", "https://example.org/tiny.npz", "vit_jax")
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        fetch("tiny", place)
    assert "\n" not in str(caught.value)
    assert "name='vit_tiny_patch16_224'" in str(caught.value)
    assert list(cache_folder().iterdir()) == []


def test_a_damaged_record_is_said(monkeypatch):
    serve(monkeypatch, content=b"weights")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "pins.json").write_text("{")
    with pytest.raises(UserError, match=r"pins.json: the record of downloads is damaged"):
        fetch("tiny", Published("vit_tiny_patch16_224", "https://example.org/tiny.npz", "vit_jax"))


def test_a_published_name_loads(monkeypatch):
    """From a name to a model, through the table, the download and the layout."""
    sizes = {"image_size": 16, "patch_size": 8, "width": 8, "depth": 1, "num_heads": 2, "mlp_width": 8}
    from vitjax.inference import foreign_files, opening
    from vitjax.models.vit import ViT
    from vitjax.weights.files import read_weights

    monkeypatch.setattr(foreign_files, "variant_of", lambda name: (ViT, {**sizes, "num_classes": 9}))
    bundle = vitjax.create_model("vit_base_patch16_224", num_classes=3, **sizes)
    folder = cache_folder() / "made"
    folder.parent.mkdir(parents=True)
    bundle.save(folder, format="timm")
    content = io.BytesIO()
    np.savez(content, **read_weights(folder))
    place = Published("vit_tiny_patch16_224", "https://example.org/tiny.npz", "timm")
    monkeypatch.setattr(opening, "PUBLISHED", {"tiny.made": (place,)})
    monkeypatch.setattr(pretrained, "PUBLISHED", {"tiny.made": (place,)})
    web = serve(monkeypatch, content=content.getvalue())
    assert vitjax.load("tiny.made").module.num_classes == 3
    assert web.calls == [place.source]


def test_a_name_that_is_nearly_one_gets_a_hint():
    with pytest.raises(UserError, match=r"similar name: .*vit_base_patch16_224\.augreg_in21k_ft_in1k"):
        vitjax.load("vit_base_patch16_224.augreg_in21k_ft_in1")
