"""Test-wide settings: eight simulated devices, shapes checked at run time, torchvision made importable."""

import os
from importlib.metadata import version

import pytest

# Before jax is imported anywhere: one process then has eight CPU devices, of which most tests use the first. Tests
# compile thousands of small programs and run each once: hardly optimised, in one piece, and by XLA's older code
# generator where there is one (a newer jaxlib ends at a flag that it does not know), that takes a third of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# Every annotated signature of the package is checked against the arrays that pass through it.
install_import_hook("vitjax", "beartype.beartype")


@pytest.fixture
def quick_compilation():
    """For a few steps of a whole config: they take milliseconds; what takes time is making the programs fast."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
