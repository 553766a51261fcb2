"""TensorFlow Datasets as a source, without TensorFlow: array_record files, read at random, decoded by Pillow."""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from vitjax.data.images import DEFAULT_MAX_PIXELS, decode_image
from vitjax.errors import UserError

__all__ = [
    "KNOWN_DATA_SETS",
    "KnownDataSet",
    "TfdsImages",
    "count_examples",
    "prepared_split",
    "tfds_source",
    "undecoded",
]


@dataclass(frozen=True)
class KnownDataSet:
    """How a data set is used.

    Attributes:
        train: TFDS split for training.
        validation: TFDS split for evaluation.
        preparation: what has to be done by hand before TFDS can prepare it; empty when TFDS downloads all.
    """

    train: str
    validation: str
    preparation: str = ""


# Splits are those that published results train and report on.
KNOWN_DATA_SETS = {
    "imagenet2012": KnownDataSet(
        "train",
        "validation",
        "register on https://image-net.org/download-images and put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
        "into DATA_DIR/downloads/manual",
    ),
    "cifar10": KnownDataSet("train", "test"),
    "cifar100": KnownDataSet("train", "test"),
    "oxford_iiit_pet": KnownDataSet("train", "test"),
    "oxford_flowers102": KnownDataSet("train+validation", "test"),
    "places365_small": KnownDataSet("train", "validation"),
    "sun397": KnownDataSet("train", "test"),
    "i_naturalist2021": KnownDataSet(
        "train",
        "val",
        "the wheel of TFDS 4.9 lacks this set's label file, so install TFDS by `pip install "
        "git+https://github.com/tensorflow/datasets` in the environment that prepares it",
    ),
}

# Where a name alone is ambiguous.
_DEFAULT_CONFIGS = {"sun397": "tfds", "coco": "2017", "voc": "2012"}

_NAME = re.compile(
    r"(?P<name>[a-z][a-z0-9_]*)(:(?P<config>[\w.-]+)|/(?P<slash_config>(?!\d+\.\d+\.\d+)[\w.-]+))?(/(?P<version>[\d.*]+))?"
)


@dataclass(frozen=True)
class TfdsImages:
    """One split of an image classification set that TFDS has prepared as array_record files.

    `source[i]` is `{"image": uint8 [H, W, 3], "label": int, "index": i}`; stored bytes that cannot be
    decoded raise `BrokenExample`. Made by `tfds_source`; picklable, each process opens the files for itself.

    Attributes:
        directory: the prepared version, such as `~/tensorflow_datasets/cifar10/3.0.2`.
        split: TFDS split, such as "train", "test" or "train[:90%]".
        max_pixels: larger images are refused before they are decoded.
    """

    directory: str
    split: str
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"tfds:{self._builder.info.full_name}/{self.split}"

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        feature = self._builder.info.features[self._keys[1]]
        return tuple(feature.names or map(str, range(feature.num_classes)))

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory)

    @functools.cached_property
    def _keys(self) -> tuple[str, str]:
        """Names of the image and the label among the features."""
        import tensorflow_datasets as tfds

        info = self._builder.info
        images = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
        labels = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.ClassLabel)]
        pair = tuple(info.supervised_keys or ())
        if len(pair) == 2 and pair[0] in images and pair[1] in labels:
            return pair[0], pair[1]
        image = "image" if "image" in images else images[0] if len(images) == 1 else None
        label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
        if image is None or label is None:
            raise UserError(
                f"tfds:{info.full_name}: expected one image and one class label, "
                f"its features are {', '.join(sorted(info.features))}; choose a data set for image classification"
            )
        return image, label

    @functools.cached_property
    def _records(self) -> Any:
        return undecoded(self._builder, self.split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        image_key, label_key = self._keys
        record = self._records[number]
        image = decode_image(record[image_key], max_pixels=self.max_pixels, name=f"{self.name}, example {number}")
        return {"image": image, "label": int(record[label_key]), "index": number}

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "split": self.split, "max_pixels": self.max_pixels}


