"""Every resolution distribution and token drop of the paper, said in a config, stored, and run through the packer."""

import numpy as np
import pytest

from vitjax.config import build, from_json, spec, to_json
from vitjax.data import sampling
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sources import FakeImages

SIDES = {"low": 16, "high": 48}
RESOLUTIONS = {
    "side, uniform": spec(sampling.UniformSide, **SIDES),
    "area, uniform": spec(sampling.UniformArea, **SIDES),
    **{
        f"{kind.__name__}, mean {mean}": spec(kind, **SIDES, mean=mean)
        for kind in (sampling.TruncatedNormalSide, sampling.TruncatedNormalArea)
        for mean in (-0.5, 0, 0.5)
    },
    "native": spec(sampling.NativeSize, maximum=48),
    "fixed": spec(sampling.FixedSide, side=32),
    "budget": spec(sampling.TokenBudget, tokens=20),
    "NaFlex": spec(sampling.SequenceBudget, tokens=20),
}
DROPS = {  # with the share that they drop of 16 tokens on average
    "none": (spec(sampling.NoDrop), 0.0),
    "constant": (spec(sampling.ConstantDrop, rate=0.5), 0.5),
    "beta": (spec(sampling.BetaDrop, mean=0.3, maximum=0.6), 0.3),
    "by resolution": (spec(sampling.ResolutionDrop, low_rate=0.25, high_rate=0.75, shortest=8, longest=24), 0.5),
    "rising": (spec(sampling.ScheduledDrop, midpoint=0, temperature=1, low=0.2, high=0.7), 0.7),
    "falling": (spec(sampling.ScheduledDrop, midpoint=0, temperature=-1, low=0.2, high=0.7), 0.2),
}


def run(resolution, drop, batches=1):
    """Statistics and grids of the first batches of a stream made from what a config stores."""
    node = spec(
        PackedBatches,
        source=spec(FakeImages, num_examples=64, shapes=((32, 32), (24, 40), (48, 20))),
        patch_size=8, length=64, rows=4, packers=1, max_images=16, window=8, resolution=resolution, token_drop=drop,
        buckets=False, threads=1, prefetch=0,
    )  # fmt: skip
    stored = from_json(to_json(node))
    assert to_json(stored) == to_json(node)
    stream = build(stored).stream(0, Shards())
    found = [next(stream) for _ in range(batches)]
    statistics = stream.statistics()
    stream.close()
    return statistics, np.concatenate([batch["grid_sizes"][batch["image_mask"]] for batch in found])


@pytest.mark.parametrize("name", RESOLUTIONS)
def test_every_distribution_of_resolutions_runs_from_a_config(name):
    statistics, grids = run(RESOLUTIONS[name], spec(sampling.NoDrop))
    counts = grids.prod(axis=1)
    assert 4 <= counts.max() <= 1.5 * 36  # rounding both sides up adds half a patch to each
    assert statistics["tokens"] == counts.sum()
    assert statistics["dropped_token_share"] == 0
    if name in ("budget", "NaFlex"):
        assert counts.min() >= 15
        assert counts.max() <= 20


@pytest.mark.parametrize("name", DROPS)
def test_every_token_drop_runs_from_a_config(name):
    drop, share = DROPS[name]
    statistics, grids = run(spec(sampling.FixedSide, side=32), drop, batches=6)
    # The first images of a schedule, at its midpoint, are still on their way to its end.
    assert statistics["dropped_token_share"] == pytest.approx(share, abs=0.05)
    assert grids.prod(axis=1).min() >= 12
