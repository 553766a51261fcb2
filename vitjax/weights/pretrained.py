"""Published weights by name: where they are, under which licence, in whose layout.

No hash stands here: the first download's is recorded in the user's cache (`weights/pins.py`) and checked ever after,
and the same holds for the commit of a repository whose revision is not given.

Sources: the buckets of google-research/vision_transformer (README, "Available ViT models" and AugReg), the table of
published checkpoints of big_vision's FlexiViT, timm's repositories on the Hugging Face hub, DeepViT's README, the model
zoo of apple/ml-cvnets, the README of EfficientViT's authors.
NaViT and learnable-memory ViT have no published weights.
"""

import logging
import os
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitjax.errors import UserError
from vitjax.weights.pins import cache_folder, check_files, read_pin, record_pin

__all__ = ["PUBLISHED", "Published", "fetch", "find_published"]

_logger = logging.getLogger("vitjax")


@dataclass(frozen=True)
class Published:
    """One place where weights are published.

    Attributes:
        model: name of the model, one of `vitjax.list_models()`.
        source: `hf-hub:organisation/name`, an address of a file, or the page where a person finds the file.
        layout: of the weights.
        revision: commit; empty where it is pinned at the first download.
        licence: SPDX name, as the source states it.
        by_hand: the source is a page; nothing can be downloaded from it by a program.
        channel_order: "rgb" or "bgr", of pictures, where files in this layout are found with both; a folder says it
            itself.
    """

    model: str
    source: str
    layout: str
    revision: str = ""
    licence: str = "Apache-2.0"
    by_hand: bool = False
    channel_order: str = ""


_TIMM: Mapping[str, str] = {
    # Model -> tags of timm's repositories `timm/MODEL.TAG`.
    "vit_tiny_patch16_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_tiny_patch16_384": "augreg_in21k_ft_in1k",
    "vit_small_patch32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_small_patch32_384": "augreg_in21k_ft_in1k",
    "vit_small_patch16_224": "augreg_in21k augreg_in21k_ft_in1k augreg_in1k dino",
    "vit_small_patch16_384": "augreg_in21k_ft_in1k augreg_in1k",
    "vit_small_patch8_224": "dino",
    "vit_base_patch32_224": "augreg_in21k augreg_in21k_ft_in1k augreg_in1k orig_in21k sam_in1k",
    "vit_base_patch32_384": "augreg_in21k_ft_in1k augreg_in1k",
    "vit_base_patch16_224": (
        "augreg_in21k augreg_in21k_ft_in1k augreg_in1k augreg2_in21k_ft_in1k "
        "orig_in21k orig_in21k_ft_in1k sam_in1k dino"
    ),
    "vit_base_patch16_384": "augreg_in21k_ft_in1k augreg_in1k orig_in21k_ft_in1k",
    "vit_base_patch8_224": "augreg_in21k augreg_in21k_ft_in1k augreg2_in21k_ft_in1k dino",
    "vit_large_patch32_224": "orig_in21k",
    "vit_large_patch32_384": "orig_in21k_ft_in1k",
    "vit_large_patch16_224": "augreg_in21k augreg_in21k_ft_in1k orig_in21k",
    "vit_large_patch16_384": "augreg_in21k_ft_in1k",
    "vit_huge_patch14_224": "orig_in21k",
    "vit_tiny_r_s16_p8_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_tiny_r_s16_p8_384": "augreg_in21k_ft_in1k",
    "vit_small_r26_s32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_small_r26_s32_384": "augreg_in21k_ft_in1k",
    "vit_base_r50_s16_224": "orig_in21k",
    "vit_base_r50_s16_384": "orig_in21k_ft_in1k",
    "vit_large_r50_s32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_large_r50_s32_384": "augreg_in21k_ft_in1k",
    **{f"mobilevit_{size}": "cvnets_in1k" for size in ("xxs", "xs", "s")},
    **{f"mobilevitv2_{width}": "cvnets_in1k" for width in ("050", "075", "100", "125")},
    **{
        f"mobilevitv2_{width}": "cvnets_in1k cvnets_in22k_ft_in1k cvnets_in22k_ft_in1k_384"
        for width in ("150", "175", "200")
    },
    **{f"efficientvit_m{number}": "r224_in1k" for number in range(6)},
    "resnet50": (
        "a1_in1k a1h_in1k a2_in1k a3_in1k b1k_in1k b2k_in1k c1_in1k c2_in1k d_in1k ram_in1k am_in1k ra_in1k bt_in1k "
        "tv_in1k tv2_in1k"
    ),
    "resnet101": "a1h_in1k a1_in1k a2_in1k a3_in1k tv_in1k tv2_in1k",
    "flexivit_small": "1200ep_in1k 600ep_in1k 300ep_in1k",
    "flexivit_base": "1200ep_in1k 600ep_in1k 300ep_in1k 1000ep_in21k 300ep_in21k",
    "flexivit_large": "1200ep_in1k 600ep_in1k 300ep_in1k",
}

