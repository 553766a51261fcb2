"""Rounding of channels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.ops.channels import make_divisible


@given(st.floats(1, 5000), st.sampled_from([1, 8, 16, 32]))
def test_the_result_is_a_multiple_close_to_the_value(value, divisor):
    result = make_divisible(value, divisor)
    assert result % divisor == 0
    assert result >= max(divisor, 0.9 * value)
    nearest = max(divisor, int(value / divisor + 0.5) * divisor)
    assert result == nearest or (result == nearest + divisor and nearest < 0.9 * value)


@pytest.mark.parametrize(
    ("value", "divisor", "minimum", "expected"),
    # 12 is half-way and goes up; 11 would go down to 8, which is less than 0.9 * 11; 83 goes down to 80.
    [(12.0, 8, None, 16), (11.0, 8, None, 16), (83.0, 8, None, 80), (240.0, 32, None, 256), (3.0, 8, 4, 4)],
)
def test_examples(value, divisor, minimum, expected):
    assert make_divisible(value, divisor, minimum) == expected
