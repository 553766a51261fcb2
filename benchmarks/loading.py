"""JPEG files of 500 x 375 to batches of inception crops at 224 with flips, images a second by threads and workers.

The peer is a torch `DataLoader` over the same files with timm's random resized crop on Pillow images, in a process of
its own, alternated with ours.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitjax.data.batching import ImageBatches
from vitjax.data.images import decode_image
from vitjax.data.loading import Shards
from vitjax.data.transforms import HorizontalFlip, InceptionCrop

_FILES, _BATCH, _BATCHES, _REPEATS = 256, 32, 20, 5
_SETTINGS = ((1, 0), (2, 0), (4, 0), (1, 2))
"""(threads, workers) of ours; the peer has as many workers as we have of both, and none for a single thread."""

_PEER = """
import json, sys, time, random, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
torch.library.define("torchvision::nms", "(Tensor a, Tensor b, float c) -> Tensor")
from pathlib import Path
from PIL import Image

folder, workers, batch, batches = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
try:
    from timm.data.transforms import RandomResizedCropAndInterpolation
    crop = RandomResizedCropAndInterpolation(224, interpolation="bicubic")
except Exception:
    import math
    def crop(image):  # the same steps with Pillow, where timm's transforms cannot be imported
        columns, rows = image.size
        for _ in range(10):
            area = random.uniform(0.08, 1) * columns * rows
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= columns and h <= rows:
                x, y = random.randint(0, columns - w), random.randint(0, rows - h)
                return image.crop((x, y, x + w, y + h)).resize((224, 224), Image.Resampling.BICUBIC)
        return image.resize((224, 224), Image.Resampling.BICUBIC)

class Files(torch.utils.data.Dataset):
    files = sorted(folder.glob("*.jpg"))
    def __len__(self):
        return len(self.files) * 100
    def __getitem__(self, index):
        image = crop(Image.open(self.files[index % len(self.files)]).convert("RGB"))
        image = np.asarray(image)
        return torch.from_numpy(image[:, ::-1].copy() if random.random() < 0.5 else image.copy())

if __name__ == "__main__":
    loader = iter(torch.utils.data.DataLoader(Files(), batch, shuffle=True, num_workers=workers))
    for _ in range(4):
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    print(json.dumps(batch * batches / (time.perf_counter() - start)))
"""


@dataclass(frozen=True)
class JpegFiles:
    """The files of a folder, decoded when they are asked for."""

    folder: str
    count: int
    name: str = "jpegs"
    labels: tuple[str, ...] = ("picture",)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return {"image": decode_image(f"{self.folder}/{index:04}.jpg"), "label": 0}


def write_jpegs(folder: str, count: int) -> None:
    """Smooth coloured noise, which compresses about as photographs do (60 kB at quality 90)."""
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (47, 63, 3), np.uint8))
        pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = pixels + generator.normal(0, 6, (375, 500, 1)).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"{folder}/{number:04}.jpg", quality=90)


def _ours(folder: str, threads: int, workers: int) -> float:
    """Images per second of a stream that is under way."""
    batches = ImageBatches(
        JpegFiles(folder, _FILES), _BATCH, (InceptionCrop(224), HorizontalFlip()), threads=threads, workers=workers
    )
    stream = batches.stream(0, Shards())
    for _ in range(4):
        next(stream)
    started = time.perf_counter()
    for _ in range(_BATCHES):
        next(stream)
    seconds = time.perf_counter() - started
    stream.close()
    return _BATCH * _BATCHES / seconds


def _in_process(*arguments: str) -> float:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])[:80]} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def rows() -> list[dict]:
    """Images per second of ours and of the peer, medians of alternated processes."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(folder, _FILES)
        peer_file = Path(folder) / "peer.py"
        peer_file.write_text(_PEER)
        for threads, workers in _SETTINGS:
            peer_workers = 0 if (threads, workers) == (1, 0) else max(threads, workers)
            ours, peers = [], []
            for _ in range(_REPEATS):
                ours.append(_in_process("-m", "benchmarks.loading", folder, str(threads), str(workers)))
                peers.append(_in_process(str(peer_file), folder, str(peer_workers), str(_BATCH), str(_BATCHES)))
            ratios = [one / peer for one, peer in zip(ours, peers, strict=True)]
            found.append({
                "case": f"{threads} threads, {workers} workers vs torch DataLoader with {peer_workers} workers",
                "ours": float(np.median(ours)), "peer": float(np.median(peers)), "ratio": float(np.median(ratios)),
                "min": min(ratios), "max": max(ratios), "unit": "images/s",
            })  # fmt: skip
    return found


if __name__ == "__main__":
    print(json.dumps(_ours(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
