"""Where DETR's decoder looks for each object that it finds: a picture per box, as in figure 6 of the paper."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Float, Tree, UInt8
from vitjax.data.sources import ImageList
from vitjax.errors import UserError
from vitjax.inference.detection_results import Detection
from vitjax.inference.predict import Pictures, list_pictures, small_batches
from vitjax.inference.segmentation_results import new_figure
from vitjax.layers.attention import MAPS
from vitjax.ops.boxes import xyxy_of

__all__ = ["BoxAttention", "attention_of_boxes"]


@dataclass(frozen=True, eq=False)
class BoxAttention:
    """The objects found in one picture, and what the decoder looked at for each.

    Attributes:
        name: of the picture.
        image: uint8, as the model got it, without padding.
        detections: objects, best first; boxes in pixels of `image`.
        maps: what share of its attention each object's query gave to each place, by head, on the encoder's grid; 1 over
            each object's and head's places, padding included.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"] = field(repr=False)
    detections: tuple[Detection, ...]
    maps: Float[np.ndarray, "objects A h w"] = field(repr=False)

    def plot(self, path: str | Path, *, across: int = 4) -> Path:
        """Draws the picture once for each object: its box, and the attention of all heads in light.

        Args:
            path: of the picture to write; its folder is made.
            across: objects in a row.
        """
        across = max(1, min(across, len(self.detections)))
        down = max(1, -(-len(self.detections) // across))
        figure = new_figure(2.6 * across, 2.8 * down)
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, found, maps in zip(grid.flat, self.detections, self.maps, strict=False):
            _draw(axes, self.image, found, maps.mean(axis=0))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        return path


def attention_of_boxes(
    bundle: Any, images: Any, *, threshold: float = 0.5, block: int | None = None
) -> list[BoxAttention]:
    """The objects that a DETR finds in pictures, and where it looked.

    Args:
        bundle: what `vitjax.load` returns, of a `DETR` or a `PanopticDETR`.
        images: as `Bundle.predict` takes them.
        threshold: an object's probability is above it.
        block: of the decoder, from 0; the last one if not given.

    Raises:
        UserError: the model has no decoder with that block, or a picture cannot be read.
    """
    pictures = Pictures(ImageList(list_pictures(images)), bundle.labels)
    read = _reader(bundle.module, block)
    found: dict[int, BoxAttention] = {}
    for batch in small_batches(pictures, bundle.batches):
        logits, boxes, maps = (np.asarray(part) for part in read(bundle.variables, bundle.task.inputs(batch)))
        scores = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))[..., :-1]
        frame = batch["image"].shape[1:3]
        sizes = batch.get("content_size", np.broadcast_to(np.array(frame), (len(maps), 2)))
        for row in np.flatnonzero(batch["image_mask"]):
            number, (rows, columns) = int(batch["example"][row]), sizes[row].tolist()
            best = scores[row].max(axis=-1)
            kept = [query for query in np.argsort(-best, kind="stable") if best[query] > threshold]
            edges = boxes[row] * np.array([columns, rows, columns, rows])
            detections = tuple(_detection(bundle.labels, scores[row, query], edges[query]) for query in kept)
            high, wide = -(-rows * maps.shape[3] // frame[0]), -(-columns * maps.shape[4] // frame[1])
            own = maps[row][:, kept, :high, :wide].swapaxes(0, 1)
            image = np.asarray(batch["image"][row, :rows, :columns])
            found[number] = BoxAttention(pictures.images.names[number], image, detections, own)
    broken = [f"{pictures.images.names[number]}: {reason}" for number, reason in pictures.errors.items()]
    if broken:
        raise UserError(f"no attention maps of {len(broken)} of {len(pictures)} pictures: {'; '.join(broken)}")
    return [found[number] for number in sorted(found)]


def _detection(labels: tuple[str, ...], scores: np.ndarray, edges: np.ndarray) -> Detection:
    label = int(scores.argmax())
    left, top, right, bottom = map(float, edges)
    return Detection(labels[label], float(scores[label]), (left, top, right, bottom), label)


def _reader(module: Any, block: int | None) -> Any:
    """The jitted program from variables and inputs to last logits, boxes xyxy, and `[B, A, Q, h, w]`."""

    @jax.jit
    def read(variables: Tree, inputs: Mapping[str, Any]) -> tuple[jax.Array, ...]:
        outputs, state = module.apply(variables, **inputs, train=False, mutable=[MAPS, "intermediates"])
        decoder = state.get(MAPS, {}).get("decoder", {})
        name = f"block_{len(decoder) - 1 if block is None else block}"
        if name not in decoder:
            raise UserError(
                f"{type(module).__name__} has no `decoder/{name}` that attends to a picture; its decoder has "
                f"{len(decoder)} blocks, from 0"
            )
        (maps,), (projected,) = decoder[name]["cross_attention"]["map"], state["intermediates"]["projected"]
        maps = maps.reshape(*maps.shape[:3], *projected.shape[1:3])
        return jnp.asarray(outputs["logits"][-1]), jnp.asarray(xyxy_of(outputs["boxes"][-1])), jnp.asarray(maps)

    return read


def _draw(axes: Any, image: np.ndarray, found: Detection, attention: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = image.shape[:2]
    axes.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    frame = (0, columns, rows, 0)
    axes.imshow(attention, cmap="inferno", alpha=0.6, extent=frame, interpolation="bilinear", vmin=0)
    left, top, right, bottom = found.box_xyxy_pixels
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="cyan", linewidth=1.5))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_title(f"{found.label} {found.score:.2f}", fontsize=8)
