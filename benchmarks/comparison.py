"""Our model against its PyTorch reference on one input: outputs, every stage, every gradient, running statistics.

Both sides compute in float32. How far they may differ is measured, not chosen: the reference is run again in float64
with the same weights and inputs, and its own largest |float64 - float32| on that very quantity is its *noise*. Ours may
differ by `TIMES_NOISE` times that. `tests/parity` asserts it and `python -m benchmarks parity` prints it, from these
functions.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.paths import flatten, unflatten
from vitjax.weights.rules import Table, import_weights

__all__ = [
    "TIMES_NOISE",
    "Case",
    "Difference",
    "compare",
    "misfits",
    "our_stages",
    "random_batch_norms",
    "random_weights",
    "shapes_of",
    "worst",
]

TIMES_NOISE = 30.0
"""Two correct float32 programs that add in different orders differ by a few times what either is away from the truth;
the noise is one draw of that, on few numbers. Largest seen over all cases and 8 seeds: 6.6 times."""

Stages = dict[str, Any]
"""Name of each stage in the order of computation, `"logits"` the last."""

_STATISTICS = "batch_stats/"


@dataclass(frozen=True, eq=False)
class Case:
    """One model with one reference.

    Attributes:
        name: `model vs reference`, with what is special about the case.
        reference: the torch module in eval mode; its weights, and the running statistics that `variables` lists, are
            drawn anew for each comparison.
        reference_stages: `(module, inputs) -> stages` of torch tensors, differentiable.
        inputs: from a seed to float32 arrays by name; both sides are differentiated by each.
        variables: shapes of ours, by path.
        stages: `(variables tree, inputs) -> stages` of ours, same names and shapes; in training also the running
            statistics after the step, each under its path. `our_stages` makes them.
        table: from the reference's keys to ours.
        training: both sides run in training mode, without dropout, and the running statistics are compared after it.
    """

    name: str
    reference: Any
    reference_stages: Callable[[Any, dict[str, Any]], Stages]
    inputs: Callable[[int], Mapping[str, np.ndarray]]
    variables: Mapping[str, tuple[int, ...]]
    stages: Callable[[Any, dict[str, Any]], Stages]
    table: Table
    training: bool = False

    @property
    def statistics(self) -> dict[str, tuple[int, ...]]:
        """The running statistics among the variables."""
        return {path: shape for path, shape in self.variables.items() if path.startswith(_STATISTICS)}

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """All other variables."""
        return {path: shape for path, shape in self.variables.items() if not path.startswith(_STATISTICS)}


@dataclass(frozen=True)
class Difference:
    """One quantity on both sides.

    Attributes:
        name: stage, or `gradient of ...`.
        kind: "logits", "stage" or "gradient".
        difference: largest |ours - reference in float32|.
        noise: largest |reference in float64 - reference in float32|, at least the rounding of the largest number.
        magnitude: largest |reference|.
    """

    name: str
    kind: str
    difference: float
    noise: float
    magnitude: float

    @property
    def times_noise(self) -> float:
        """The difference in units of the noise."""
        return self.difference / self.noise if self.noise else (np.inf if self.difference else 0.0)


def random_weights(module: Any, seed: int) -> None:
    """Draws every parameter of a torch module anew, norms and biases too: none is 0 or 1, where an error could hide.

    Matrices get the spread that keeps activations near 1; scales lie around 1; all else is of the size of 0.2.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.detach().flatten()[:1].eq(1).all() and parameter.detach().std(unbiased=False) == 0
            if is_scale:
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("weight") and parameter.ndim > 1:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
            else:
                parameter.copy_(0.2 * noise)