_HUGGINGFACE: Mapping[str, str] = {
    # Google's own repositories for transformers: name -> model.
    "google/vit-base-patch16-224": "vit_base_patch16_224",
    "google/vit-base-patch16-384": "vit_base_patch16_384",
    "google/vit-base-patch32-384": "vit_base_patch32_384",
    "google/vit-large-patch16-224": "vit_large_patch16_224",
    "google/vit-large-patch16-384": "vit_large_patch16_384",
    "google/vit-large-patch32-384": "vit_large_patch32_384",
    "google/vit-base-patch16-224-in21k": "vit_base_patch16_224",
    "google/vit-base-patch32-224-in21k": "vit_base_patch32_224",
    "google/vit-large-patch16-224-in21k": "vit_large_patch16_224",
    "google/vit-large-patch32-224-in21k": "vit_large_patch32_224",
    "google/vit-huge-patch14-224-in21k": "vit_huge_patch14_224",
    "apple/mobilevit-xx-small": "mobilevit_xxs",
    "apple/mobilevit-x-small": "mobilevit_xs",
    "apple/mobilevit-small": "mobilevit_s",
    "apple/mobilevitv2-1.0-imagenet1k-256": "mobilevitv2_100",
    "apple/deeplabv3-mobilevit-xx-small": "deeplabv3_mobilevit_xxs",
    "apple/deeplabv3-mobilevit-x-small": "deeplabv3_mobilevit_xs",
    "apple/deeplabv3-mobilevit-small": "deeplabv3_mobilevit_s",
    "apple/mobilevitv2-1.0-voc-deeplabv3": "deeplabv3_mobilevitv2_100",
    "microsoft/resnet-50": "resnet50",
    "microsoft/resnet-101": "resnet101",
}

_LICENCES: Mapping[str, str] = {
    # Beginning of a model's name -> licence of its weights, where it is not that of ViT's; "cvnets-license" is timm's
    # word for the one in apple/ml-cvnets.
    "mobilevit": "cvnets-license",
    "deeplabv3_mobilevit": "cvnets-license",
    "efficientvit_m": "MIT",
}
_LICENCES_OF: Mapping[str, str] = {
    f"resnet{depth}.{tag}": "BSD-3-Clause" for depth in (50, 101) for tag in ("tv_in1k", "tv2_in1k")
}

_CVNETS = "https://docs-assets.developer.apple.com/ml-research/models"
_CVNETS_V1 = "cvnets/classification"
_CVNETS_V2 = "cvnets-v2/classification/mobilevitv2"
_CREAM = "https://github.com/xinyuliu-jeffrey/EfficientViT_Model_Zoo/releases/download/v1.0"

