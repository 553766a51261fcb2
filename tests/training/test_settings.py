"""How many classes a task needs of its data."""

import pytest
from fake_run import Batches, Classify, config

from vitjax.config import spec
from vitjax.errors import UserError
from vitjax.tasks.detection import AnchorDetection
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.segmentation import Segmentation
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.training.run import make_parts


def with_classes(workdir, task, count):
    batches = {name: spec(Batches, classes=count) for name in ("train", "evaluation")}
    return config(workdir, task=task, **batches)


@pytest.mark.parametrize("task", [spec(AnchorDetection), spec(SetPrediction), spec(Panoptic, stuff=())])
def test_objects_of_one_class_can_be_looked_for(tmp_path, task):
    parts = make_parts(with_classes(tmp_path / "run", task, 1))
    parts.stream.close()
    parts.manager.close()
    assert parts.settings.model.num_classes == parts.model.num_classes == 1
    assert parts.notes == ("model.num_classes is 1, the classes of the training data",)
    with pytest.raises(UserError, match=r"`train` has 0 class \(none\): this task needs at least 1"):
        make_parts(with_classes(tmp_path / "none", task, 0))


@pytest.mark.parametrize("task", [spec(Classify), spec(Segmentation)])
def test_one_class_alone_cannot_be_told_from_anything(tmp_path, task):
    with pytest.raises(UserError, match=r"`train` has 1 class \(class 0\): this task needs at least 2"):
        make_parts(with_classes(tmp_path, task, 1))
