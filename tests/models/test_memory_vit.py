import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge
from hypothesis import given
from hypothesis import strategies as st

from vitjax.config import build, describe, from_json, to_json
from vitjax.errors import UserError
from vitjax.models import create_model, vit
from vitjax.models.memory_vit import MemoryTask, MemoryViT, no_position, plain_memory, task_mask
from vitjax.models.vit import ViT
from vitjax.paths import flatten, unflatten

SIZES = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4, "mlp_width": 48}
SIZES |= {"zero_init_head": False}


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape or (2, 16, 16, 3)).astype(np.float32)


def tasks_of(sizes, *, extension=False, classes=3):
    names = [f"t{number}" for number in range(len(sizes))]
    return tuple(
        MemoryTask(name, size, classes, sees=tuple(names[:number]) if extension else ())
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    )


def masked(tasks, **overrides):
    return MemoryViT(**{"num_classes": 3, "base_classes": 7, "tasks": tasks, **SIZES, **overrides})


def drawn(module, images=None, seed=0):
    """Variables of which none is zero, each by its path alone, so that models with the same part agree in it."""
    shapes = flatten(jax.eval_shape(module.init, jax.random.key(0), pictures() if images is None else images))
    rng = {path: np.random.default_rng([seed, *path.encode()]) for path in shapes}
    return unflatten(
        {path: (rng[path].standard_normal(leaf.shape) * 0.2).astype(np.float32) for path, leaf in shapes.items()}
    )


def every(module, options=None):
    return jax.jit(functools.partial(module.apply, method="every_task"), compiler_options=options)


@functools.cache
def run(tasks):
    module = masked(tasks)
    return every(module), drawn(module)


# --------------------------------------------------------------------------------------------- the backbone's logits


# What tests/conftest.py leaves out, as in users' programs: optimisation might tell the two models apart.
OPTIMISED = {"xla_backend_optimization_level": 3}
OPTIMISED |= {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("tasks", "overrides", "batch", "options"),
    [
        (tasks_of((1,)), {}, 2, OPTIMISED),
        (tasks_of((5, 5), extension=True), {"depth": 3, "width": 48}, 1, OPTIMISED),
        (tasks_of((5, 1, 3)), {"patch_size": 4}, 5, None),
        (tasks_of((5,)), {"pool": vit.AveragePooling, "norm_after_pooling": True}, 3, None),
        (tasks_of((2,)), {"use_class_token": False, "pool": vit.AveragePooling, "representation_size": 8}, 2, None),
    ],
)
def test_the_backbones_logits_are_bit_identical(dtype, tasks, overrides, batch, options):
    module = masked(tasks, dtype=dtype, **overrides)
    images = pictures(batch, 16, 16, 3)
    variables = drawn(module, images)
    plain = ViT(**{"num_classes": 7, "dtype": dtype, **SIZES, **overrides})
    own = unflatten({path: leaf for path, leaf in flatten(variables).items() if "/task_" not in path})
    logits = every(module, options)(variables, images)
    assert set(logits) == {"base", *(task.name for task in module.tasks)}
    np.testing.assert_array_equal(logits["base"], jax.jit(plain.apply, compiler_options=options)(own, images))
    assert all(np.ptp(logits[task.name]) > 0 for task in module.tasks)


def test_without_tasks_and_memory_it_is_vit():
    module, plain = MemoryViT(num_classes=7, **SIZES), ViT(num_classes=7, **SIZES)
    variables = plain.init(jax.random.key(3), pictures())
    assert {path: leaf.shape for path, leaf in flatten(drawn(module)).items()} == {
        path: leaf.shape for path, leaf in flatten(variables).items()
    }
    np.testing.assert_array_equal(
        jax.jit(module.apply)(variables, pictures()), jax.jit(plain.apply)(variables, pictures())
    )


# ----------------------------------------------------------------------------------------------------- the mask table


def test_the_papers_worked_example():
    concatenated = task_mask((MemoryTask("a", 2), MemoryTask("b", 1)))
    np.testing.assert_array_equal(concatenated, np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], bool))
    extended = task_mask((MemoryTask("a", 2), MemoryTask("b", 1, sees=("a",))))
    np.testing.assert_array_equal(extended, np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], bool))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.booleans())
def test_the_table_is_the_papers(sizes, extension):
    mask = task_mask(tasks_of(sizes, extension=extension))
    ends = len(sizes) + np.cumsum([0, *sizes])
    for row in range(len(sizes)):
        for column in range(len(sizes)):
            allowed = row == column or (extension and column < row)
            assert mask[row, column] == allowed
            assert (mask[row, ends[column] : ends[column + 1]] == allowed).all()


