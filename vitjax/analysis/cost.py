"""What a model costs: parameters, multiply-adds and activations of one image, per module. Nothing is computed.

One rule for all models, read off the program that a forward pass traces to:

- `macs`, multiply-adds: those of every matrix product and convolution of the image, or what was made of it, with
  parameters or with another such factor; the latter are the `attention_macs`. Products of two parameters (a patch
  kernel brought to another size) or with a constant (an interpolation matrix) do not count, nor do additions,
  activations, softmax and other element-wise work. What counts is the network as its paper defines it: convolutions
  in whichever form a backend computes them, and `saved_macs` are those that an implementation here does without.
- `norm_operations`: 2 for each value that a batch norm passes on, 5 for each value of a layer or group norm.
- `activations`: numbers that those products and convolutions make.

What the published tables count, found by comparison with all their digits (tests/analysis/test_cost.py):

========================================= ===========================================================================
table                                     is
========================================= ===========================================================================
timm: MobileViT v1 and v2, ResNet, ViT    `macs + norm_operations`, fvcore's counter: `timm_macs` here
timm: ViT with fused attention            `timm_macs - attention_macs`, for fvcore does not know the fused operation
EfficientViT: README of its authors       `macs`; or `timm_macs` of the fused model, which has no norms left
timm: activations                         `activations`
========================================= ===========================================================================
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.errors import UserError
from vitjax.inference.preparation import image_shape_of
from vitjax.layers import convolution
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.separable_attention import SeparableSelfAttention
from vitjax.ops.convolution import convolve_directly
from vitjax.paths import flatten

__all__ = ["CostReport", "ModuleCost", "cost_report"]


def _keys_of_tokens(layer: Any, x: Any) -> dict[str, int]:
    """Of MobileViTv2's attention, which makes the key of the mean instead of the mean of the tokens' keys."""
    tokens = math.prod(x.shape[:-1]) - x.shape[0] * layer.patch_size**2
    macs, numbers = tokens * x.shape[-1] ** 2, tokens * x.shape[-1]
    counted = {"macs": macs, "saved_macs": macs, "activations": numbers}
    return {**counted, "activation_bytes": numbers * jnp.dtype(layer.dtype).itemsize}


_SAVINGS: Mapping[type, Callable[[Any, Any], dict[str, int]]] = {SeparableSelfAttention: _keys_of_tokens}
"""What layers are spared of their papers' arithmetic, by layer and input."""

_NORMS: Mapping[type, int] = {BatchNorm: 2, LayerNorm: 5, convolution.GroupNorm: 5}
"""Operations per value, as fvcore counts them: a batch norm's statistics are constants at inference."""


@dataclass(frozen=True)
class ModuleCost:
    """Costs of one module, or of what is at one path.

    Attributes:
        path: such as `block_0/attention`; empty for the whole model.
        parameters: numbers that are trained; running statistics are not among them.
        macs: multiply-adds of products and convolutions.
        saved_macs: those of them that the paper's formulas have, and the program here has not.
        attention_macs: those of them whose factors both depend on the image.
        norm_operations: of batch, layer and group norms.
        activations: numbers that products and convolutions make.
        activation_bytes: their size in the type that they are made in.
    """

    path: str = ""
    parameters: int = 0
    macs: int = 0
    saved_macs: int = 0
    attention_macs: int = 0
    norm_operations: int = 0
    activations: int = 0
    activation_bytes: int = 0

    @property
    def timm_macs(self) -> int:
        """What timm publishes as GMACs."""
        return self.macs + self.norm_operations


