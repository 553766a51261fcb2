"""`Bundle.predict` on clips: arrays, animated files, pictures; each the answer it has alone."""

import numpy as np
import pytest
from PIL import Image

from vitjax.data.clips import Tubelets
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide, TokenBudget
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.cascade import cascade
from vitjax.inference.predict import list_pictures, open_pictures
from vitjax.inference.preparation import random_variables
from vitjax.models.navit import NaViT
from vitjax.tasks.packed_classification import PackedClassification

BATCHES = PackedBatches(
    source=None, patch_size=4, length=32, rows=2, packers=1, max_images=4, resolution=FixedSide(12), cut=Tubelets(4, 2)
)
RNG = np.random.default_rng(0)
CLIP, SHORT = (RNG.integers(0, 256, (frames, 12, 16, 3), np.uint8) for frames in (4, 2))


@pytest.fixture(scope="module")
def model():
    module = NaViT(
        num_classes=2,
        patch_size=4,
        max_grid=(2, 8, 8),
        width=16,
        depth=1,
        num_heads=2,
        mlp_width=16,
        zero_init_head=False,
    )
    task = PackedClassification()
    variables = random_variables(module, task, BATCHES)
    return Bundle(module, task, BATCHES, ("a", "b"), make_variables=lambda: variables)


def test_clips_in_every_form(model, tmp_path):
    grey = np.repeat(RNG.integers(0, 256, (4, 12, 16, 1), np.uint8), 3, axis=-1)  # 192 pixels: GIF keeps all greys
    first, *others = [Image.fromarray(frame[..., 0]) for frame in grey]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others, disposal=1)
    (tmp_path / "film.mp4").write_bytes(b"film")
    given = [CLIP, str(tmp_path / "clip.gif"), SHORT, CLIP[0], grey, CLIP[::-1], str(tmp_path / "film.mp4")]
    results = model.predict(given)
    assert len(results) == 7
    assert "no video decoder" in results.pop().error
    scores = [result.scores for result in results]
    np.testing.assert_allclose(scores[1], scores[4], atol=1e-6)
    for number, clip in ((0, CLIP), (2, SHORT), (3, CLIP[0])):
        np.testing.assert_allclose(model.predict(clip)[0].scores, scores[number], atol=1e-6)
    assert np.abs(scores[0] - scores[5]).max() > 1e-6  # the order of the frames counts
    np.testing.assert_allclose(
        [r.scores for r in model.predict(np.stack([CLIP, CLIP[::-1]]))], [scores[0], scores[5]], atol=1e-6
    )


def test_a_budget_of_tokens_counts_time(model):
    pictures = open_pictures([CLIP, SHORT], model.batches, ("a", "b"))
    assert len(pictures) == 2
    small = model.predict([CLIP, SHORT], tokens=4)
    assert np.abs(small[0].scores - model.predict(CLIP)[0].scores).max() > 1e-6
    with pytest.raises(UserError, match="makes up to 2 patches of one place"):
        model.predict(CLIP, tokens=1)
    found = cascade(model, [CLIP, SHORT, CLIP[0]], tokens=(4, 16), share=0.4)
    assert sorted(found.tokens) == [4, 4, 16]
    assert len(found.results) == 3


def test_sizes_and_broken_clips_are_remembered(model, tmp_path):
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    pictures = open_pictures([CLIP, str(tmp_path / "bad.gif")], model.batches, ("a", "b"))
    assert pictures[0]["video"].shape == CLIP.shape
    assert pictures.seen_sizes == {0: (12, 16)}
    results = model.predict([CLIP, str(tmp_path / "bad.gif")])
    assert results[0].error is None
    assert results[1].error


def test_arrays_of_clips_and_of_pictures_are_told_apart_by_what_the_model_takes():
    assert [array.ndim for array in list_pictures(CLIP)] == [3] * 4
    assert [array.ndim for array in list_pictures(CLIP, axes=4)] == [4]
    assert [array.ndim for array in list_pictures([CLIP[0], np.stack([CLIP, CLIP])], axes=4)] == [3, 4, 4]


def test_it_is_saved_and_loaded(model, tmp_path):
    import vitjax

    model.save(tmp_path / "best")
    loaded = vitjax.load(tmp_path / "best")
    assert loaded.batches.cut == Tubelets(4, 2)
    np.testing.assert_allclose(loaded.predict(CLIP)[0].scores, model.predict(CLIP)[0].scores, atol=1e-6)
    assert len(vitjax.load(tmp_path / "best", labels=("x", "y", "z")).predict(CLIP)[0].scores) == 3


def test_a_token_budget_in_the_batches_works_too(model):
    from dataclasses import replace

    budgeted = replace(model, batches=replace(BATCHES, resolution=TokenBudget(8)))
    assert np.isfinite(budgeted.predict(CLIP)[0].scores).all()
