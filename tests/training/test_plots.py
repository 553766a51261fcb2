import numpy as np

from vitjax.training.plots import draw_batch, draw_curves, packed_images


def packed(size=4):
    """Two images in one row, cut into patches as (row, column, channel); the last token of the first is dropped."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (rows * size, columns * size, 3), np.uint8) for rows, columns in ((2, 3), (1, 2))]
    patches, segments, positions = [], [], []
    for number, image in enumerate(images, 1):
        for row in range(image.shape[0] // size):
            for column in range(image.shape[1] // size):
                patches.append(image[row * size : (row + 1) * size, column * size : (column + 1) * size].ravel())
                segments.append(number)
                positions.append((row, column))
    kept = [token for token in range(8) if token != 5]
    batch = {
        "patches": np.stack([patches[token] for token in kept] + [np.zeros_like(patches[0])])[None],
        "segments": np.array([[segments[token] for token in kept] + [0]]),
        "positions": np.array([[positions[token] for token in kept] + [(0, 0)]]),
        "grid_sizes": np.array([[(2, 3), (1, 2), (1, 1)]]),
        "image_mask": np.array([[True, True, False]]),
        "label": np.array([[1, 0, 0]]),
    }
    return images, batch


def test_images_come_back_from_their_patches():
    (first, second), batch = packed()
    shown, labels = packed_images(batch, 9)
    assert labels == [1, 0]
    np.testing.assert_array_equal(shown[1], second)
    expected = first.copy()
    expected[4:, 8:] = 128  # the dropped token is grey
    np.testing.assert_array_equal(shown[0], expected)


def test_of_a_clip_the_middle_frames_of_its_tubelets_stand_side_by_side():
    video = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), np.uint8)
    tubelets = video.reshape(2, 2, 2, 4, 3, 4, 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(12, -1)
    batch = {
        "patches": tubelets[None, :11],  # the last one is dropped
        "segments": np.ones((1, 11), int),
        "positions": np.stack(np.unravel_index(np.arange(11), (2, 2, 3)), axis=1)[None],
        "grid_sizes": np.array([[(2, 2, 3)]]),
        "image_mask": np.array([[True]]),
    }
    (strip,), labels = packed_images(batch, 9, patch_size=4)
    expected = np.concatenate([video[1], video[3]], axis=1)
    expected[4:, 20:] = 128
    np.testing.assert_array_equal(strip, expected)
    assert labels == [-1]


def test_pictures_are_drawn(tmp_path):
    from PIL import Image

    drawn = draw_batch(packed()[1], ("a", "b"), tmp_path)
    assert [path.name for path in drawn] == ["rows.png", "inputs.png"]
    images = {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.zeros((2, 3))}
    assert [path.name for path in draw_batch(images, None, tmp_path)] == ["inputs.png"]
    assert draw_batch({"tokens": np.zeros((2, 3))}, None, tmp_path) == []
    rows = [{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "evaluation", "step": 1, "loss": 1.0, "top1": 0.5}]
    draw_curves(rows, tmp_path)
    for name in ("rows", "inputs", "loss", "scores"):
        assert min(Image.open(tmp_path / f"{name}.png").size) > 50
