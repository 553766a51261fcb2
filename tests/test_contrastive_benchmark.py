"""What the contrastive benchmark counts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from benchmarks.peers.contrastive_loss import exchanged_in_hlo, exchanged_in_jaxpr

HLO = """
  %all-gather = f32[64,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %ar = (f32[8]{0}, pred[4]{0}) all-reduce(%a, %b), channel_id=2, to_apply=%add
  %start = bf16[10]{0} collective-permute-start(%y), source_target_pairs={{0,1}}
  %add.1 = f32[64,16]{1,0} add(%all-gather, %all-gather)
"""


def test_bytes_in_hlo_are_those_of_its_collectives():
    share = 3 / 4
    assert exchanged_in_hlo(HLO, 4) == share * 64 * 16 * 4 + 2 * share * (8 * 4 + 4) + 10 * 2
    assert exchanged_in_hlo("%x = f32[3]{0} add(%y, %z)", 4) == 0


def test_bytes_in_a_loop_count_as_often_as_it_runs():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    def ring(x):
        return jax.lax.scan(lambda x, _: (jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), None), x, length=5)[0]

    program = jax.shard_map(ring, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    assert exchanged_in_jaxpr(jax.make_jaxpr(program)(jnp.zeros((6, 3))).jaxpr) == 5 * 3 * 3 * 4
