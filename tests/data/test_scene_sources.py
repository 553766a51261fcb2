"""Short names of sources of boxes."""

import pytest
from PIL import Image

from vitjax.data.box_folders import BoxFolder
from vitjax.data.coco import CocoFolder
from vitjax.data.digits import DigitScenes
from vitjax.data.scene_sources import open_scenes
from vitjax.errors import UserError


def test_short_names(tmp_path):
    digits = open_scenes("digits", "train", num_scenes=7, sides=(64, 80), digit_sides=(16, 24), max_digits=2, seed=3)
    assert digits == DigitScenes("train", 7, 3, (64, 80), (16, 24), 2)
    file = DigitScenes("train", 2).write_coco(tmp_path)
    assert isinstance(open_scenes(f"coco:{file}", "train", keep_ids=True), CocoFolder)
    for number in range(2):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "boxes.csv").write_text("file,label,left,top,right,bottom\n0.png,x,1,1,2,2\n1.png,y,1,1,2,2\n")
    assert isinstance(open_scenes(f"folder:{tmp_path}", "validation", validation_share=0.5), BoxFolder)


@pytest.mark.parametrize("data", ["digit", "coco:", "folder:", "tfds:", "digits:2", "voc:x"])
def test_other_names(data):
    with pytest.raises(UserError, match="expected digits, folder:PATH, coco:PATH or tfds:NAME"):
        open_scenes(data, "train")


def test_a_path_alone(tmp_path):
    with pytest.raises(UserError, match=f"did you mean coco:{tmp_path} or folder:{tmp_path}"):
        open_scenes(str(tmp_path), "train")
