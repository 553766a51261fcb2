"""Coloured shapes that a small model can tell apart, written as a folder of JPEGs."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["CLASS_NAMES", "DEFAULT_SIZES", "draw_shape", "write_jpeg_folder"]

CLASS_NAMES = ("circle", "cross", "square", "triangle")
"""In alphabetical order: a folder's class numbers are those of `draw_shape`."""

DEFAULT_SIZES = ((40, 56), (48, 32), (33, 61), (64, 64))

_HUES = ((220, 60, 50), (60, 170, 80), (60, 90, 220), (225, 190, 60))


def draw_shape(label: int, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """uint8 `[rows, columns, 3]`: the shape of class `label` (0...3) in the class's colour, on a grey ground."""
    rows, columns = size
    ground = int(generator.integers(20, 90)) + (130 if generator.random() < 0.5 else 0)
    picture = Image.new("RGB", (columns, rows), (ground, ground, ground))
    pen = ImageDraw.Draw(picture)
    colour = tuple(int(np.clip(value + generator.integers(-20, 21), 0, 255)) for value in _HUES[label])
    radius = int(min(size) * generator.uniform(0.28, 0.42))
    x, y = generator.integers(radius, columns - radius + 1), generator.integers(radius, rows - radius + 1)
    left, top, right, bottom = (int(value) for value in (x - radius, y - radius, x + radius, y + radius))
    if label == 0:
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif label == 1:
        arm = radius // 3 + 1
        pen.rectangle((left, int(y) - arm, right, int(y) + arm), fill=colour)
        pen.rectangle((int(x) - arm, top, int(x) + arm, bottom), fill=colour)
    elif label == 2:
        pen.rectangle((left, top, right, bottom), fill=colour)
    else:
        pen.polygon(((left, bottom), (right, bottom), (int(x), top)), fill=colour)
    noise = generator.integers(-8, 9, (rows, columns, 1))
    return np.clip(np.asarray(picture).astype(np.int16) + noise, 0, 255).astype(np.uint8)


def write_jpeg_folder(
    path: str | Path,
    classes: int = 3,
    per_class: int = 8,
    sizes: tuple[tuple[int, int], ...] = DEFAULT_SIZES,
    seed: int = 0,
) -> Path:
    """Writes `path/CLASS/NUMBER.jpg` for the first `classes` of `CLASS_NAMES` and returns `path`."""
    path = Path(path)
    for label, name in enumerate(CLASS_NAMES[:classes]):
        (path / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            generator = np.random.default_rng((seed, label, number))
            image = draw_shape(label, sizes[generator.integers(len(sizes))], generator)
            Image.fromarray(image).save(path / name / f"{number:03d}.jpg", quality=92)
    return path