@dataclass(frozen=True)
class CostReport:
    """Costs of a model on one image; `print` shows the table.

    Attributes:
        name: of the model's class.
        image_size: rows and columns, pixels.
        modules: path of each module that holds parameters or multiplies -> its own costs, without its submodules'.
    """

    name: str
    image_size: tuple[int, int]
    modules: Mapping[str, ModuleCost]

    def under(self, path: str) -> ModuleCost:
        """Sum over the module at a path and all that is in it; the empty path is the whole model."""
        found = [cost for own, cost in self.modules.items() if not path or own == path or own.startswith(f"{path}/")]
        return _sum(path, found)

    @property
    def total(self) -> ModuleCost:
        """Of the whole model."""
        return self.under("")

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.total.parameters

    @property
    def parameters_without_head(self) -> int:
        """Of all but the module `head`, and `head_norm` where that has a norm of its own."""
        return self.parameters - sum(self.under(path).parameters for path in ("head", "head_norm"))

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole model."""
        return self.total.macs

    @property
    def timm_macs(self) -> int:
        """What timm publishes as GMACs: multiply-adds and the work of the norms."""
        return self.total.timm_macs

    def table(self, depth: int | None = None) -> str:
        """One line per module.

        Args:
            depth: how many names of a path are told apart; by default the fewest that make six lines.
        """
        levels = range(1, 2 + max(path.count("/") for path in self.modules))
        rows = self._rows(depth or next((level for level in levels if len(self._rows(level)) > 5), levels[-1]))
        lines = [
            f"{self.name}, one image of {self.image_size[0]}x{self.image_size[1]} px, M = 1e6",
            _line("module", "parameters", "M macs", "share", "M attention", "M norms", "M outputs"),
        ]
        for name, cost in [*rows, ("all", self.total)]:
            counts = (cost.attention_macs, cost.norm_operations, cost.activations)
            share = f"{cost.macs / max(self.macs, 1):.1%}"
            numbers = [f"{count / 1e6:,.2f}" for count in (cost.macs, *counts)]
            lines.append(_line(name, f"{cost.parameters:,}", numbers[0], share, *numbers[1:]))
        return "\n".join(lines)

    def _rows(self, depth: int) -> list[tuple[str, ModuleCost]]:
        groups: dict[str, list[ModuleCost]] = {}
        for path, cost in self.modules.items():
            groups.setdefault("/".join(path.split("/")[:depth]), []).append(cost)
        sums = [(path or "(itself)", _sum(path, costs)) for path, costs in groups.items()]
        return [(name, cost) for name, cost in sums if cost.parameters or cost.timm_macs]

    def summary(self) -> str:
        """The totals in one line."""
        total = self.total
        return (
            f"{self.name}: {total.parameters:,} parameters ({self.parameters_without_head:,} without the head), "
            f"{total.macs / 1e9:.3f} G multiply-adds at {self.image_size[0]}x{self.image_size[1]} px "
            f"({total.timm_macs / 1e9:.2f} GMACs as timm counts), {total.activations / 1e6:.2f} M activations "
            f"({total.activation_bytes / 2**20:.1f} MiB)"
            + (f"; {total.saved_macs / 1e9:.3f} G of the paper's multiply-adds are saved" if total.saved_macs else "")
        )

    def __str__(self) -> str:
        return f"{self.table()}\n{self.summary()}"


def _line(name: str, *columns: str) -> str:
    return f"{name:<40}" + "".join(f"{column:>13}" for column in columns)


def cost_report(model: Any, image_size: int | tuple[int, int] | None = None) -> CostReport:
    """Parameters, multiply-adds and activations of one image.

    Args:
        model: a linen module, or a bundle. A fused one costs what is left of it.
        image_size: side, or (rows, columns), in pixels; by default the one that the model is made for.

    Raises:
        UserError: the model does not take images, or not of this size.

    Example:
        >>> from vitjax.models import create_model
        >>> report = cost_report(create_model("vit_tiny_patch16_224"))
        >>> report.parameters, report.parameters_without_head, f"{report.timm_macs / 1e9:.2f}"
        (5717416, 5524416, '1.26')
    """
    module = getattr(model, "module", model)
    if not isinstance(module, nn.Module):
        raise UserError(f"cost_report: expected a linen module or a bundle, not a {type(model).__name__}")
    size = image_shape_of(module) if image_size is None else image_size
    rows, columns = (size, size) if isinstance(size, int) else size
    inputs = _inputs(module, rows, columns)
    variables = jax.eval_shape(lambda given: module.init(jax.random.key(0), **given, train=False), inputs)
    tally = _Tally()
    with _meaning_of_convolutions(), nn.intercept_methods(tally.intercept):
        program = jax.make_jaxpr(lambda variables, given: module.apply(variables, **given, train=False))(
            variables, inputs
        )
    kinds = [_PARAMETER] * len(jax.tree.leaves(variables)) + [_IMAGE] * len(jax.tree.leaves(inputs))
    _walk(program.jaxpr, kinds, "", tally)
    for path, leaf in flatten(variables["params"]).items():
        tally.add(path.rpartition("/")[0], parameters=math.prod(leaf.shape))
    return CostReport(type(module).__name__, (rows, columns), dict(tally.costs))


def _inputs(module: Any, rows: int, columns: int) -> dict[str, Any]:
    """Shapes of one image: pixels, or the patches of a packed row with nothing else in it."""
    if "patches" not in inspect.signature(type(module).__call__).parameters:
        return {"images": jax.ShapeDtypeStruct((1, rows, columns, 3), jnp.float32)}
    side = module.patch_size
    if rows % side or columns % side:
        raise UserError(f"`image_size` (={(rows, columns)}) must be divisible by `patch_size` (={side})")
    count = rows // side * (columns // side)
    shapes = {"segments": (1, count), "positions": (1, count, 2), "grid_sizes": (1, 1, 2)}
    integers = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    return {"patches": jax.ShapeDtypeStruct((1, count, side * side * 3), jnp.float32), **integers}


@contextlib.contextmanager
def _meaning_of_convolutions() -> Iterator[None]:
    """Convolutions are traced as such; a backend may compute a depthwise one as shifted sums, which hold no product."""
    with mock.patch.object(convolution, "choose_form", return_value=convolve_directly):
        yield


# -------------------------------------------------------------------------------------------- the program

_CONSTANT, _PARAMETER, _IMAGE = range(3)
"""What a value depends on; the larger of two goes before."""

_PRODUCTS = ("dot_general", "conv_general_dilated")


class _Tally:
    """Sums by path."""

    def __init__(self) -> None:
        self.costs: dict[str, ModuleCost] = {}

    def add(self, path: str, **counts: int) -> None:
        self.costs[path] = _sum(path, [self.costs.get(path, ModuleCost()), ModuleCost(path, **counts)])

    def intercept(self, call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        """Sees every call of a submodule while the program is traced."""
        path = "/".join(context.module.path)
        self.add(path)  # so that modules stand in the order in which they are called
        outputs = call(*arguments, **keywords)
        if context.method_name == "__call__" and type(context.module) in _NORMS:
            self.add(path, norm_operations=outputs.size * _NORMS[type(context.module)])
        if context.method_name == "__call__" and type(context.module) in _SAVINGS:
            self.add(path, **_SAVINGS[type(context.module)](context.module, arguments[0]))
        return outputs


def _sum(path: str, costs: list[ModuleCost]) -> ModuleCost:
    names = [name for name in ModuleCost.__dataclass_fields__ if name != "path"]
    return ModuleCost(path, **{name: sum(getattr(cost, name) for cost in costs) for name in names})


def _walk(jaxpr: Any, kinds: list[int], scope: str, tally: _Tally) -> list[int]:
    """Adds the products of a program, and says what its outputs depend on."""
    known: dict[Any, int] = dict(zip(jaxpr.invars, kinds, strict=True))

    def kind_of(value: Any) -> int:
        return _CONSTANT if hasattr(value, "val") else known.get(value, _CONSTANT)

    for equation in jaxpr.eqns:
        inputs = [kind_of(value) for value in equation.invars]
        own = f"{scope}/{equation.source_info.name_stack}"
        inner = [part for value in equation.params.values() for part in _programs(value)]
        if equation.primitive.name in _PRODUCTS and max(inputs) == _IMAGE and min(inputs) > _CONSTANT:
            outputs = [_IMAGE]
            _add_product(equation, inputs, own, tally)
        elif inner:
            outputs = _walk_inner(equation, inner, inputs, own, tally)
        else:
            outputs = [max(inputs, default=_CONSTANT)] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [kind_of(value) for value in jaxpr.outvars]


def _programs(value: Any) -> list[Any]:
    """The programs in a parameter of an equation."""
    values = value if isinstance(value, tuple | list) else (value,)
    opened = [getattr(part, "jaxpr", part) for part in values]
    return [part for part in opened if hasattr(part, "eqns")]


def _walk_inner(equation: Any, inner: list[Any], inputs: list[int], scope: str, tally: _Tally) -> list[int]:
    """A call of one program on the equation's own inputs: jit, rematerialisation, a custom gradient.

    Raises:
        UserError: a loop or a branch, of which no shape says how often it is taken.
    """
    fitting = [program for program in inner if len(program.invars) == len(inputs)]
    if len(inner) != 1 or not fitting:
        if any(_has_products(program) for program in inner):
            raise UserError(f"cost_report: products inside `{equation.primitive.name}` cannot be counted")
        return [max(inputs, default=_CONSTANT)] * len(equation.outvars)
    return _walk(fitting[0], inputs, scope, tally)


def _has_products(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in _PRODUCTS
        or any(_has_products(part) for value in equation.params.values() for part in _programs(value))
        for equation in jaxpr.eqns
    )


def _add_product(equation: Any, kinds: list[int], scope: str, tally: _Tally) -> None:
    left, right = (value.aval.shape for value in equation.invars)
    output = equation.outvars[0].aval
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = math.prod(left[axis] for axis in contracted)
    else:
        # The kernel's inputs are those of one group already.
        terms = math.prod(right) // right[equation.params["dimension_numbers"].rhs_spec[0]]
    macs = output.size * terms
    # Scopes that are no submodules: the model's own class, methods ("ViT._encode"), patterns of einsum.
    names = [name for name in scope.split("/") if name]
    path = "/".join(name for name in names[1:] if name.isidentifier())
    tally.add(
        path,
        macs=macs,
        attention_macs=macs if min(kinds) == _IMAGE else 0,
        activations=output.size,
        activation_bytes=output.size * output.dtype.itemsize,
    )