_BUCKET = "https://storage.googleapis.com/vit_models"
_AUGREG: tuple[tuple[str, str, str, str, Mapping[int, str]], ...] = (
    # Model without its size, tag, and of the file: beginning, regularisation, rate of the fine-tuning by image size;
    # size 0 is the file before fine-tuning.
    ("vit_tiny_patch16", "in21k", "Ti_16-i21k", "none-wd_0.03-do_0.0-sd_0.0", {0: "", 224: "0.03", 384: "0.03"}),
    ("vit_small_patch32", "in21k", "S_32-i21k", "light1-wd_0.03-do_0.0-sd_0.0", {0: "", 224: "0.03", 384: "0.03"}),
    ("vit_small_patch16", "in21k", "S_16-i21k", "light1-wd_0.03-do_0.0-sd_0.0", {0: "", 224: "0.03", 384: "0.03"}),
    ("vit_base_patch32", "in21k", "B_32-i21k", "medium1-wd_0.03-do_0.0-sd_0.0", {0: "", 224: "0.03"}),
    ("vit_base_patch32", "in21k", "B_32-i21k", "light1-wd_0.1-do_0.0-sd_0.0", {384: "0.03"}),
    ("vit_base_patch16", "in21k", "B_16-i21k", "medium1-wd_0.1-do_0.0-sd_0.0", {0: "", 224: "0.01", 384: "0.01"}),
    ("vit_base_patch8", "in21k", "B_8-i21k", "medium1-wd_0.1-do_0.0-sd_0.0", {0: "", 224: "0.01"}),
    ("vit_large_patch16", "in21k", "L_16-i21k", "medium1-wd_0.1-do_0.1-sd_0.1", {0: "", 224: "0.01", 384: "0.01"}),
    ("vit_tiny_r_s16_p8", "in21k", "R_Ti_16-i21k", "none-wd_0.03-do_0.0-sd_0.0", {0: "", 224: "0.03", 384: "0.03"}),
    ("vit_small_r26_s32", "in21k", "R26_S_32-i21k", "medium2-wd_0.03-do_0.0-sd_0.0", {0: "", 384: "0.03"}),
    ("vit_small_r26_s32", "in21k", "R26_S_32-i21k", "light0-wd_0.03-do_0.1-sd_0.1", {224: "0.03"}),
    ("vit_large_r50_s32", "in21k", "R50_L_32-i21k", "medium2-wd_0.1-do_0.0-sd_0.0", {0: "", 384: "0.01"}),
    ("vit_large_r50_s32", "in21k", "R50_L_32-i21k", "medium1-wd_0.1-do_0.1-sd_0.1", {224: "0.01"}),
    ("vit_small_patch16", "in1k", "S_16-i1k", "medium2-wd_0.1-do_0.0-sd_0.0", {224: "0.01", 384: "0.01"}),
    ("vit_base_patch32", "in1k", "B_32-i1k", "medium2-wd_0.1-do_0.1-sd_0.1", {224: "0.01", 384: "0.01"}),
    ("vit_base_patch16", "in1k", "B_16-i1k", "strong2-wd_0.1-do_0.1-sd_0.1", {224: "0.01", 384: "0.01"}),
)

_FLEXIVIT = "https://storage.googleapis.com/big_vision/flexivit/"
_FLEXIVIT_FILES: Mapping[str, str] = {
    **{
        f"flexivit_{size}.{epochs}ep_in1k": f"flexivit_{size[0]}_i1k{'' if epochs == 1200 else f'_{epochs}ep'}.npz"
        for size in ("small", "base", "large")
        for epochs in (1200, 600, 300, 90)
    },
    **{f"flexivit_base.{epochs}ep_in21k": f"flexivit_b_i21k_{epochs}ep.npz" for epochs in (1000, 300, 90)},
}

_DEEPVIT = "https://github.com/zhoudaquan/dvit_repo"


def _entries() -> Iterator[tuple[str, Published]]:
    for model, tags in _TIMM.items():
        for tag in tags.split():
            name = f"{model}.{tag}"
            yield name, Published(model, f"hf-hub:timm/{name}", "timm", licence=_licence(name))
    for name, model in _HUGGINGFACE.items():
        yield name, Published(model, f"hf-hub:{name}", "huggingface", licence=_licence(model))
    yield from _mobile_entries()
    for model, data, start, regularisation, rates in _AUGREG:
        stem = f"{_BUCKET}/augreg/{start}-300ep-lr_0.001-aug_{regularisation}"
        for size, rate in rates.items():
            tuned = f"--imagenet2012-steps_20k-lr_{rate}-res_{size}" if size else ""
            tag = "_ft_in1k" if size and data != "in1k" else ""
            sized = f"{model}_{size or 224}"
            yield f"{sized}.augreg_{data}{tag}", Published(sized, f"{stem}{tuned}.npz", "vit_jax")
    for patch in (16, 32):
        model = f"vit_base_patch{patch}_224"
        yield f"{model}.sam_in1k", Published(model, f"{_BUCKET}/sam/ViT-B_{patch}.npz", "vit_jax")
    for name, file in _FLEXIVIT_FILES.items():
        yield name, Published(name.partition(".")[0], _FLEXIVIT + file, "big_vision")
    for model in ("deepvit_s", "deepvit_l", "deepvit_l_384"):
        yield f"{model}.authors", Published(model, _DEEPVIT, "authors", by_hand=True)


