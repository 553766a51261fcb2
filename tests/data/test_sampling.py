import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.data.sampling import (
    BetaDrop,
    ConstantDrop,
    FixedOrder,
    FixedSide,
    NativeSize,
    NoDrop,
    ResolutionDrop,
    ScheduledDrop,
    SequenceBudget,
    ShuffledOrder,
    TokenBudget,
    TruncatedNormalArea,
    TruncatedNormalSide,
    UniformArea,
    UniformSide,
    example_generator,
    grid_size,
    keep_tokens,
    within,
)
from vitjax.errors import UserError

GENERATOR = np.random.default_rng(0)


def test_generator_depends_on_each_of_seed_epoch_and_index():
    draws = {
        example_generator(seed, epoch, index).random() for seed in range(3) for epoch in range(3) for index in range(3)
    }
    assert len(draws) == 27
    assert example_generator(1, 2, 3).random() == example_generator(1, 2, 3).random()


@given(size=st.integers(1, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_each_epoch_of_the_order_is_a_permutation(size, seed, epoch):
    order = ShuffledOrder(seed, size)
    places = [order(epoch * size + number) for number in range(size)]
    assert {found for found, _ in places} == {epoch}
    assert sorted(index for _, index in places) == list(range(size))


def test_order_changes_with_epoch_and_seed():
    first, second, other = (
        [order(start + number)[1] for number in range(100)]
        for order, start in ((ShuffledOrder(0, 100), 0), (ShuffledOrder(0, 100), 100), (ShuffledOrder(1, 100), 0))
    )
    assert first != second
    assert first != other
    assert first != sorted(first)


def test_fixed_order_keeps_the_sources_order():
    assert [FixedOrder()(position) for position in (0, 7)] == [(0, 0), (0, 7)]


def draws(resolution, count=4000):
    generator = np.random.default_rng(0)
    return np.array([resolution(generator, (300, 400)) for _ in range(count)])


@pytest.mark.parametrize(
    "resolution",
    [UniformSide(64, 384), UniformArea(64, 384), TruncatedNormalSide(64, 384), TruncatedNormalArea(64, 384, mean=0.5)],
)
def test_sides_stay_in_range_and_use_all_of_it(resolution):
    sides = draws(resolution)
    assert sides.min() >= 64
    assert sides.max() <= 384
    assert sides.min() < 90
    assert sides.max() > 370


def test_uniform_side_and_area_are_uniform_in_what_their_name_says():
    assert np.mean(draws(UniformSide(64, 256))) == pytest.approx(160, abs=4)
    assert np.mean(draws(UniformArea(64, 256)) ** 2) == pytest.approx((64**2 + 256**2) / 2, rel=0.03)


def test_truncated_normals_have_the_moments_of_the_rescaled_distribution():
    from scipy.stats import truncnorm

    # NaViT section 3.3: u ~ N_t(-0.5, 1) on [-1, 1], rescaled linearly to side length or to area
    share = (truncnorm(-0.5, 1.5, loc=-0.5).mean() + 1) / 2
    assert np.mean(draws(TruncatedNormalSide(64, 384))) == pytest.approx(64 + share * 320, abs=5)
    area = 64**2 + share * (384**2 - 64**2)
    assert np.mean(draws(TruncatedNormalArea(64, 384)) ** 2) == pytest.approx(area, rel=0.04)


def test_fixed_native_and_budget_sizes():
    assert FixedSide(48)(GENERATOR, (10, 900)) == 48
    assert NativeSize()(GENERATOR, (100, 400)) == 200
    assert NativeSize(maximum=150)(GENERATOR, (100, 400)) == 150
    assert NativeSize(maximum=300)(GENERATOR, (100, 400)) == 200
    assert grid_size((100, 400), TokenBudget(64)(GENERATOR, (100, 400)), 16, 64) == (4, 16)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    side=st.one_of(st.floats(1, 2000), st.just(math.inf)),
    patch_size=st.sampled_from([4, 14, 16, 32]),
    max_tokens=st.integers(1, 1024),
)
@settings(deadline=None)
def test_grid_fits_and_keeps_the_aspect_ratio(height, width, side, patch_size, max_tokens):
    rows, columns = grid_size((height, width), side, patch_size, max_tokens)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= max_tokens
    assert grid_size((width, height), side, patch_size, max_tokens) in ((columns, rows), (rows, columns))
    if min(rows, columns) >= 4:
        # rounding moves each side by less than one patch
        assert abs(math.log(rows / columns) - math.log(height / width)) < math.log(5 / 4) * 2


def test_grid_has_the_area_asked_for():
    assert grid_size((224, 224), 224, 16, 1024) == (14, 14)
    assert grid_size((100, 400), 128, 16, 1024) == (4, 16)  # 64 x 256: the paper's own example of R = 128
    assert grid_size((480, 640), math.inf, 16, 256) == (14, 18)  # 252 of 256, as NaFlex makes of it
    assert grid_size((1, 3000), 256, 16, 64) == (1, 64)


@given(height=st.integers(8, 3000), width=st.integers(8, 3000), tokens=st.integers(1, 1024))
@settings(deadline=None, max_examples=60)
def test_a_sequence_budget_rounds_both_sides_of_one_scale_up(height, width, tokens):
    rows, columns = SequenceBudget(tokens).grid((height, width), 16)
    assert 1 <= rows * columns <= tokens
    assert SequenceBudget(tokens).grid((width, height), 16) == (columns, rows)
    # One scale makes both: the intervals of scales that each side allows meet.
    sides = ((rows, height), (columns, width))
    lowest, highest = max((side - 1) * 16 / size for side, size in sides), min(side * 16 / size for side, size in sides)
    assert lowest <= highest + 1e-4
    assert SequenceBudget(128).grid((512, 1024), 16) == (8, 16)  # SigLIP 2's own example


@given(low=st.floats(1, 200), extra=st.floats(0, 200))
def test_more_pixels_never_give_fewer_tokens(low, extra):
    smaller, larger = (math.prod(grid_size((300, 500), side, 16, 10**6)) for side in (low, low + extra))
    assert smaller <= larger


def test_beta_drop_has_the_papers_mean_and_variance():
    drop = BetaDrop(mean=0.4, maximum=0.7)
    rates = np.array([drop(GENERATOR, 100, 0) for _ in range(20000)])
    share = 0.4 / 0.7
    assert rates.mean() == pytest.approx(0.4, abs=0.005)
    # appendix B.4: variance 0.3 u (1 - u) of rate / maximum
    assert (rates / 0.7).var() == pytest.approx(0.3 * share * (1 - share), rel=0.03)
    assert rates.max() <= 0.7


def test_resolution_drop_rises_with_tokens_within_two_deviations():
    drop = ResolutionDrop(0.1, 0.9, shortest=16, longest=576)
    for tokens, mean in ((16, 0.1), (296, 0.5), (576, 0.9), (1000, 0.9), (4, 0.1)):
        rates = np.array([drop(GENERATOR, tokens, 0) for _ in range(2000)])
        assert rates.mean() == pytest.approx(mean, abs=0.002)
        assert np.abs(rates - mean).max() <= 0.04
        assert rates.std() == pytest.approx(0.0176, abs=0.001)  # of N(0, 0.02) cut at two deviations


def test_scheduled_drop_follows_the_sigmoid_in_images_seen():
    falling = ScheduledDrop(midpoint=1000, temperature=-100)
    assert falling(GENERATOR, 9, 1000) == pytest.approx(0.5)
    assert falling(GENERATOR, 9, 0) == pytest.approx(0.8, abs=1e-4)
    assert falling(GENERATOR, 9, 1100) == pytest.approx(0.2 + 0.6 / (1 + math.e))
    assert falling(GENERATOR, 9, 10**9) == pytest.approx(0.2)


def test_constant_and_no_drop():
    assert ConstantDrop(0.3)(GENERATOR, 9, 0) == 0.3
    assert NoDrop()(GENERATOR, 9, 0) == 0


@given(tokens=st.integers(1, 500), rate=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 100))
def test_kept_tokens_are_distinct_in_raster_order_and_never_none(tokens, rate, seed):
    kept = keep_tokens(np.random.default_rng(seed), tokens, rate)
    assert len(kept) == max(1, round(tokens * (1 - rate)))
    assert np.all(np.diff(kept) > 0)
    assert kept[0] >= 0
    assert kept[-1] < tokens


