import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vitjax.errors import UserError
from vitjax.training.devices import (
    check_batch_size,
    count_data_shards,
    gather_json,
    join_processes,
    make_mesh,
    place_batch,
    state_shardings,
)


def shapes(**arrays):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 1, -1), (1, 1, 8)), ((2, 1, 1), (2, 1, 1))],
)
def test_sizes(sizes, expected):
    mesh = make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == expected
    assert count_data_shards(mesh) == expected[0] * expected[1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 3, 1), "3 does not divide the 8 devices"),
        ((16, 1, 1), "asks for 16 devices, but there are 8"),
        ((-1, -1, 1), "at most one"),
        ((0, 1, 1), "expected positive sizes"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(*sizes)


def test_rows_lie_in_order():
    mesh = make_mesh(2, 2, 2)
    rows = np.arange(8)[:, None]
    placed = place_batch({"row": rows, "buckets": (rows[:4],)}, mesh)
    np.testing.assert_array_equal(placed["row"], rows)
    for shard in placed["row"].addressable_shards:
        data, fsdp, _ = (int(axis[0]) for axis in np.where(mesh.devices == shard.device))
        first = (data * 2 + fsdp) * 2
        assert np.asarray(shard.data).ravel().tolist() == [first, first + 1]
    assert placed["buckets"][0].sharding == placed["row"].sharding


def test_batch_size():
    mesh = make_mesh(2, 2, 1)
    check_batch_size({"example": np.zeros(8)}, mesh, 2, setting="train")
    with pytest.raises(
        UserError, match=r"`train`: a batch has 12 rows.*data=2 x fsdp=2.*accumulate_steps=2.*multiple of 8"
    ):
        check_batch_size({"example": np.zeros(12)}, mesh, 2, setting="train")


def test_without_rules_the_longest_axis_is_cut():
    params = shapes(kernel=(6, 12), wide=(16, 8), odd=(3,))
    state = {"params": params, "moments": {"mu": params, "rows": shapes(kernel=(6,))}, "step": shapes(x=())["x"]}
    placed = state_shardings(state, params, make_mesh(2, 4, 1), ())
    assert placed["params"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert placed["params"]["wide"].spec == PartitionSpec("fsdp")
    assert placed["params"]["odd"].spec == PartitionSpec()
    assert placed["moments"]["mu"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert placed["moments"]["rows"]["kernel"].spec == PartitionSpec()  # a factored moment has another shape
    assert placed["step"].spec == PartitionSpec()


def test_rules():
    params = {"block": shapes(kernel=(6, 8)), "kernel": shapes(x=(6, 8))["x"]}
    mesh = make_mesh(1, 2, 2)
    rules = (("block/kernel", (None, "tensor")), (".*", ("fsdp",)))
    placed = state_shardings({"ema": params}, params, mesh, rules)
    assert placed["ema"]["block"]["kernel"].spec == PartitionSpec(None, "tensor")
    assert placed["ema"]["kernel"].spec == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("kernel", ("tensor",)),), r"shape \(3, 8\); `mesh.tensor=2` does not divide 3"),
        ((("kernel", (None, None, "tensor")),), "names 3 axes"),
        ((("kernel", ("rows",)), ("other.*", ("tensor",))), "match no path"),
        ((("kernel", (None, "tensor")), ("k.*", ())), None),
        ((), "needs `sharding_rules`"),
    ],
)
def test_bad_rules(rules, message):
    params = shapes(kernel=(3, 8))
    if message is None:
        state_shardings(params, params, make_mesh(1, 1, 2), rules)
        return
    with pytest.raises(UserError, match=message):
        state_shardings(params, params, make_mesh(1, 1, 2), rules)


def test_single_process(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    join_processes(None, None, None)
    with pytest.raises(UserError, match="need --coordinator"):
        join_processes(None, 2, 0)
    with pytest.raises(UserError, match="--process_id=2: expected 0 to 1"):
        join_processes("localhost:1", 2, 2)
    assert gather_json({"a": 1}) == [{"a": 1}]