def _licence(name: str) -> str:
    found = [licence for start, licence in _LICENCES.items() if name.startswith(start)]
    return _LICENCES_OF.get(name, found[0] if found else "Apache-2.0")


def _mobile_entries() -> Iterator[tuple[str, Published]]:
    """Files of the authors; those of MobileViT's first release read pictures with OpenCV."""
    for size in ("xxs", "xs", "s"):
        model = f"mobilevit_{size}"
        place = f"{_CVNETS}/{_CVNETS_V1}/{model}.pt"
        licence = _licence(model)
        yield f"{model}.cvnets_in1k", Published(model, place, "authors", licence=licence, channel_order="bgr")
    for percent in (50, 75, 100, 125, 150, 175, 200):
        model, file = f"mobilevitv2_{percent:03}", f"mobilevitv2-{percent / 100}.pt"
        folders = {"cvnets_in1k": ("", "imagenet1k/256x256")}
        if percent >= 150:
            folders["cvnets_in22k_ft_in1k"] = ("", "imagenet21k_to_1k/256x256")
            folders["cvnets_in22k_ft_in1k_384"] = ("_384", "imagenet21k_to_1k/384x384")
        for tag, (suffix, folder) in folders.items():
            place = f"{_CVNETS}/{_CVNETS_V2}/{folder}/{file}"
            yield f"{model}.{tag}", Published(f"{model}{suffix}", place, "authors", licence=_licence(model))
    for number in range(6):
        model = f"efficientvit_m{number}"
        yield f"{model}.r224_in1k", Published(model, f"{_CREAM}/{model}.pth", "authors", licence=_licence(model))


def _table() -> dict[str, tuple[Published, ...]]:
    found: dict[str, tuple[Published, ...]] = {}
    for name, published in _entries():
        found[name] = (*found.get(name, ()), published)
    return found


PUBLISHED: Mapping[str, tuple[Published, ...]] = _table()
"""Name, such as `vit_base_patch16_224.augreg_in21k_ft_in1k` -> where it is published; the first is taken unless a
layout is asked for."""


def find_published(name: str, layout: str | None = None) -> Published:
    """The place of published weights.

    Raises:
        UserError: there are none of that name, or in that layout, or a person has to download them.
    """
    places = PUBLISHED.get(name, ())
    fitting = [place for place in places if layout in (None, place.layout)]
    if not fitting:
        known = ", ".join(place.layout for place in places)
        raise UserError(
            f"{name}: " + (f"published in the layout of {known}, not {layout}" if places else "not published")
        )
    if fitting[0].by_hand:
        raise UserError(
            f"{name}: to be downloaded by hand, see {fitting[0].source}; "
            f"then vitjax.load(FILE, name={fitting[0].model!r})"
        )
    return fitting[0]


def fetch(name: str, published: Published) -> Path:
    """The file of published weights, downloaded at the first call.

    Raises:
        UserError: no connection, an incomplete download, or a file that is not what was downloaded at first.
    """
    source = published.source
    file = source.rpartition("/")[2]
    target = cache_folder() / f"{name.replace('/', '--')}--{file}"
    pin = read_pin(source)
    if not target.exists():
        _logger.info("%s: downloading %s (licence %s)", name, source, published.licence)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            download(source, part)
            if pin is not None:
                check_files(source, pin, {file: part})
            os.replace(part, target)
        except OSError as error:
            raise UserError(
                f"{name}: {source} cannot be downloaded ({type(error).__name__}: {error}); download it on a machine "
                f"with a connection and give the file's path with name={published.model!r}, layout={published.layout!r}"
            ) from error
        finally:
            part.unlink(missing_ok=True)
    if pin is None:
        record_pin(source, "", {file: target})
    else:
        check_files(source, pin, {file: target})
    return target


def download(address: str, target: Path) -> None:
    """Writes what lies at an address to a file.

    Raises:
        OSError: no connection, or fewer bytes than were announced.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "vitjax"})
    with urllib.request.urlopen(request, timeout=60) as response, target.open("wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)
        announced = response.headers.get("Content-Length")
    if announced is not None and target.stat().st_size != int(announced):
        raise OSError(f"{target.stat().st_size} of {announced} bytes arrived")
