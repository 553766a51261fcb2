"""Memory and bytes exchanged per device, and time, of the chunked contrastive losses against dense ones.

    python -m benchmarks contrastive_loss

Value and gradient on 1, 2, 4 and 8 simulated CPU devices and growing batches of 128 numbers a vector, chunks of 256.
`ours` is chunked, `peer` dense: the same mean written over the whole batch, which XLA cuts over the devices by itself.
Memory is the compiled program's own account of its temporary buffers on each device. Bytes are what a device receives
in a step: for the chunked loss from the program's jaxpr (`ppermute` times the steps round the ring), for the dense one
from the collectives of the compiled HLO. Simulated devices share this machine's cores, so times compare ours and the
peer at one number of devices, not numbers of devices with one another.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Options, Row

_ROOT = Path(__file__).resolve().parents[1]


def rows(options: Options) -> Iterator[Row]:
    """Memory, bytes and time for each loss, number of devices and batch."""
    settings = json.dumps({"repeats": options.repeats, "case": options.case})
    # jax learns of the simulated devices before it starts, so a process of their own has them.
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.peers.contrastive_loss", settings]
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Row(**json.loads(line))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {process.returncode}; its message is above")
