"""PyTorch's side of the comparisons: two threads, and torchvision importable."""

import pytest

pytest.importorskip("torch", reason="the PyTorch references are the extra `parity`")

from benchmarks.torch_side import import_torch

# Two test processes share two cores: with two threads each, PyTorch spends its time waiting for them.
import_torch(threads=1)
