"""Detection sets of TFDS, prepared here as array_record files without TensorFlow."""

import io
import logging
import pickle
import sys
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.data.tfds_fixture import write_tiny_tfds
from vitjax.data.scene_sources import open_scenes
from vitjax.data.tfds_boxes import tfds_boxes
from vitjax.errors import UserError


def write_tiny_boxes(data_dir, name, *, crowd, area):
    """A train and a validation picture of 20 x 40 pixels: two boxes, and none; `crowd` names that feature."""
    import tensorflow_datasets as tfds

    def example(number, boxes):
        buffer = io.BytesIO()
        Image.fromarray(np.full((20, 40, 3), 40 * number, np.uint8)).save(buffer, "PNG")
        buffer.seek(0)
        objects = [
            {
                "bbox": tfds.features.BBox(*box),
                "label": place,
                crowd: bool(place),
                **({"area": 7 + place} if area else {}),
            }
            for place, box in enumerate(boxes)
        ]
        return number, {"image": buffer, "objects": objects}

    with tfds.core.registered.skip_registration():

        class TinyBoxes(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            url_infos: ClassVar = {}

            def _info(self):
                inside = {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
                    crowd: np.bool_,
                    **({"area": np.int64} if area else {}),
                }
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "objects": tfds.features.Sequence(inside),
                }
                return tfds.core.DatasetInfo(
                    builder=self, description="Boxes.", features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                boxes = [(0.1, 0.25, 0.5, 1.0), (0.0, 0.0, 1.0, 0.5), (0.3, 0.2, 0.3, 0.9)]
                return {"train": iter([example(1, boxes)]), "validation": iter([example(2, [])])}

            def _generate_examples(self):
                raise NotImplementedError

    TinyBoxes.name = name
    builder = TinyBoxes(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    write_tiny_boxes(folder, "tiny_coco", crowd="is_crowd", area=True)
    write_tiny_boxes(folder, "tiny_voc", crowd="is_difficult", area=False)
    write_tiny_tfds(folder, num_train=4, num_validation=2)
    return str(folder)


@pytest.mark.parametrize("name", ["tiny_coco", "tiny_voc"])
def test_boxes_labels_and_crowds(data_dir, name, caplog):
    source = pickle.loads(pickle.dumps(open_scenes(f"tfds:{name}", "train", data_dir=data_dir)))
    assert source.labels == ("cat", "dog", "cow")
    scene = source[0]
    assert scene["image"].shape == (20, 40, 3)
    assert (scene["image"] == 40).all()
    np.testing.assert_allclose(scene["boxes_xyxy_pixels"], [[10, 2, 40, 10], [0, 0, 20, 20]], rtol=1e-6)
    assert scene["labels"].tolist() == [0, 1]
    assert scene["crowd"].tolist() == [False, True]
    assert scene["area"].tolist() == [7, 8] if name == "tiny_coco" else "area" not in scene
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        np.testing.assert_array_equal(source.sizes(), [[20, 40]])
    assert "left out 1 boxes without area, in examples 0" in caplog.text
    empty = tfds_boxes(name, "validation", data_dir=data_dir)
    assert empty[0]["boxes_xyxy_pixels"].shape == (0, 4)
    assert "tensorflow" not in sys.modules


def test_what_is_refused(data_dir):
    with pytest.raises(UserError, match="expected an image and a sequence of objects"):
        tfds_boxes("tiny_shapes", "train", data_dir=data_dir)
    with pytest.raises(UserError, match="no split 'other'"):
        tfds_boxes("tiny_coco", "train", data_dir=data_dir, tfds_split="other")
    with pytest.raises(UserError, match="coco/2017 --file_format=array_record"):
        tfds_boxes("coco", "train", data_dir=data_dir)
    with pytest.raises(IndexError):
        tfds_boxes("tiny_coco", "train", data_dir=data_dir)[1]
