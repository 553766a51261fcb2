"""Orders of channels: what the preparation carries, and what must be said."""

import numpy as np
import pytest

from vitjax.config import build, describe
from vitjax.data.batching import ImageBatches
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import TokenBudget
from vitjax.data.transforms import CentreCrop, Resize, ReverseChannels
from vitjax.errors import UserError
from vitjax.inference.channel_order import channel_order_of, settled_order, with_channel_order
from vitjax.inference.preparation import resized_batches

BATCHES = ImageBatches(source=None, transforms=(Resize(40), CentreCrop(32)), batch_size=1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_reversing_twice_is_nothing_and_leaves_a_fourth_channel(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, channels), np.uint8)
    reverse = ReverseChannels()
    generator = np.random.default_rng(0)
    once = reverse(image, generator)
    np.testing.assert_array_equal(reverse(once, generator), image)
    np.testing.assert_array_equal(once[:, :, 3:], image[:, :, 3:])
    if channels > 1:
        np.testing.assert_array_equal(once[:, :, 0], image[:, :, 2])


def test_a_preparation_turns_and_turns_back():
    turned = with_channel_order(BATCHES, "bgr", "here")
    assert channel_order_of(turned.transforms) == "bgr"
    assert with_channel_order(turned, "bgr", "here") is turned
    assert with_channel_order(turned, "rgb", "here") == BATCHES
    assert build(describe(turned)) == turned
    assert resized_batches(turned, (32, 32), (64, 64)).transforms == (Resize(80), CentreCrop(64), ReverseChannels())
    assert resized_batches(turned, (32, 32), (64, 32)).transforms == (Resize((64, 32)), ReverseChannels())


def test_what_is_known_what_is_asked_and_what_nobody_says():
    assert settled_order("rgb", None, "here") == "rgb"
    assert settled_order("rgb", "bgr", "here") == "bgr"
    assert settled_order(None, "bgr", "here") == "bgr"
    with pytest.raises(UserError, match=r"here: nothing says .*; give channel_order='bgr' or channel_order='rgb'"):
        settled_order(None, None, "here")
    with pytest.raises(UserError, match=r"`channel_order` \(='grb'\) must be one of rgb, bgr"):
        settled_order("rgb", "grb", "here")
    packed = PackedBatches(
        source=None, patch_size=8, length=64, rows=2, packers=1, max_images=2, resolution=TokenBudget(16)
    )
    with pytest.raises(UserError, match="PackedBatches cannot turn channels round"):
        with_channel_order(packed, "bgr", "here")