def test_every_token_is_kept_equally_often():
    counts = np.zeros(20)
    for _ in range(4000):
        counts[keep_tokens(GENERATOR, 20, 0.5)] += 1
    assert np.abs(counts / 4000 - 0.5).max() < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformSide(64, 32), r"UniformSide: `low` \(=64\) and `high` \(=32\)"),
        (lambda: UniformArea(0, 32), "0 < low <= high"),
        (lambda: FixedSide(-1), "FixedSide"),
        (lambda: NativeSize(maximum=0), "NativeSize"),
        (lambda: TruncatedNormalSide(16, 64, std=0), r"`std` \(=0\)"),
        (lambda: TruncatedNormalArea(16, 64, mean=3), r"`mean` \(=3\)"),
        (lambda: TokenBudget(0), r"`tokens` \(=0\)"),
        (lambda: SequenceBudget(0), r"SequenceBudget: `tokens` \(=0\)"),
        (lambda: ConstantDrop(1.0), r"`rate` \(=1.0\)"),
        (lambda: BetaDrop(mean=0.5, maximum=0.4), r"`mean` \(=0.5\) < `maximum` \(=0.4\)"),
        (lambda: ResolutionDrop(0.1, 0.9, 10, 10), "`shortest`"),
        (lambda: ScheduledDrop(midpoint=10, temperature=0), "`temperature`"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@given(rows=st.integers(1, 300), columns=st.integers(1, 300), limit=st.tuples(st.integers(1, 64), st.integers(1, 64)))
def test_no_grid_exceeds_the_positions_of_the_model(rows, columns, limit):
    fitted = within((rows, columns), limit)
    assert 1 <= fitted[0] <= limit[0]
    assert 1 <= fitted[1] <= limit[1]
    if rows <= limit[0] and columns <= limit[1]:
        assert fitted == (rows, columns)


def test_a_long_image_keeps_about_its_aspect_ratio():
    assert within((4, 64), (32, 32)) == (2, 32)
