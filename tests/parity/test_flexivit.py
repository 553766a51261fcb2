"""FlexiViT against timm at its fixed patch, and against the paper's formula at others."""

import itertools

import jax
import numpy as np
import pytest
import torch

from benchmarks.comparison import compare, misfits, random_weights
from benchmarks.parity_cases_flexivit import FLEXIVIT_CASES, paper_kernel
from vitjax.models import flexivit_tables
from vitjax.models.flexivit import flexivit
from vitjax.ops.patches import resize_patch_kernel
from vitjax.weights.rules import export_weights, import_weights

SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8, 6, 5)  # of the authors' own test
RECTANGLES = (((8, 10), (10, 12)), ((8, 6), (9, 15)), ((8, 6), (15, 9)), ((12, 5), (6, 10)))


@pytest.mark.parametrize("name", FLEXIVIT_CASES)
def test_flexivit_is_the_reference(name):
    case = FLEXIVIT_CASES[name]()
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


def test_every_part_is_compared():
    case = FLEXIVIT_CASES["FlexiViT vs the paper's formula, 5x12 px"]()
    compared = {difference.name: difference for difference in compare(case, 3)}
    assert {"embedded", "block_0_output", "normed", "pooled", "logits"} < set(compared)
    for name in ("patch_embedding/kernel", "position_embedding/table"):
        assert compared[f"gradient of params/{name}"].magnitude > 0


SQUARES = [((a, a), (b, b)) for a, b in itertools.product((16, 12, 10, 8, 5), repeat=2)]
STRIPS = [((a, 1), (b, 1)) for a, b in itertools.combinations(SIZES, 2) if a > 16]  # whole matrices would be too large


@pytest.mark.parametrize(("old", "new"), [*SQUARES, *RECTANGLES, *STRIPS, *((new, old) for old, new in STRIPS)])
def test_kernels_are_resized_by_the_papers_formula(old, new):
    """Kronecker factors on our side, the whole matrix on the paper's."""
    kernel = np.random.default_rng(0).standard_normal((*old, 1, 2)).astype(np.float32)
    expected = paper_kernel(torch.tensor(kernel).permute(3, 2, 0, 1).double(), new).permute(2, 3, 1, 0).numpy()
    with jax.disable_jit():
        ours = np.asarray(resize_patch_kernel(kernel, new))
    # Enlarging amplifies; what counts is the error relative to the largest weight.
    np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("old", "new"), [((16, 16), (8, 8)), ((8, 8), (16, 16)), ((12, 12), (15, 15)), ((8, 6), (9, 15))]
)
def test_kernels_are_resized_as_timm_resizes_them(old, new):
    from timm.layers import resample_patch_embed

    kernel = np.random.default_rng(1).standard_normal((*old, 3, 4)).astype(np.float32)
    theirs = resample_patch_embed(
        torch.tensor(kernel).permute(3, 2, 0, 1), list(new), interpolation="bilinear", antialias=False
    )
    ours = np.asarray(resize_patch_kernel(kernel, new))
    scale = np.abs(ours).max()  # timm inverts in float32
    np.testing.assert_allclose(ours, theirs.permute(2, 3, 1, 0).numpy(), atol=1e-5 * scale)


def test_state_dicts_come_back_bit_for_bit():
    case = FLEXIVIT_CASES["FlexiViT vs timm, fixed patch"]()
    random_weights(case.reference, 0)
    foreign = {key: tensor.detach().numpy() for key, tensor in case.reference.state_dict().items()}
    assert flexivit_tables.sizes_of(foreign) == {"kernel_size": 8, "position_grid": 4}
    back = export_weights(case.table, import_weights(case.table, foreign, case.variables))
    assert set(back) == set(foreign)
    for key, array in foreign.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_big_vision_files_come_back_bit_for_bit():
    layout = {layout.name: layout for layout in flexivit_tables.LAYOUTS}["big_vision"]
    case = FLEXIVIT_CASES["FlexiViT vs timm, fixed patch"]()
    module = flexivit(
        image_size=32, kernel_size=8, position_grid=4, patch_size=8, width=32, depth=1, num_heads=4, mlp_width=128,
        num_classes=7,
    )  # fmt: skip
    draw = np.random.default_rng(2).standard_normal
    ours = {path: draw(shape).astype(np.float32) for path, shape in case.variables.items()}
    foreign = export_weights(layout.rules(module), ours)
    assert foreign["embedding/kernel"].shape == (8, 8, 3, 32)
    assert foreign["pos_embedding"].shape == (1, 16, 32)
    prefixed = {f"params/{key}": array for key, array in foreign.items()}
    prepared = layout.prepare(prefixed)
    assert flexivit_tables.sizes_of(prepared) == {"kernel_size": 8, "position_grid": 4}
    back = import_weights(layout.rules(module), prepared, case.variables)
    for path, array in ours.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)