def random_batch_norms(module: Any, seed: int) -> None:
    """Draws scales, biases and running statistics of every batch norm of a torch module anew.

    Scales lie around 1, or around a norm's `drawn_around`: deep networks whose branches start at 0 would otherwise
    double at each of them, up to numbers that float32 has nothing to say about.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in (part for part in module.modules() if hasattr(part, "running_var")):
            draws = torch.randn((3, *norm.running_var.shape), generator=generator)
            norm.weight.copy_(getattr(norm, "drawn_around", 1.0) + 0.2 * draws[0])
            norm.bias.copy_(0.2 * draws[1])
            norm.running_mean.copy_(0.2 * draws[2])
            norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))


def shapes_of(module: Any, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and running statistics of one of our modules, by path."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return {path: leaf.shape for path, leaf in flatten(dict(variables)).items() if not path.startswith("intermediates")}


def our_stages(module: Any, variables: Any, *inputs: Any, train: bool = False) -> Stages:
    """What one of our modules sows, by the last part of its path, its outputs as `logits`, and in training its running
    statistics.

    What is sown as `features` is left out.
    """
    changing = ["intermediates", "batch_stats"] if train else ["intermediates"]
    logits, state = module.apply(variables, *inputs, train=train, mutable=changing)
    sown = {path.split("/")[-2]: leaf for path, leaf in flatten(state["intermediates"]).items()}
    statistics = flatten({"batch_stats": state["batch_stats"]}) if train else {}
    return {name: leaf for name, leaf in sown.items() if name != "features"} | {"logits": logits} | statistics


def compare(case: Case, seed: int) -> list[Difference]:
    """All differences of a case, in the order of computation, then the gradients.

    The seed draws weights, inputs, and the random factors of the logits whose sum is the loss, so that no logit can
    stand in for another.
    """
    random_weights(case.reference, seed)
    if case.statistics:
        random_batch_norms(case.reference, seed)
    inputs = case.inputs(seed)
    stages, gradients, factors = _run_reference(case, inputs, seed, double=False)
    exact_stages, exact_gradients, _ = _run_reference(case, inputs, seed, double=True)
    our_stages, our_gradients = _run_ours(case, inputs, factors)
    for what, ours, theirs in (("stages", our_stages, stages), ("gradients", our_gradients, gradients)):
        if set(ours) != set(theirs):
            raise ValueError(f"{case.name}: {what} that only one side has: {sorted(set(ours) ^ set(theirs))}")
    found = []
    for name, value in stages.items():
        kind = "logits" if name == "logits" else "stage"
        found.append(_difference(name, kind, our_stages[name], value, exact_stages[name]))
    for name, value in gradients.items():
        ours, exact = our_gradients[name], exact_gradients[name]
        found.append(_difference(f"gradient of {name}", "gradient", ours, value, exact))
    return found


def _difference(name: str, kind: str, ours: np.ndarray, reference: np.ndarray, exact: np.ndarray) -> Difference:
    if ours.shape != reference.shape:
        raise ValueError(f"{name}: ours has shape {ours.shape}, the reference {reference.shape}")
    magnitude = float(np.abs(reference).max(initial=0.0))
    # A stage that only moves numbers has no noise of its own; then one rounding of its largest number stands for it.
    noise = float(np.abs(exact - reference).max(initial=0.0)) or float(np.spacing(np.float32(magnitude)))
    return Difference(name, kind, float(np.abs(ours - reference).max(initial=0.0)), noise, magnitude)


def _run_reference(
    case: Case, arrays: Mapping[str, np.ndarray], seed: int, *, double: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Stages, gradients under our names and in our shapes, and the factors of the logits; float64 arrays."""
    import torch

    dtype = torch.float64 if double else torch.float32
    module = copy.deepcopy(case.reference).to(dtype).train(case.training)
    inputs = {name: torch.tensor(array, dtype=dtype, requires_grad=True) for name, array in arrays.items()}
    stages = case.reference_stages(module, inputs)
    factors = np.random.default_rng(seed).normal(size=tuple(stages["logits"].shape)).astype(np.float32)
    (stages["logits"] * torch.tensor(factors, dtype=dtype)).sum().backward()
    gradients = {name: _numpy(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    named = import_weights(case.table, gradients, case.parameters)
    named |= {f"input {name}": _numpy(tensor.grad) for name, tensor in inputs.items()}
    found = {name: _numpy(value) for name, value in stages.items()}
    if case.training:
        state = {name: _numpy(tensor) for name, tensor in module.state_dict().items()}
        stored = import_weights(case.table, state, case.variables)
        found |= {path: stored[path] for path in case.statistics}
    return found, named, factors


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy()


@functools.cache
def _our_program(case: Case) -> Callable[[Any, dict[str, Any], Any], tuple[Stages, Any]]:
    """Stages and gradients by parameters and inputs; compiled once for all seeds."""

    def run(variables: Any, inputs: dict[str, Any], factors: jax.Array) -> tuple[Stages, Any]:
        statistics = {"batch_stats": variables.pop("batch_stats")} if case.statistics else {}

        def loss(parameters: Any, inputs: dict[str, Any]) -> tuple[jax.Array, Stages]:
            stages = case.stages({**parameters, **statistics}, inputs)
            return jnp.sum(stages["logits"] * factors), stages

        gradients, stages = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, inputs)
        return stages, gradients

    return jax.jit(run)


def _run_ours(
    case: Case, arrays: Mapping[str, np.ndarray], factors: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    weights = {name: tensor.detach().numpy() for name, tensor in case.reference.state_dict().items()}
    variables = unflatten(import_weights(case.table, weights, case.variables))
    inputs = {name: jnp.asarray(array) for name, array in arrays.items()}
    with jax.default_matmul_precision("highest"):
        stages, (by_variables, by_inputs) = _our_program(case)(variables, inputs, factors)
    gradients = flatten(by_variables) | {f"input {name}": value for name, value in by_inputs.items()}
    return _float64(stages), _float64(gradients)


def _float64(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def misfits(differences: Sequence[Difference], times: float = TIMES_NOISE) -> list[str]:
    """What differs by more than `times` its noise, in the order of computation: the first stage is where to look."""
    return [
        f"{d.name}: {d.difference:.2e} is {d.times_noise:.0f} times the noise {d.noise:.2e}"
        for d in differences
        if not d.difference <= times * d.noise  # NaN does not pass
    ]


def worst(differences: Sequence[Difference]) -> Difference:
    """The difference that is largest in units of its noise."""
    return max(differences, key=lambda difference: difference.times_noise)
