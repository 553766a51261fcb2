"""DeepViT against vit-pytorch and against the authors' form in torch's layers, in evaluation and in training."""

import copy
import itertools

import jax
import numpy as np
import pytest

from benchmarks.comparison import TIMES_NOISE, compare, misfits, random_weights
from benchmarks.parity_cases_deepvit import (
    DEEPVIT_CASES,
    AuthorsDeepViT,
    draw_images,
    random_statistics,
    variable_shapes,
)
from vitjax.errors import UserError
from vitjax.models import deepvit_tables, layouts_of
from vitjax.models.deepvit import ConvolutionalStem, DeepViT, ReAttention
from vitjax.paths import flatten, unflatten
from vitjax.weights.rules import export_weights, import_weights

SIZES = {"width": 36, "depth": 3, "heads": 4}


@pytest.mark.parametrize("name", DEEPVIT_CASES)
def test_deepvit_is_the_reference(name):
    case = DEEPVIT_CASES[name]()
    for seed in (0, 1):
        assert misfits(compare(case, seed)) == [], f"seed {seed}"


def test_every_part_is_compared():
    found = {difference.name for difference in compare(DEEPVIT_CASES["DeepViT vs authors' form, as S"](), 3)}
    stages = {"embedded", "block_0/attention_map", "block_1/attention_map", "block_1_output", "normed", "logits"}
    assert stages < found
    assert "gradient of params/block_1/reattention/kernel" in found
    assert "gradient of params/patch_embedding/convolution_1/kernel" in found


def as_small():
    """The authors' form with all that S has, and ours."""
    reference = AuthorsDeepViT(image=32, patch=8, classes=7, **SIZES, active=2, stem=True, transform_scale=True, r=0.5)
    random_weights(reference, 3)
    random_statistics(reference)
    ours = DeepViT(
        num_classes=7, image_size=32, patch_size=8, width=36, depth=3, num_heads=4, mlp_width=108, num_reattention=2,
        scale_adjustment=0.5, embed=ConvolutionalStem,
        reattention=jax.tree_util.Partial(ReAttention, scale=9**-0.5),
    )  # fmt: skip
    return reference, ours


def layout(name):
    return next(layout for layout in layouts_of(DeepViT) if layout.name == name)


def state_of(module):
    return {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}


def train_reference(module, batches, factors, dtype):
    """Gradients of the last batch, logits of each, and what is stored after them."""
    import torch

    module = copy.deepcopy(module).to(dtype).train()
    logits = []
    for images in batches:
        module.zero_grad()
        logits.append(module.stages(torch.tensor(images, dtype=dtype).permute(0, 3, 1, 2))["logits"])
        (logits[-1] * torch.tensor(factors, dtype=dtype)).sum().backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in module.named_parameters()}
    return [each.detach().numpy() for each in logits], gradients, state_of(module)


def clear_of_corners(module, images):
    """Whether every ReLU's input is further from zero than rounding reaches.

    At zero the gradient jumps, and two correct float32 programs would take different sides of it.
    """
    import torch

    seen = {torch.float32: [], torch.float64: []}
    for dtype, inputs in seen.items():
        copied = copy.deepcopy(module).to(dtype).train()
        for norm in (copied.patch_embed.bn1, copied.patch_embed.bn2):
            norm.register_forward_hook(lambda module, given, made, inputs=inputs: inputs.append(made.detach().double()))
        copied.stages(torch.tensor(images, dtype=dtype).permute(0, 3, 1, 2))
    return all(x.abs().min() > 10 * (x - y).abs().max() for x, y in zip(*seen.values(), strict=True))


