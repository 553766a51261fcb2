import subprocess
import sys

import pytest

from vitjax.errors import UserError
from vitjax.training.allocator import SETTINGS, SWITCH, has_accelerator, restart_with_allocator

CPU = {"JAX_PLATFORMS": "cpu"}


def restart(arguments=(), environment=CPU):
    calls, lines = [], []
    restart_with_allocator(arguments, environment, execute=lambda *call: calls.append(call), say=lines.append)
    return calls, lines


@pytest.fixture(autouse=True)
def glibc(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))


def test_starts_again_with_the_settings():
    ((program, arguments, environment),), lines = restart()
    assert program == sys.executable
    assert arguments[0] == sys.executable
    assert environment == CPU | SETTINGS
    assert not lines


def test_says_what_was_set_and_how_to_switch_it_off():
    calls, (line,) = restart(environment=CPU | SETTINGS)
    assert not calls
    assert "MALLOC_ARENA_MAX=1" in line
    assert "--allocator=system" in line


@pytest.mark.parametrize("arguments", [["--allocator=system"], ["--allocator", "system"]])
def test_switched_off_by_flag(arguments):
    assert restart(arguments) == ([], [])


def test_switched_off_by_variable_and_back_on_by_flag():
    assert restart(environment=CPU | {SWITCH: "system"}) == ([], [])
    assert restart(["--allocator=keep"], CPU | {SWITCH: "system"})[0]


@pytest.mark.parametrize(
    "variables", [{"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, {"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "x"}]
)
def test_leaves_the_users_own_choice(variables):
    calls, (line,) = restart(environment=CPU | variables)
    assert not calls
    assert "left as it is" in line


def test_other_libraries_and_bad_values(monkeypatch):
    with pytest.raises(UserError, match="--allocator=none"):
        restart(["--allocator=none"])
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert restart() == ([], [])


@pytest.mark.parametrize(
    ("environment", "files", "expected"),
    [
        ({}, (), False),
        ({}, ("/dev/nvidia[0-9]*",), True),
        ({}, ("/dev/accel*",), True),
        ({"JAX_PLATFORMS": "cpu"}, ("/dev/nvidia[0-9]*",), False),
        ({"JAX_PLATFORMS": "cuda,cpu"}, (), True),
        ({"TPU_NAME": "local"}, (), True),
    ],
)
def test_accelerators(environment, files, expected):
    assert has_accelerator(environment, lambda pattern: ["found"] if pattern in files else []) is expected


def test_imports_no_jax():
    code = "import sys, vitjax.training.command_line; print('jax' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
