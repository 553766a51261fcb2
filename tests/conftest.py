"""Test-wide settings: two simulated devices, shapes checked at run time, torchvision made importable."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# Every annotated signature of the package is checked against the arrays that pass through it.
install_import_hook("vitjax", "beartype.beartype").install() if hasattr(install_import_hook("vitjax", None), "install") else None
