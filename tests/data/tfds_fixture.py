"""A tiny TFDS data set of coloured shapes, written as real array_record files without TensorFlow."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from tests.data.folder_fixture import CLASS_NAMES, DEFAULT_SIZES, draw_shape

__all__ = ["write_tiny_tfds"]


def write_tiny_tfds(
    data_dir: str | Path,
    name: str = "tiny_shapes",
    *,
    num_train: int = 24,
    num_validation: int = 8,
    sizes: tuple[tuple[int, int], ...] = DEFAULT_SIZES,
    classes: int = 3,
    version: str = "1.0.0",
    validation_split: str = "test",
) -> Path:
    """Prepares `data_dir/name/version` with the splits "train" and `validation_split`, and returns that folder.

    With `num_validation` of 0 there is only "train".
    """
    import tensorflow_datasets as tfds

    def examples(stream: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            generator = np.random.default_rng((stream, number))
            label = number % classes
            image = draw_shape(label, sizes[generator.integers(len(sizes))], generator)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=92)
            buffer.seek(0)
            yield number, {"image": buffer, "label": label}

    # TFDS lists every builder class by name as it is defined; a test's class must not stay there.
    with tfds.core.registered.skip_registration():

        class TinyShapes(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)
            url_infos: ClassVar = {}  # nothing is downloaded; TFDS would look for checksums beside this file

            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES[:classes])),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Coloured shapes.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                held_back = {validation_split: examples(1, num_validation)} if num_validation else {}
                return {"train": examples(0, num_train), **held_back}

            def _generate_examples(self) -> None:
                raise NotImplementedError

    TinyShapes.name = name
    builder = TinyShapes(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)