def test_training_mode_running_statistics_included():
    import torch

    reference, model = as_small()
    rules, shapes = layout("authors").rules(model), variable_shapes(model)
    draws = (draw_images(seed, batch=2)["images"] for seed in itertools.count())
    batches = list(itertools.islice((images for images in draws if clear_of_corners(reference, images)), 2))
    factors = np.random.default_rng(2).normal(size=(2, 7)).astype(np.float32)
    theirs = train_reference(reference, batches, factors, torch.float32)
    exact = train_reference(reference, batches, factors, torch.float64)

    def loss(params, collections, images):
        logits, changed = model.apply({"params": params, **collections}, images, train=True, mutable=["batch_stats"])
        return (logits * factors).sum(), (logits, changed)

    step = jax.jit(jax.grad(loss, has_aux=True))
    variables = unflatten(import_weights(rules, state_of(reference), shapes))
    params, collections = variables.pop("params"), variables
    params, collections = jax.tree.map(np.asarray, (params, collections))
    logits = []
    with jax.default_matmul_precision("highest"):
        for images in batches:
            gradient, (outputs, collections) = step(params, collections, images)
            logits.append(outputs)

    def check(name, ours, theirs, exact):
        noise = max(np.abs(exact - theirs).max(), np.spacing(np.float32(np.abs(theirs).max())))
        assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= TIMES_NOISE * noise, name

    for number in range(2):
        check(f"logits of step {number}", logits[number], theirs[0][number], exact[0][number])
    of_parameters = {path: shape for path, shape in shapes.items() if path.startswith("params/")}
    gradients = [import_weights(rules, side[1], of_parameters) for side in (theirs, exact)]
    for path, value in flatten({"params": gradient}).items():
        check(f"gradient of {path}", value, gradients[0][path], gradients[1][path])
    statistics = [import_weights(rules, side[2], shapes) for side in (theirs, exact)]
    updated = flatten(collections)
    assert len(updated) == 2 * (2 + 2)
    for path, value in updated.items():
        check(path, value, statistics[0][path], statistics[1][path])


def test_the_tolerance_sees_a_small_difference():
    import dataclasses

    case = DEEPVIT_CASES["DeepViT vs vit-pytorch"]()

    def stages(variables, inputs):
        kernel = variables["params"]["block_1"]["reattention"]
        kernel["kernel"] = kernel["kernel"].T
        return case.stages(variables, inputs)

    assert misfits(compare(dataclasses.replace(case, stages=stages), 0))[0].startswith("block_1/attention_map")


def test_state_dicts_come_back_bit_for_bit():
    reference, model = as_small()
    foreign = state_of(reference)
    ours = import_weights(layout("authors").rules(model), foreign, variable_shapes(model))
    back = export_weights(layout("authors").rules(model), ours)
    kept = {key: array for key, array in foreign.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for key, array in kept.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_vit_pytorchs_come_back_bit_for_bit():
    case = DEEPVIT_CASES["DeepViT vs vit-pytorch"]()
    random_weights(case.reference, 1)
    foreign = state_of(case.reference)
    rules = layout("vit_pytorch").rules(None)
    back = export_weights(rules, import_weights(rules, foreign, case.variables))
    assert back.keys() == foreign.keys()
    for key, array in foreign.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_a_file_of_vit_pytorch_says_its_sizes():
    case = DEEPVIT_CASES["DeepViT vs vit-pytorch"]()
    foreign = state_of(case.reference)
    model = DeepViT(num_classes=7, **{**layout("vit_pytorch").settings, **deepvit_tables.sizes_of(foreign)})
    assert variable_shapes(model) == dict(case.variables)
    assert deepvit_tables.sizes_of(state_of(as_small()[0])) == {}


def test_the_authors_files_may_come_from_several_devices():
    reference, model = as_small()
    foreign = {f"module.{key}": array for key, array in state_of(reference).items()}
    prepared = layout("authors").prepare(foreign)
    assert import_weights(layout("authors").rules(model), prepared, variable_shapes(model))


def test_the_two_forms_are_not_taken_for_each_other():
    case = DEEPVIT_CASES["DeepViT vs vit-pytorch"]()
    reference, _ = as_small()
    with pytest.raises(UserError, match="unexpected keys"):
        import_weights(layout("vit_pytorch").rules(None), state_of(reference), case.variables)
