import math

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.training.schedules import Constant, Cosine, Linear, ReciprocalSquareRoot, Step

ALL = (Cosine, Linear, ReciprocalSquareRoot, Constant, lambda **ramps: Step((), **ramps))


@pytest.mark.parametrize("schedule", ALL)
def test_corners(schedule):
    at = schedule(warmup_steps=10, cooldown_steps=20).multiplier(100)
    assert float(at(0)) == 0.0
    assert float(at(5)) == pytest.approx(0.5)
    assert float(at(10)) == pytest.approx(1.0)
    assert float(at(100)) == 0.0
    # The cool-down is a straight line from where the body ended.
    assert float(at(90)) == pytest.approx(float(at(80)) / 2, abs=1e-7)


@pytest.mark.parametrize("schedule", ALL)
def test_without_ramps_it_starts_at_one(schedule):
    assert float(schedule().multiplier(10)(0)) == pytest.approx(1.0)


@given(kind=st.sampled_from(ALL), warmup=st.integers(0, 20), cooldown=st.integers(0, 20), step=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_stays_between_zero_and_one_and_traces(kind, warmup, cooldown, step):
    at = kind(warmup_steps=warmup, cooldown_steps=cooldown).multiplier(60)
    value = float(at(jnp.int32(step)))
    assert -1e-6 <= value <= 1 + 1e-6
    assert value == pytest.approx(float(at(step)), abs=1e-6)


def test_bodies():
    assert float(Cosine(final=0.2).multiplier(100)(25)) == pytest.approx(
        0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2, abs=1e-6
    )
    assert float(Cosine().multiplier(100)(100)) == pytest.approx(0.0, abs=1e-7)
    assert float(Linear(final=0.5).multiplier(100)(50)) == pytest.approx(0.75)
    assert float(ReciprocalSquareRoot(warmup_steps=4, timescale=100).multiplier(1000)(304)) == pytest.approx(0.5)
    steps = Step((30, 60), factor=0.1, warmup_steps=10).multiplier(90)
    assert [round(float(steps(n)), 6) for n in (29, 30, 59, 60)] == [1.0, 0.1, 0.1, 0.01]


def test_reciprocal_square_root_does_not_know_the_end():
    short, long = (ReciprocalSquareRoot(warmup_steps=5).multiplier(n) for n in (50, 5000))
    assert float(short(40)) == float(long(40))


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("ramps", [{"warmup_steps": 60, "cooldown_steps": 60}, {"warmup_steps": -1}])
def test_ramps_that_do_not_fit(schedule, ramps):
    with pytest.raises(UserError, match="warmup_steps"):
        schedule(**ramps).multiplier(100)


def test_bad_bodies():
    with pytest.raises(UserError, match="timescale=0"):
        ReciprocalSquareRoot(timescale=0).multiplier(10)
    with pytest.raises(UserError, match="inside the warm-up"):
        Step((3,), warmup_steps=5).multiplier(10)
