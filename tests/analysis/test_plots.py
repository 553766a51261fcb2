"""Pictures are drawn from what they are given, also at odd sizes; what they look like is looked at by people."""

import numpy as np
import pytest
from PIL import Image

from vitjax.analysis.attention_maps import PictureMaps
from vitjax.analysis.plots import draw_cross_head_similarity, draw_heads, draw_layer_similarity, draw_rollouts
from vitjax.errors import UserError


def picture(grid=(3, 5), prefix=1, channels=3, layers=4):
    rng = np.random.default_rng(0)
    tokens = grid[0] * grid[1] + prefix
    maps = {f"block_{number}/attention": rng.random((2, tokens, tokens)).astype(np.float32) for number in range(layers)}
    image = rng.integers(0, 255, (grid[0] * 8, grid[1] * 8, channels)).astype(np.uint8)
    return PictureMaps("folder/cat.jpg", image, maps, grid)


def drawn(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.std() > 5
    return pixels


def test_layers_of_one_and_of_several_models(tmp_path):
    share = np.eye(5)
    draw_layer_similarity({"one": share}, tmp_path / "new folder" / "one.png")
    draw_layer_similarity({"one": share, "other": share - 0.3}, tmp_path / "two.png", title="both")
    one, two = drawn(tmp_path / "new folder" / "one.png"), drawn(tmp_path / "two.png")
    assert two.shape[1] > one.shape[1]


def test_heads_have_a_row_per_layer(tmp_path):
    draw_heads(picture(), tmp_path / "three.png")
    draw_heads(picture(prefix=0, channels=1), tmp_path / "one.png", layers=["block_1/attention"])
    assert drawn(tmp_path / "three.png").shape[0] > 2 * drawn(tmp_path / "one.png").shape[0]
    with pytest.raises(UserError, match="no map of block_9/attention; there are block_0/attention"):
        draw_heads(picture(), tmp_path / "none.png", layers=["block_9/attention"])


@pytest.mark.parametrize("count", [1, 5])
def test_rollouts(tmp_path, count):
    draw_rollouts([picture()] * count, tmp_path / "rollout.png")
    drawn(tmp_path / "rollout.png")


def test_curves_of_heads(tmp_path):
    draw_cross_head_similarity({"one": np.linspace(0.2, 0.9, 6), "single": np.array([0.5])}, tmp_path / "heads.png")
    drawn(tmp_path / "heads.png")