def one_attention_under_the_whole_table(module, variables, images):
    """The model written as one attention over all rows under Table 1, in float64: slow, and nothing like ours."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables["params"]).items()}
    tasks, heads, size = module.tasks, module.num_heads, module.width // module.num_heads

    def dense(x, path):
        return x @ p[f"{path}/kernel"] + p[f"{path}/bias"]

    def norm(x, path):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p[f"{path}/scale"] + p[f"{path}/bias"]

    b, side, patch = len(images), module.grid[0], module.patch_size
    patches = images.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, side**2, -1)
    table = p["position_embedding/table"]
    tokens = dense(patches, "patch_embedding") + table[1:]
    firsts = [p["class_token"], *(p[f"task_{task.name}/class_token"] for task in tasks)]
    tokens = np.concatenate([tokens, *(np.tile(first + table[:1], (b, 1, 1)) for first in firsts)], axis=1)
    base = side**2 + 1
    mask = np.zeros((tokens.shape[1], tokens.shape[1] + sum(task.memory_size for task in tasks)), bool)
    mask[:, :base] = True
    mask[base:, base:] = task_mask(tasks)
    for number in range(module.depth):
        block = f"block_{number}"
        memory = np.concatenate([p[f"task_{task.name}/memory"][number] for task in tasks])
        joined = np.concatenate([tokens, np.tile(memory, (b, 1, 1))], axis=1)
        normed = norm(joined, f"{block}/attention_norm")
        query, key, value = (
            dense(x, f"{block}/attention/{name}").reshape(b, -1, heads, size)
            for name, x in (("query", normed[:, : tokens.shape[1]]), ("key", normed), ("value", normed))
        )
        logits = np.where(mask, np.einsum("bnak,bmak->banm", query, key) * size**-0.5, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        branch = np.einsum("banm,bmak->bnak", weights, value).reshape(b, -1, module.width)
        tokens = tokens + dense(branch, f"{block}/attention/out")
        middle = dense(norm(tokens, f"{block}/mlp_norm"), f"{block}/mlp/expand")
        middle = middle * 0.5 * (1 + np.vectorize(__import__("math").erf)(middle / np.sqrt(2)))
        tokens = tokens + dense(middle, f"{block}/mlp/contract")
    tokens = norm(tokens, "final_norm")
    found = {"base": dense(tokens[:, base - 1], "head")}
    return found | {
        task.name: dense(tokens[:, base + number], f"task_{task.name}/head") for number, task in enumerate(tasks)
    }


@pytest.mark.parametrize("extension", [False, True])
def test_small_queries_are_one_attention_under_the_papers_table(extension):
    module = masked(tasks_of((5, 1, 2), extension=extension))
    variables = drawn(module)
    expected = one_attention_under_the_whole_table(module, variables, pictures().astype(np.float64))
    logits = every(module)(variables, pictures())
    for name, value in expected.items():
        np.testing.assert_allclose(logits[name], value, atol=2e-5)


@pytest.mark.parametrize("part", ["memory", "class_token"])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("extension", [False, True])
def test_who_notices_a_change_of_a_task(extension, size, part):
    tasks = tasks_of((size, size, size), extension=extension)
    forward, variables = run(tasks)
    before = forward(variables, pictures())
    changed = jax.tree.map(lambda leaf: leaf, variables)
    changed["params"]["task_t1"][part] = changed["params"]["task_t1"][part] + 1.0
    after = forward(changed, pictures())
    differs = {name for name in before if not np.array_equal(before[name], after[name])}
    assert differs == ({"t1", "t2"} if extension else {"t1"})


def test_concatenated_tasks_answer_as_they_do_alone():
    tasks = tasks_of((5, 1))
    forward, variables = run(tasks)
    together = forward(variables, pictures())
    for task in tasks:
        alone, own = run((task,))
        np.testing.assert_allclose(alone(own, pictures())[task.name], together[task.name], atol=1e-5)


# ------------------------------------------------------------------------------------------------------ full attention


def test_memory_that_all_see_changes_the_class_token_and_is_normalised():
    module = MemoryViT(num_classes=7, memory_size=3, **SIZES)
    variables = drawn(module)
    assert variables["params"]["memory"].shape == (2, 3, 32)
    forward = jax.jit(module.apply)
    before = forward(variables, pictures())
    scaled = {"params": {**variables["params"], "memory": 7 * variables["params"]["memory"]}}
    # A layer norm takes the scale away again, but for its epsilon.
    np.testing.assert_allclose(forward(scaled, pictures()), before, rtol=0, atol=1e-5)  # 4e-7 seen
    plain = MemoryViT(num_classes=7, memory_size=3, prepare_memory=plain_memory, **SIZES)
    assert np.abs(jax.jit(plain.apply)(scaled, pictures()) - before).max() > 1e-2
    moved = {"params": {**variables["params"], "memory": -variables["params"]["memory"]}}
    assert np.abs(forward(moved, pictures()) - before).max() > 1e-3


def test_the_tokens_stay_as_many():
    module = MemoryViT(num_classes=7, memory_size=3, **SIZES)
    _, state = module.apply(drawn(module), pictures(), mutable="intermediates")
    assert state["intermediates"]["block_1_output"][0].shape == (2, 5, 32)


# ------------------------------------------------------------------------------------------------------ all the rest


def test_positions_of_added_class_tokens():
    for place, position in ((no_position, 0.0), (vit.ClassTokenPooling, None)):
        module = masked(tasks_of((1,)), **({"place_class_token": place} if position is not None else {}))
        variables = drawn(module)
        _, state = module.apply(variables, pictures(), mutable="intermediates")
        row = np.asarray(state["intermediates"]["embedded_tasks"][0][0, 0])
        first = variables["params"]["position_embedding"]["table"][0] if position is None else position
        np.testing.assert_allclose(row, variables["params"]["task_t0"]["class_token"][0] + first, atol=1e-6)


def test_the_answer_is_chosen_by_number():
    tasks = (MemoryTask("a", 1, 2), MemoryTask("b", 1, 4))
    classes = {0: 7, 1: 2, 2: 4, -1: 4}
    for answer, count in classes.items():
        module = masked(tasks, answer=answer, num_classes=count)
        assert jax.eval_shape(module.apply, drawn(module), pictures()).shape == (2, count)


@pytest.mark.long  # slow to compile; tests/models/test_vit.py has the same of the shared blocks
@pytest.mark.parametrize("rates", [{}, {"dropout_rate": 0.2, "attention_dropout_rate": 0.1, "drop_path_rate": 0.3}])
def test_training_with_remat_changes_no_number(rates):
    found = []
    for remat in (False, True):
        module = masked(tasks_of((2,)), remat=remat, memory_size=1, **rates)
        variables = drawn(module)

        def loss(variables, module=module):
            out = module.apply(variables, pictures(), train=True, rngs={"dropout": jax.random.key(0)})
            return (out**2).sum()

        found.append(jax.jit(jax.value_and_grad(loss))(variables))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), *found)


def test_under_nnx():
    module = masked(tasks_of((2, 1)), memory_size=1)
    images = jnp.asarray(pictures())
    model = bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(images)
    assert model(images).shape == (2, 3)


def test_it_can_be_written_down():
    module = masked(tasks_of((5, 1), extension=True), prepare_memory=plain_memory, task_norm=vit.LayerNorm)
    again = build(from_json(to_json(describe(module))))
    assert describe(again) == describe(module)
    assert again.tasks == module.tasks


@pytest.mark.parametrize(
    ("name", "cells"),
    [("memory_vit_base_patch32_224", 46_080), ("memory_vit_base_patch16_224", 46_080)]
    + [("memory_vit_large_patch32_224", 122_880)],
)
def test_variants_have_the_papers_cells(name, cells):
    module = create_model(name)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert shapes["params"]["memory"].size == cells  # shared/papers/memory_vit.md, section 1, 5 cells


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryTask("base"), "is the backbone's own task"),
        (lambda: MemoryTask("a/b"), "`name`"),
        (lambda: MemoryTask("a", -1), "`memory_size`"),
        (lambda: masked((MemoryTask("a", 1, 3), MemoryTask("a", 1, 3))), "two tasks are called 'a'"),
        (lambda: masked((MemoryTask("a", 1, 3, sees=("b",)), MemoryTask("b", 1, 3))), "list the tasks that it sees"),
        (lambda: masked(tasks_of((1,)), answer=2), "`answer`"),
        (lambda: masked(tasks_of((1,)), num_classes=4), "that of the task that answers, 't0' with 3"),
        (lambda: masked(tasks_of((1,)), image_size=15), "`image_size`"),
        (lambda: masked(tasks_of((1,)), num_heads=5), "`num_heads`"),
    ],
)
def test_mistakes_are_told_when_the_model_is_written(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_num_classes_must_be_known():
    with pytest.raises(UserError, match="`num_classes` is not set"):
        MemoryViT(**SIZES).init(jax.random.key(0), pictures())
