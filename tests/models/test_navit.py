"""NaViT: what is packed beside an image, and where, changes nothing of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from vitjax.errors import UserError
from vitjax.layers import packed_positions as positions
from vitjax.models.navit import NaViT
from vitjax.models.navit_pytorch import vit_pytorch_nested, vit_pytorch_packed

SETTINGS = {"num_classes": 5, "patch_size": 2, "max_grid": (6, 6), "width": 16, "depth": 1, "num_heads": 2}
SETTINGS |= {"mlp_width": 24, "zero_init_head": False}
LENGTH, SLOTS = 40, 4


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Grids of 1 to 4 patches a side, cut at random into fewer tokens, as by token dropping."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        grid = rng.integers(1, 5, 2)
        places = np.stack(np.indices(grid), -1).reshape(-1, 2)
        places = places[rng.permutation(len(places))[: max(1, len(places) * 3 // 4)]]
        patches = rng.standard_normal((len(places), 12)).astype(np.float32)
        found.append({"patches": patches, "positions": places, "grid": grid})
    return found


def pack(rows: list[list[dict[str, np.ndarray]]], *, bucket_length: int = 16, garbage: float = 0.0):
    count = len(rows)
    batch = {
        "patches": np.full((count, LENGTH, 12), garbage, np.float32),
        "segments": np.zeros((count, LENGTH), np.int32),
        "positions": np.zeros((count, LENGTH, 2), np.int32),
        "grid_sizes": np.ones((count, SLOTS, 2), np.int32),
    }
    bucket = np.full((1, count * SLOTS, bucket_length), count * LENGTH, np.int32)
    for number, row in enumerate(rows):
        start = 0
        for slot, image in enumerate(row):
            at = slice(start, start + len(image["patches"]))
            batch["patches"][number, at] = image["patches"]
            batch["positions"][number, at] = image["positions"]
            batch["segments"][number, at] = slot + 1
            batch["grid_sizes"][number, slot] = image["grid"]
            bucket[0, number * SLOTS + slot, : at.stop - at.start] = np.arange(at.start, at.stop) + number * LENGTH
            start = at.stop
    return batch, (bucket,)


ROWS = [[0, 1, 2], [3], []]


def batch_of(order=ROWS, **keywords):
    found = images(4)
    return pack([[found[i] for i in row] for row in order], **keywords)


def variables_of(model, batch):
    return jax.jit(lambda key: model.init(key, **batch))(jax.random.key(0))


def apply(model, variables, batch, buckets=None):
    return np.asarray(jax.jit(model.apply)(variables, **batch, buckets=buckets))


@functools.cache
def made(**overrides):
    model = NaViT(**{**SETTINGS, **overrides})
    return model, variables_of(model, batch_of()[0])


@pytest.mark.parametrize("with_buckets", [True, False])
def test_packed_equals_one_by_one(with_buckets):
    model, variables = made()
    batch, buckets = batch_of()
    outputs = apply(model, variables, batch, buckets if with_buckets else None)
    run = jax.jit(model.apply)
    for row, members in enumerate(ROWS):
        for slot, image in enumerate(members):
            alone, its_buckets = batch_of([[image]])
            expected = run(variables, **alone, buckets=its_buckets if with_buckets else None)[0, 0]
            np.testing.assert_allclose(outputs[row, slot], expected, atol=1e-5)


@pytest.mark.parametrize("with_buckets", [True, False])
def test_order_in_a_row_only_reorders_outputs(with_buckets):
    model, variables = made()
    run = []
    for order in ([[0, 1, 2], [3], []], [[3], [2, 0, 1], []]):
        batch, buckets = batch_of(order)
        run.append(np.asarray(apply(model, variables, batch, buckets if with_buckets else None)))
    np.testing.assert_allclose(run[0][0, [0, 1, 2]], run[1][1, [1, 2, 0]], atol=1e-5)
    np.testing.assert_allclose(run[0][1, 0], run[1][0, 0], atol=1e-5)


@pytest.mark.parametrize("with_buckets", [True, False])
def test_another_image_changes_nothing_of_this_one(with_buckets):
    model, variables = made()
    batch, buckets = batch_of()
    buckets = buckets if with_buckets else None
    run = jax.jit(lambda patches: model.apply(variables, **{**batch, "patches": patches}, buckets=buckets))
    changed = np.where((batch["segments"] == 2)[..., None], 50.0, batch["patches"])
    before, after = run(batch["patches"]), run(changed)
    assert not np.allclose(before[0, 1], after[0, 1])
    np.testing.assert_array_equal(before[0, [0, 2]], after[0, [0, 2]])
    np.testing.assert_array_equal(before[1], after[1])
    padding = np.where((batch["segments"] == 0)[..., None], 50.0, batch["patches"])
    np.testing.assert_array_equal(before[0, :3], run(padding)[0, :3])


def loss_gradient(model, batch, buckets):
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])[..., None]

    def loss(variables):
        out = model.apply(variables, **batch, buckets=buckets)
        return (jnp.where(mask, out, 0) ** 2).sum()

    return jax.jit(jax.grad(loss))


def test_buckets_and_mask_have_the_same_gradients_and_padding_none():
    model, variables = made()
    batch, buckets = batch_of()
    by_buckets = loss_gradient(model, batch, buckets)(variables)
    by_mask = loss_gradient(model, batch, None)(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), by_buckets, by_mask)
    noisy, _ = batch_of(garbage=30.0)
    for where in (buckets, None):
        other = loss_gradient(model, noisy, where)(variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), by_buckets, other)


@pytest.mark.parametrize("with_buckets", [True, False])
def test_rows_of_padding_give_no_nan(with_buckets):
    model, variables = made()
    batch, buckets = batch_of([[], []])
    buckets = buckets if with_buckets else None

    def loss(variables):
        return model.apply(variables, **batch, buckets=buckets).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_remat_changes_no_number():
    batch, buckets = batch_of()
    model, variables = made(drop_path_rate=0.4, dropout_rate=0.2)
    remat = NaViT(**SETTINGS, drop_path_rate=0.4, dropout_rate=0.2, remat=True)

    def gradient(model):
        def loss(variables):
            keys = {"dropout": jax.random.key(1)}
            return (model.apply(variables, **batch, buckets=buckets, train=True, rngs=keys) ** 2).sum()

        return jax.jit(jax.value_and_grad(loss))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(model), gradient(remat))


def test_bfloat16_computes_short_and_stays_close():
    batch, buckets = batch_of()
    model, variables = made()
    short = NaViT(**SETTINGS, dtype="bfloat16")
    run = jax.jit(functools.partial(short.apply, mutable="intermediates"))
    outputs, stages = run(variables, **batch, buckets=buckets)
    assert stages["intermediates"]["normed"][0].dtype == jnp.bfloat16
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, apply(model, variables, batch, buckets), atol=0.1)


def test_no_biases_but_the_heads():
    _, variables = made()
    biases = [path for path, _ in jax.tree.leaves_with_path(variables) if "bias" in jax.tree_util.keystr(path)]
    assert [jax.tree_util.keystr(path) for path in biases] == ["['params']['head']['bias']"]


@pytest.mark.parametrize(
    "embedding",
    [
        functools.partial(positions.FactorisedPositions, axis=axis, coordinates=coordinates, combine=combine)
        for axis, coordinates, combine in [
            (positions.LearnedAxis, positions.absolute, positions.Sum()),
            (positions.LearnedAxis, positions.fractional, positions.Stack()),
            (positions.LearnedAxis, positions.absolute, positions.Product()),
            (positions.SinusoidalAxis, positions.absolute, positions.Stack()),
            (positions.SinusoidalAxis, positions.fractional_of_longer, positions.Sum()),
        ]
    ]
    + [
        functools.partial(positions.FourierPositions, coordinates=coordinates)
        for coordinates in (positions.absolute, positions.fractional_of_longer)
    ],
)
def test_every_position_embedding_tells_places_apart(embedding):
    batch, _ = batch_of()
    model = NaViT(**SETTINGS, positions=embedding)
    variables = variables_of(model, batch)
    before = apply(model, variables, batch)
    moved = {**batch, "positions": np.where((batch["segments"] == 1)[..., None], 0, batch["positions"])}
    after = apply(model, variables, moved)
    assert np.abs(before[0, 0] - after[0, 0]).max() > 1e-7
    np.testing.assert_array_equal(before[0, 1:3], after[0, 1:3])


def test_a_patch_beyond_the_table_is_an_error_or_nan():
    model, variables = made()
    batch, _ = batch_of()
    batch["positions"][0, 0] = (6, 0)
    with pytest.raises(UserError, match="`max_grid` has 6 rows"):
        model.apply(variables, **batch)
    assert np.isnan(jax.jit(model.apply)(variables, **batch)[0, 0]).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_heads": 3}, "divisible by `num_heads`"),
        ({"dtype": "float8"}, "`dtype`"),
        ({"max_grid": (0, 4)}, "`max_grid`"),
    ],
)
def test_bad_settings_fail_at_once(keywords, message):
    with pytest.raises(UserError, match=message):
        NaViT(**{**SETTINGS, **keywords})


def test_bad_inputs_are_named():
    batch, _ = batch_of()
    with pytest.raises(UserError, match="`patch_size`"):
        NaViT(**{**SETTINGS, "patch_size": 5}).init(jax.random.key(0), **batch)
    with pytest.raises(UserError, match="`num_classes`"):
        NaViT(**{**SETTINGS, "num_classes": None}).init(jax.random.key(0), **batch)


def test_no_classes_gives_features():
    batch, _ = batch_of()
    model, variables = made(num_classes=0)
    assert apply(model, variables, batch).shape == (3, SLOTS, 16)


@pytest.mark.parametrize("make", [vit_pytorch_packed, vit_pytorch_nested])
def test_pytorchs_forms_pack_too(make):
    model = make(image_size=12, patch_size=2, num_classes=5, dim=16, depth=1, heads=2, mlp_dim=24, dim_head=6)
    batch, buckets = batch_of()
    variables = variables_of(model, batch)
    outputs = apply(model, variables, batch, buckets)
    alone, its_buckets = batch_of([[2]])
    expected = apply(model, variables, alone, its_buckets)[0, 0]
    np.testing.assert_allclose(outputs[0, 2], expected, atol=1e-5)


def test_it_runs_as_an_nnx_module():
    batch, buckets = batch_of()
    model, _ = made()

    wrapped = bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(**batch)
    plain = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    expected = apply(model, {"params": plain}, batch, buckets)
    np.testing.assert_allclose(wrapped(**batch, buckets=buckets), expected, atol=1e-6)
