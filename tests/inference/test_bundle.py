"""Bundles: packed answers equal those one by one, what is written opens again, every mistake is one line."""

import logging
import weakref
from collections import Counter
from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest

import vitjax
from vitjax.config import describe
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.results import Result
from vitjax.tasks.classification import Classification
from vitjax.tasks.packed_classification import PackedClassification
from vitjax.weights.bundle_io import read_bundle, save_bundle

TINY = {"num_classes": 7, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32, "zero_init_head": False}


def random_images(count=6, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*generator.integers(16, 80, 2), 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def navit():
    created = vitjax.create_model("navit_base_patch16", **TINY, patch_size=8)
    batches = PackedBatches(
        source=None, patch_size=8, length=64, rows=4, packers=2, max_images=8, resolution=FixedSide(32)
    )
    return Bundle(created.module, created.task, batches, created.labels, created.make_variables, step=12)


@pytest.fixture(scope="module")
def vit():
    return vitjax.create_model("vit_base_patch16_224", **TINY, patch_size=8, image_size=32)


@pytest.fixture(scope="module", params=["navit", "vit"])
def bundle(request):
    return request.getfixturevalue(request.param)


def test_together_or_alone_the_answers_are_the_same(bundle):
    images = random_images()
    together = bundle.predict(images)
    assert len(together) == len(images)
    for image, result in zip(images, together, strict=True):
        (alone,) = bundle.predict(image)
        np.testing.assert_allclose(alone.scores, result.scores, atol=1e-5)
    assert np.ptp([result.scores for result in together], axis=0).max() > 1e-3


def test_order_of_the_inputs_is_the_order_of_the_results(bundle):
    images = random_images()
    forth, back = bundle.predict(images), bundle.predict(images[::-1])
    for one, other in zip(forth, back[::-1], strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@dataclass(frozen=True)
class Counting(Classification):
    """Notes how many batches of its raw predictions are alive whenever it makes a result of one."""

    seen: list = field(default_factory=list, compare=False)

    def make_result(self, name, labels, prediction, original_size, top_k, *, error, picture):
        if prediction is None:
            return Result(name, labels, None, error)
        if not any(made() is prediction.base for made in self.seen):
            self.seen.append(weakref.ref(prediction.base))
        return Result(name, labels, prediction.copy(), None, top_k)

    def alive(self):
        return sum(made() is not None for made in self.seen)


def test_raw_predictions_of_one_batch_are_kept_at_a_time(vit, monkeypatch):
    task = Counting()
    bundle = replace(vit, task=task, batches=replace(vit.batches, batch_size=2))
    images, forward, alive = random_images(7), bundle._forward, []

    def watched(batch):
        alive.append(task.alive())
        return forward(batch)

    monkeypatch.setitem(vars(bundle), "_forward", watched)
    results = bundle.predict(images)
    assert len(task.seen) == len(alive) == 4
    assert alive == [0, 0, 0, 0]  # those of the batch before are gone when the next ones are made
    for one, other in zip(results, vit.predict(images), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_programs_are_compiled_once_for_each_size_of_batch(navit):
    fresh = Bundle(navit.module, navit.task, navit.batches, navit.labels, lambda: navit.variables)
    for count in (1, 1, 2, 1, 30, 17, 5, 30):
        assert len(fresh.predict(random_images(count, seed=count))) == count
    # Rows of a batch are 1, 2 or 4.
    assert fresh._forward.func._cache_size() <= 3


def test_pictures_that_cannot_be_read_keep_their_place_and_are_logged(vit, tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    images = random_images(2)
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        results = vit.predict([images[0], str(tmp_path / "broken.jpg"), images[1]], top_k=2)
    assert [result.error is None for result in results] == [True, False, True]
    assert results[1].name.endswith("broken.jpg")
    assert "predict: 1 of 3 pictures have no scores" in caplog.text
    assert len(results[0].top()) == 2


def test_mistakes_in_the_call_are_one_line(vit, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        vit.predict(str(tmp_path / "nothing.jpg"))
    with pytest.raises(UserError, match="float cannot be read as an image"):
        vit.predict(1.5)
    with pytest.raises(UserError, match=r"`top_k` \(=0\) must be 1 or more"):
        vit.predict(random_images(1), top_k=0)


def test_random_weights_are_made_when_first_needed():
    made = vitjax.create_model("vit_base_patch16_224", num_classes=3)
    assert "variables" not in vars(made)
    assert made.labels == ("class 0", "class 1", "class 2")
    with pytest.raises(UserError, match=r"`num_classes` \(=0\) must be positive"):
        vitjax.create_model("vit_base_patch16_224", num_classes=0)


def test_what_was_saved_opens_as_the_same_model(bundle, tmp_path):
    images = random_images(3)
    bundle.save(tmp_path / "run" / "best")
    opened = vitjax.load(tmp_path / "run")  # the run's folder stands for its best/
    assert opened.labels == bundle.labels
    assert opened.step == bundle.step
    assert opened.task == bundle.task
    assert opened.batches == bundle.batches
    assert opened.module == bundle.module
    jax.tree.map(np.testing.assert_array_equal, opened.variables, bundle.variables)
    for one, other in zip(bundle.predict(images), opened.predict(images), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    opened.save(tmp_path / "run" / "best")  # over itself
    assert vitjax.load(tmp_path / "run" / "best").labels == bundle.labels


def test_unknown_format_and_foreign_folders_are_refused(vit, tmp_path):
    with pytest.raises(UserError, match=r"`format` \(='onnx'\) must be one of vitjax, timm, huggingface"):
        vit.save(tmp_path / "out", format="onnx")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is no bundle"):
        vit.save(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.fixture
def saved(vit, tmp_path):
    vit.save(tmp_path / "best")
    return tmp_path / "best"


def test_missing_and_foreign_folders_are_explained(tmp_path):
    with pytest.raises(UserError, match="no such folder or file; expected a run's folder or its best/"):
        vitjax.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"with bundle.json and variables/ in it"):
        vitjax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"workdir": "runs/vit"}')
    with pytest.raises(UserError, match="the run has no best/ yet"):
        vitjax.load(tmp_path)
    with pytest.raises(UserError, match="give hf-hub:organisation/name"):
        vitjax.load("https://example.org/weights.npz")


@pytest.mark.parametrize("damage", ["cut_json", "empty_json", "no_variables", "cut_variables"])
def test_half_written_bundles_are_one_line(saved, damage):
    if damage == "cut_json":
        text = (saved / "bundle.json").read_text()
        (saved / "bundle.json").write_text(text[: len(text) // 2])
    elif damage == "empty_json":
        (saved / "bundle.json").write_text("{}")
    else:
        files = [file for file in (saved / "variables").rglob("*") if file.is_file()]
        for file in files:
            file.unlink() if damage == "no_variables" else file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match=str(saved)) as caught:
        vitjax.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os:system", r"'os:system' lies outside vitjax; pass packages=\(\.\.\., 'os'\) if you trust it"),
        ("vitjax.models.vit:NoSuch", "'vitjax.models.vit:NoSuch' cannot be imported"),
        ("vitjax.models.nothing:ViT", "'vitjax.models.nothing:ViT' cannot be imported"),
    ],
)
def test_a_bundle_builds_only_what_is_ours_and_exists(saved, target, message):
    text = (saved / "bundle.json").read_text()
    (saved / "bundle.json").write_text(text.replace("vitjax.models.vit:ViT", target))
    with pytest.raises(UserError, match=message):
        vitjax.load(saved)


def test_packages_that_the_caller_trusts_may_be_built(saved):
    text = (saved / "bundle.json").read_text()
    (saved / "bundle.json").write_text(
        text.replace("vitjax.tasks.classification:Classification", "collections:Counter")
    )
    assert isinstance(vitjax.load(saved, packages=("vitjax", "collections")).task, Counter)


def test_labels_that_are_not_the_models_are_found_out(vit, tmp_path):
    save_bundle(
        tmp_path / "best",
        model=describe(vit.module),
        task=describe(vit.task),
        batches=describe(vit.batches),
        labels=("one", "two"),
        variables=jax.device_get(vit.variables),
    )
    assert read_bundle(tmp_path / "best").labels == ("one", "two")
    with pytest.raises(UserError, match="the model has 7 outputs, but the bundle holds 2 labels"):
        vitjax.load(tmp_path).predict(random_images(1))


class Labelled:
    """A source whose labels are what the bundle answers."""

    name = "answers"

    def __init__(self, images, numbers, labels):
        self.images, self.numbers, self.labels = images, numbers, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.numbers[index])}


def test_evaluation_counts_each_picture_once(navit):
    images = random_images(5)
    answers = [result.top1.index for result in navit.predict(images)]
    answers[0] = (answers[0] + 1) % 7
    scores = navit.evaluate(Labelled(images, answers, navit.labels))
    assert scores["top1"] == pytest.approx(4 / 5)
    with pytest.raises(UserError, match="answers has 1 labels"):
        navit.evaluate(Labelled(images, answers, ("one",)))
    assert isinstance(navit.task, PackedClassification)


def test_a_bundle_introduces_itself_in_one_line(navit):
    assert repr(navit) == "Bundle(NaViT, PackedClassification, PackedBatches, 7 labels, step 12)"
