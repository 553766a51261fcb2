"""PyTorch's side of the comparisons: two threads, torchvision importable, `benchmarks` importable."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the PyTorch references are the extra `parity`")

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from benchmarks.torch_side import import_torch  # noqa: E402

import_torch()