def tfds_source(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> TfdsImages:
    """Opens a data set that TFDS has prepared on this machine. Nothing is downloaded.

    Any image classification set works by its TFDS name. Those of `KNOWN_DATA_SETS` are split as published results split
    them; others train on "train" and are evaluated on "validation", "val" or "test", or, having none of these, on the
    last tenth of "train".

    Args:
        name: `NAME`, `NAME:CONFIG`, `NAME/VERSION` or `NAME:CONFIG/VERSION`; TFDS's own `NAME/CONFIG/VERSION` too.
        split: "train" or "validation".
        data_dir: where TFDS keeps its data; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        tfds_split: TFDS's own split expression, such as "train[:1%]", in place of the choice above.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name cannot be read, or the data set is not there as array_record files; the message says how to
            prepare it.
    """
    directory, chosen = prepared_split(name, split, data_dir=data_dir, tfds_split=tfds_split)
    source = TfdsImages(directory, chosen, max_pixels)
    count = count_examples(source, name)
    if not count or len(source.labels) < 2:
        raise UserError(
            f"tfds:{name}: split {chosen!r} in {directory} has {count} examples of {len(source.labels)} classes; "
            "expected at least 1 of 2"
        )
    return source


def undecoded(builder: Any, split: str) -> Any:
    """TFDS's records of a split, all images left as bytes: `decode_image` reads ours, others are not wanted."""
    import tensorflow_datasets as tfds

    images = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    return builder.as_data_source(split=split, decoders={name: tfds.decode.SkipDecoding() for name in images})


def count_examples(source: Any, name: str) -> int:
    """The length of a source that has just been opened by this name.

    Raises:
        UserError: the data set has no such split; the message lists those it has.
    """
    try:
        return len(source)
    except ValueError as error:
        splits = ", ".join(source._builder.info.splits)
        raise UserError(f"tfds:{name}: no split {source.split!r}; {source.directory} has {splits}") from error


def prepared_split(
    name: str, split: str, *, data_dir: str | None = None, tfds_split: str | None = None
) -> tuple[str, str]:
    """The folder of a prepared data set, and its TFDS split; see `tfds_source`.

    Raises:
        UserError: see `tfds_source`.
    """
    if split not in ("train", "validation"):
        raise UserError(f"`split`={split!r} of tfds:{name}, expected 'train' or 'validation'")
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"tfds:{name}: expected tfds:NAME[:CONFIG][/VERSION], such as tfds:cifar10 or tfds:sun397:tfds/4.0.0"
        )
    set_name = match["name"]
    config = match["config"] or match["slash_config"] or _DEFAULT_CONFIGS.get(set_name)
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    directory = _newest_version(root / set_name / (config or ""), match["version"])
    if directory is None and config is None:
        directory = _only_config(root / set_name, match["version"])
    if directory is None:
        raise UserError(_how_to_prepare(name, set_name, config, root))
    info = TfdsImages(str(directory), "")._builder.info
    if info.file_format is None or info.file_format.value != "array_record":
        stored = getattr(info.file_format, "value", "unknown")
        raise UserError(
            f"tfds:{name}: {directory} is in the format {stored}, expected array_record; "
            'with `pip install "vitjax[tfds-prepare]"` run `tfds convert_format --root_data_dir='
            f"{directory.parent} --out_file_format=array_record`, or prepare it anew in another data_dir"
        )
    return str(directory), tfds_split or _choose_split(set_name, split, tuple(info.splits))


def _choose_split(set_name: str, split: str, available: tuple[str, ...]) -> str:
    known = KNOWN_DATA_SETS.get(set_name)
    # A copy prepared by hand may lack the published splits; then the general rule below holds.
    if known is not None and all(part in available for part in (*known.train.split("+"), *known.validation.split("+"))):
        return known.train if split == "train" else known.validation
    held_back = [name for name in ("validation", "val", "test") if name in available]
    if held_back:
        return "train" if split == "train" else held_back[0]
    return "train[:90%]" if split == "train" else "train[90%:]"


def _newest_version(folder: Path, version: str | None) -> Path | None:
    """The prepared version inside a data set's (or configuration's) folder; the highest when none is asked for."""
    found = []
    for path in folder.glob("*"):
        numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", path.name)
        if numbers and (path / "dataset_info.json").is_file() and (path / "features.json").is_file():
            found.append((tuple(map(int, numbers.groups())), path))
    if version is not None:
        pattern = re.compile(version.replace(".", r"\.").replace("*", r"\d+"))
        found = [(numbers, path) for numbers, path in found if pattern.fullmatch(path.name)]
    return max(found)[1] if found else None


def _only_config(folder: Path, version: str | None) -> Path | None:
    """The prepared version of a data set's configuration, when one configuration is on disk."""
    found = [path for child in sorted(folder.glob("*")) if (path := _newest_version(child, version)) is not None]
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise UserError(f"tfds:{folder.name}: has configurations {names} in {folder}; write tfds:{folder.name}:CONFIG")
    return found[0] if found else None


def _how_to_prepare(name: str, set_name: str, config: str | None, root: Path) -> str:
    known = KNOWN_DATA_SETS.get(set_name)
    by_hand = known.preparation.replace("DATA_DIR", str(root)) if known else ""
    full_name = f"{set_name}/{config}" if config else set_name
    return (
        f"tfds:{name}: not prepared, looked in {root / set_name}; "
        + (f"first {by_hand}; then " if by_hand else "")
        + f'run `pip install "vitjax[tfds-prepare]" && tfds build {full_name} --file_format=array_record '
        f"--data_dir={root}` (on any machine: reading needs no TensorFlow), "
        "or say where it is by `data_dir` or $TFDS_DATA_DIR"
    )
