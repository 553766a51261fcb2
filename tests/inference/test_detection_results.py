"""Detection results: what is said, what is drawn, and what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.parity_cases_ssdlite import small
from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import Resize
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.detection_results import Detection, DetectionResult, detection_result, save_scenes
from vitjax.tasks.detection import AnchorDetection

PREDICTION = {
    "boxes": np.array([[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 1, 1], [0, 0, 0, 0]], np.float32),
    "scores": np.array([0.9, 0.2, 0.0], np.float32),
    "labels": np.array([1, 0, 0], np.int32),
    "mask": np.array([True, True, False]),
}


def make(prediction=PREDICTION, top_k=5, **keywords):
    picture = np.full((50, 100, 3), 255, np.uint8)
    return detection_result("a.jpg", ("cat", "dog"), prediction, (50, 100), top_k, picture=lambda: picture, **keywords)


def test_boxes_are_in_pixels_of_the_original():
    result = make()
    assert len(result) == 2
    best, second = result
    assert (best.label, second.label) == ("dog", "cat")
    np.testing.assert_allclose(best.box_xyxy_pixels, (10, 10, 50, 30), rtol=1e-6)
    assert result.top(1) == (best,)
    assert result.top(threshold=0.5) == (best,)
    assert isinstance(best, Detection)


def test_text_names_the_picture_and_its_best_objects():
    assert str(make()) == "a.jpg: dog 0.900 at (10, 10, 50, 30), cat 0.200 at (50, 25, 100, 50)"
    assert repr(make(top_k=1)) == "DetectionResult(a.jpg: dog 0.900 at (10, 10, 50, 30) and 1 more)"
    assert str(make(PREDICTION | {"mask": np.zeros(3, bool)})) == "a.jpg: nothing found"


def test_drawing_frames_what_is_sure_enough(tmp_path):
    path = make().plot(tmp_path / "new" / "a.png")
    drawn = np.asarray(Image.open(path).convert("RGB"))
    nothing = np.asarray(Image.open(make().plot(tmp_path / "b.png", threshold=0.95)).convert("RGB"))
    assert (drawn != 255).any()
    assert (nothing == 255).all()
    assert save_scenes([make(), make()], tmp_path / "two.png").is_file()


def test_a_picture_that_could_not_be_read_says_why():
    result = detection_result("a.jpg", ("cat",), None, None, 5, error="no such file")
    assert str(result) == "a.jpg: no such file"
    assert list(result) == []
    for ask in (result.top, lambda: result.plot("a.png")):
        with pytest.raises(UserError, match=r"a.jpg: there are no boxes, no such file; look at `result.error` first"):
            ask()


def test_a_bundle_finds_boxes_in_pixels_of_each_picture(tmp_path):
    module, images = small(), jnp.zeros((1, 32, 32, 3))
    bundle = Bundle(
        module,
        AnchorDetection(max_candidates=5, max_detections=4, score_threshold=1e-6),
        ImageBatches(None, batch_size=4, transforms=(Resize(32),)),
        ("a", "b", "c"),
        make_variables=lambda: jax.jit(module.init)(jax.random.key(0), images),
    )
    (tmp_path / "broken.png").write_bytes(b"no image")
    pictures = [np.full((20, 60, 3), 90, np.uint8), str(tmp_path / "broken.png"), np.zeros((50, 30, 3), np.uint8)]
    wide, broken, high = bundle.predict(pictures)
    assert all(isinstance(result, DetectionResult) for result in (wide, broken, high))
    assert "not an image" in broken.error
    for result, (rows, columns) in ((wide, (20, 60)), (high, (50, 30))):
        assert len(result) == 4
        assert (np.diff(result.scores) <= 0).all()
        assert (result.boxes_xyxy_pixels >= 0).all()
        assert (result.boxes_xyxy_pixels <= [columns, rows, columns, rows]).all()
    assert wide.boxes_xyxy_pixels.max() > 32  # not those of the prepared image
    np.testing.assert_array_equal(high.picture(), pictures[2])


def test_what_cannot_be_asked():
    with pytest.raises(UserError, match=r"`k` \(=0\) must be 1 or more"):
        make().top(0)
    with pytest.raises(UserError, match="the model finds class 1, but the bundle holds 1 labels"):
        detection_result("a.jpg", ("cat",), PREDICTION, (50, 100), 5)
    with pytest.raises(UserError, match="does not know its picture"):
        detection_result("a.jpg", ("cat", "dog"), PREDICTION, (50, 100), 5).plot("a.png")
