"""The doctor finds sound what is, and a kernel that leaks, rounds badly, gives NaN or fails."""

import math

import jax.numpy as jnp
import pytest

from vitjax.analysis.attention_check import check_attention, tolerance, work_by_images
from vitjax.cli import main
from vitjax.errors import UserError
from vitjax.ops import attention_kernels as kernels
from vitjax.ops.attention import DENSE_FORMS, PACKED_FORMS

SMALL = {"dtypes": ("float32",), "lengths": (16,), "rows": 3, "heads": 2, "head_size": 8, "repeats": 1}


def packed(form, **changes):
    return next(f for f in check_attention(**SMALL | changes) if f.kind == "packed" and f.form == form)


def test_every_form_of_this_machine_is_sound():
    findings = list(check_attention(**SMALL))
    assert [f.form for f in findings] == [*PACKED_FORMS, *DENSE_FORMS]
    assert all(f.sound for f in findings)
    ran = [f for f in findings if not f.refused]
    assert [f.form for f in ran] == ["buckets", "segment_mask", "explicit", "xla"]
    assert [f.form for f in ran if f.auto] == ["buckets", "explicit"]
    assert all(0 < f.error <= f.allowed and f.leak == 0 and f.both_ms > 0 for f in ran)
    assert all(f.reason for f in findings if f.refused or f.auto)


def leaking(query, key, value, segments, scale):
    """One that lets every token see its whole row."""
    return kernels.explicit(query, key, value, None, scale)


def coarse(query, key, value, segments, scale):
    rounded = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    return jnp.asarray(kernels.segment_mask(*rounded, segments, scale), query.dtype)


def dividing_by_nothing(query, key, value, segments, scale):
    outputs = kernels.segment_mask(query, key, value, segments, scale)
    return outputs / jnp.where(segments > 0, 1.0, 0.0)[:, :, None, None]


def failing(query, key, value, segments, scale):
    raise RuntimeError("no such instruction\non this device")


@pytest.mark.parametrize("kernel", [leaking, coarse, dividing_by_nothing, failing], ids=lambda k: k.__name__)
def test_a_bad_kernel_is_found(kernel, monkeypatch):
    monkeypatch.setitem(kernels.SEGMENT_KERNELS, "segment_mask", kernel)
    finding = packed("segment_mask")
    assert not finding.sound
    assert (finding.leak > 0.01) == (kernel is leaking)
    assert finding.finite == (kernel not in (dividing_by_nothing, failing))
    assert (finding.error > finding.allowed) == (kernel in (leaking, coarse))
    assert ("no such instruction" in finding.reason) == (kernel is failing)
    assert packed("buckets").sound


def test_a_row_of_many_images_costs_time():
    times = work_by_images((1, 2), length=16, heads=2, head_size=8, repeats=1)
    assert list(times) == [1, 2]
    assert all(0 < time < math.inf for time in times.values())


def test_tolerances_and_mistakes():
    assert tolerance("float32", "cpu") < tolerance("float32", "gpu") < tolerance("bfloat16", "gpu")
    with pytest.raises(UserError, match="float8"):
        tolerance("float8", "cpu")
    with pytest.raises(UserError, match="rows"):
        next(check_attention(**SMALL | {"rows": 1}))


FLAGS = ["doctor", "--dtypes=float32", "--lengths=16", "--rows=3", "--heads=2", "--head_size=8", "--row_of_many=32"]


def test_the_command_says_what_it_found(capsys, monkeypatch):
    assert main(FLAGS) == 0
    shown = capsys.readouterr().out
    assert "* packed buckets" in shown
    assert "cannot run: packed splash, runs on tpu, not on cpu (float32)" in shown
    assert "auto takes dense explicit, written out" in shown
    assert "4 cases ran, 5 cannot run here, 0 unsound" in shown

    monkeypatch.setitem(kernels.SEGMENT_KERNELS, "segment_mask", leaking)
    assert main(FLAGS) == 1
    assert "UNSOUND" in capsys.readouterr().out

    assert main(["doctor", "--lengths=16,many"]) == 2
    assert "--lengths=16,many" in capsys.readouterr().err
