"""Tables between our parameter paths and other people's keys, read in both directions.

A table is a sequence of rules. A rule names keys and variables by templates, in which `{block}` stands for a number
and `{part:query|key|value}` for one of the words; the same name stands for the same text on both sides:

    Rule("blocks.{block}.mlp.fc1.weight", "block_{block}/mlp/expand/kernel", linear)
    Rule("blocks.{block}.attn.qkv.bias", ("block_{block}/attention/query/bias", ..., ...), fused(identity, 3))

`import_weights` reads a table from left to right, `export_weights` from right to left. Both insist that everything
fits: each foreign key matches exactly one rule, each of our variables is filled exactly once, every shape is right;
otherwise one error lists all misfits. A rule that matches nothing is no error: a table describes all variants of a
layout (a head that some files lack). Arrays keep their dtype, and importing followed by exporting gives the same bits.

A model's tables stand beside it in `models/`; this module knows no model.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import einops
import numpy as np

from vitjax.arrays import Array
from vitjax.errors import UserError

__all__ = [
    "Fixed",
    "Rule",
    "Shape",
    "Table",
    "Transform",
    "axes",
    "conv",
    "conv_patches",
    "export_weights",
    "fused",
    "identity",
    "import_weights",
    "linear",
    "linear_patches",
    "patch_vector",
]

Shape = tuple[int, ...]
_FIELD = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


@dataclass(frozen=True)
class Transform:
    """How one foreign array becomes one or several of ours, and back.

    Attributes:
        name: what errors call it.
        forward: foreign array to ours; raises `ValueError` for a shape that it cannot take.
        inverse: ours to the foreign array, bit for bit.
    """

    name: str
    forward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    inverse: Callable[[tuple[np.ndarray, ...]], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """One kind of foreign key.

    Attributes:
        key: template of the foreign key.
        target: template of our variable, or several for a transform that splits, or `None` to drop the key: it is
            then ignored on the way in whatever it holds, and not written on the way out.
        transform: from the foreign array to ours.
    """

    key: str
    target: str | tuple[str, ...] | None
    transform: Transform = field(default_factory=lambda: identity)

    def __post_init__(self) -> None:
        for target in self.targets:
            _check_same_fields(self.key, target)

    @property
    def targets(self) -> tuple[str, ...]:
        """The templates of our variables, none for a dropped key."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Fixed:
    """A foreign buffer whose content is known (a bias that is always zero) and of which we have no variable.

    On the way in its content is checked; on the way out it is written again, with shape and dtype of its neighbour.

    Attributes:
        key: template of the foreign key.
        value: what each element must be.
        like: template, with the same fields, of the foreign key that has the same shape.
    """

    key: str
    value: float
    like: str

    def __post_init__(self) -> None:
        _check_same_fields(self.key, self.like)


Table = Sequence[Rule | Fixed]


def _check_same_fields(one: str, other: str) -> None:
    names = [{name for name, _ in _FIELD.findall(template)} for template in (one, other)]
    if names[0] != names[1]:
        raise ValueError(f"{one!r} and {other!r} must have the same fields, or the table could not be read backwards")


# ----------------------------------------------------------------------------------------------- transforms


def _one_to_one(
    name: str, forward: Callable[[np.ndarray], np.ndarray], inverse: Callable[[np.ndarray], np.ndarray]
) -> Transform:
    return Transform(name, lambda array: (forward(array),), lambda arrays: inverse(arrays[0]))


def _need_axes(array: np.ndarray, count: int) -> np.ndarray:
    if array.ndim != count:
        raise ValueError(f"needs {count} axes")
    return array


identity = _one_to_one("identity", lambda array: array, lambda array: array)
"""The same array on both sides."""


def axes(pattern: str, **sizes: int) -> Transform:
    """Axes moved, merged, split or dropped as an einops pattern says, foreign on the left and ours on the right.

    Args:
        pattern: such as `"1 n d -> n d"`; one that loses nothing, for it is read backwards too.
        **sizes: of axes that one of the two sides merges with others.

    Example:
        >>> heads = axes("d a k -> d (a k)", a=2)
        >>> heads.forward(np.ones((6, 2, 3)))[0].shape
        (6, 6)
    """
    left, right = (side.strip() for side in pattern.split("->"))

    def rearrange(array: np.ndarray, source: str, target: str) -> np.ndarray:
        try:
            return einops.rearrange(array, f"{source} -> {target}", **sizes)
        except einops.EinopsError as error:
            raise ValueError(f"needs axes {source!r} {sizes or ''}".rstrip()) from error

    return _one_to_one(
        f"axes({pattern})", lambda array: rearrange(array, left, right), lambda array: rearrange(array, right, left)
    )


linear = axes("o i -> i o")
"""A torch weight `[out, in]` and a kernel `[in, out]`."""

conv = axes("o i h w -> h w i o")
"""A torch weight `[out, in, rows, columns]` and a kernel `[rows, columns, in, out]`."""


def _patch_side(values: int, channels: int) -> int:
    side = math.isqrt(values // channels)
    if side * side * channels != values:
        raise ValueError(f"{values} values are no square patch of {channels} channels")
    return side


def conv_patches(channels: int = 3) -> Transform:
    """A torch convolution `[D, C, p, p]` with stride p, and our patch projection `[P, D]`."""

    def forward(array: np.ndarray) -> np.ndarray:
        width, depth, rows, columns = _need_axes(array, 4).shape
        if depth != channels or rows != columns:
            raise ValueError(f"needs {channels} channels and a square patch")
        return array.transpose(2, 3, 1, 0).reshape(rows * columns * depth, width)

    def inverse(array: np.ndarray) -> np.ndarray:
        values, width = _need_axes(array, 2).shape
        side = _patch_side(values, channels)
        return array.reshape(side, side, channels, width).transpose(3, 2, 0, 1)

    return _one_to_one("conv_patches", forward, inverse)


def linear_patches(channels: int = 3) -> Transform:
    """A torch weight `[D, P]` on patches flattened (channel, row, column), and our `[P, D]`, (row, column, channel)."""
    convolution = conv_patches(channels)

    def forward(array: np.ndarray) -> np.ndarray:
        width, values = _need_axes(array, 2).shape
        side = _patch_side(values, channels)
        return convolution.forward(array.reshape(width, channels, side, side))[0]

    def inverse(array: np.ndarray) -> np.ndarray:
        kernel = convolution.inverse((array,))
        return kernel.reshape(kernel.shape[0], -1)

    return _one_to_one("linear_patches", forward, inverse)


def patch_vector(channels: int = 3) -> Transform:
    """One number per value of a patch, (channel, row, column) there and (row, column, channel) here: a norm's scale."""

    def forward(array: np.ndarray) -> np.ndarray:
        side = _patch_side(_need_axes(array, 1).size, channels)
        return array.reshape(channels, side * side).T.reshape(-1)

    def inverse(array: np.ndarray) -> np.ndarray:
        side = _patch_side(_need_axes(array, 1).size, channels)
        return array.reshape(side * side, channels).T.reshape(-1)

    return _one_to_one("patch_vector", forward, inverse)


def fused(each: Transform, parts: int) -> Transform:
    """Several arrays of ours stacked along the first axis of one foreign array (query, key and value as one `qkv`).

    Args:
        each: a one-to-one transform for each of the equal parts.
        parts: how many variables of ours one foreign array fills, in the order of its rows.
    """

    def forward(array: np.ndarray) -> tuple[np.ndarray, ...]:
        if array.ndim == 0 or array.shape[0] % parts:
            raise ValueError(f"needs a first axis of {parts} equal parts")
        return tuple(each.forward(part)[0] for part in np.split(array, parts))

    def inverse(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        return np.concatenate([each.inverse((array,)) for array in arrays])

    return Transform(f"fused {each.name}", forward, inverse)


# ------------------------------------------------------------------------------------------------ templates


@functools.lru_cache(maxsize=4096)
def _compiled(template: str, rule: Rule | Fixed) -> re.Pattern[str]:
    """The regular expression that one of a rule's templates stands for.

    The words that a field may be are written once, in any of the rule's templates; a field that comes twice in a
    template has to match the same text.
    """
    templates = (rule.key, rule.like) if isinstance(rule, Fixed) else (rule.key, *rule.targets)
    words = {name: choices for text in templates for name, choices in _FIELD.findall(text) if choices}
    pieces, position, seen = [], 0, set()
    for match in _FIELD.finditer(template):
        name = match.group(1)
        pieces.append(re.escape(template[position : match.start()]))
        pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>{words.get(name, '[0-9]+')})")
        seen.add(name)
        position = match.end()
    return re.compile("".join(pieces) + re.escape(template[position:]))


def _match(rule: Rule | Fixed, template: str, name: str) -> dict[str, str] | None:
    found = _compiled(template, rule).fullmatch(name)
    return None if found is None else found.groupdict()


def _fill(template: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match.group(1)], template)


# --------------------------------------------------------------------------------------- reading the tables


class _Misfits:
    """Gathers what does not fit, by kind, for one error."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def add(self, kind: str, item: str) -> None:
        self._kinds.setdefault(kind, []).append(item)

    def check(self, what: str) -> None:
        """Raises the one error if anything was added."""
        if self._kinds:
            lists = "; ".join(f"{kind} ({len(items)}): {', '.join(items)}" for kind, items in self._kinds.items())
            raise UserError(f"{what}: {lists}")


def import_weights(rules: Table, foreign: Mapping[str, Array], template: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Turns foreign weights into ours.

    Args:
        rules: the table of the foreign layout.
        foreign: all arrays of the foreign file.
        template: path and shape of every variable of ours that is to be filled.

    Returns:
        One array for each path of `template`, in its order, in the dtype that it has in the file.

    Raises:
        UserError: anything is missing, unexpected, ambiguous, filled twice or of the wrong shape; all of it is listed.
    """
    misfits = _Misfits()
    ours: dict[str, np.ndarray] = {}
    source: dict[str, str] = {}
    for key, value in foreign.items():
        array = np.asarray(value)
        matches = [(rule, fields) for rule in rules if (fields := _match(rule, rule.key, key)) is not None]
        if len(matches) != 1:
            kind = "keys that several rules match" if matches else "unexpected keys"
            misfits.add(kind, " = ".join([f"{key} {array.shape}", *(rule.key for rule, _ in matches)]))
            continue
        rule, fields = matches[0]
        if isinstance(rule, Fixed):
            if not np.all(array == rule.value):
                misfits.add("buffers that hold something of their own", f"{key} {array.shape}, expected {rule.value}")
            continue
        paths = [_fill(target, fields) for target in rule.targets]
        for path in paths:
            if path in source:
                misfits.add("variables filled twice", f"{path} by {source[path]} and {key}")
            elif path not in template:
                misfits.add("keys for variables that the model lacks", f"{key} {array.shape} for {path}")
            source[path] = key
        if paths:
            ours |= _transformed(rule.transform, key, array, {path: template.get(path) for path in paths}, misfits)
    for path, shape in template.items():
        if path not in source:
            keys = " or ".join(_keys_of(rules, path)) or "no rule"
            misfits.add("variables that nothing fills", f"{path} {tuple(shape)} (wants {keys})")
    misfits.check("the weights do not fit the model")
    return {path: ours[path] for path in template}


def _transformed(
    transform: Transform, key: str, array: np.ndarray, shapes: Mapping[str, Shape | None], misfits: _Misfits
) -> dict[str, np.ndarray]:
    """One foreign array as variables of ours, whose shapes are checked where we have one."""
    try:
        parts = transform.forward(array)
    except ValueError as error:
        misfits.add("wrong shapes", f"{key} {array.shape}: {transform.name} {error}")
        return {}
    for (path, shape), part in zip(shapes.items(), parts, strict=True):
        if shape is not None and part.shape != tuple(shape):
            misfits.add("wrong shapes", f"{key} {array.shape} makes {path} {part.shape}, expected {tuple(shape)}")
    return {path: np.asarray(part, order="C") for path, part in zip(shapes, parts, strict=True)}


def _keys_of(rules: Iterable[Rule | Fixed], path: str) -> list[str]:
    """The foreign keys that could fill a variable of ours."""
    found = [
        _fill(rule.key, fields)
        for rule in rules
        if isinstance(rule, Rule)
        for target in rule.targets
        if (fields := _match(rule, target, path)) is not None
    ]
    return list(dict.fromkeys(found))


def export_weights(rules: Table, ours: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Turns our weights into foreign ones: `import_weights` backwards.

    Args:
        rules: the table of the foreign layout.
        ours: all variables, by path.

    Returns:
        The foreign arrays, C-contiguous, in the order in which `ours` first needs them, without dropped keys.

    Raises:
        UserError: a variable has no place in the foreign layout or several, a fused array lacks a part, or a shape
            is one that the layout cannot express; all of it is listed.
    """
    misfits = _Misfits()
    parts: dict[str, dict[int, np.ndarray]] = {}
    owner: dict[str, Rule] = {}
    for path, value in ours.items():
        array = np.asarray(value)
        matches = [
            (rule, number, fields)
            for rule in rules
            if isinstance(rule, Rule)
            for number, target in enumerate(rule.targets)
            if (fields := _match(rule, target, path)) is not None
        ]
        if len(matches) != 1:
            kind = "variables that several rules match" if matches else "variables without a place in the layout"
            misfits.add(kind, " = ".join([f"{path} {array.shape}", *(rule.key for rule, _, _ in matches)]))
            continue
        rule, number, fields = matches[0]
        key = _fill(rule.key, fields)
        if owner.setdefault(key, rule) is not rule or number in parts.get(key, {}):
            misfits.add("keys made twice", f"{key} by {path}")
        parts.setdefault(key, {})[number] = array
    foreign: dict[str, np.ndarray] = {}
    for key, arrays in parts.items():
        rule = owner[key]
        lacking = [target for number, target in enumerate(rule.targets) if number not in arrays]
        if lacking:
            misfits.add("keys that lack a part", f"{key} without {' and '.join(lacking)}")
            continue
        ordered = tuple(arrays[number] for number in range(len(rule.targets)))
        try:
            foreign[key] = np.asarray(rule.transform.inverse(ordered), order="C")
        except ValueError as error:
            shapes = " and ".join(str(array.shape) for array in ordered)
            misfits.add("wrong shapes", f"{key} of {shapes}: {rule.transform.name} {error}")
    misfits.check("the weights do not fit the foreign layout")
    return foreign | _fixed_buffers(rules, foreign)


def _fixed_buffers(rules: Table, foreign: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The buffers of known content that stand beside the exported keys."""
    return {
        _fill(rule.key, fields): np.full_like(array, rule.value)
        for rule in rules
        if isinstance(rule, Fixed)
        for key, array in foreign.items()
        if (fields := _match(rule, rule.like, key)) is not None
    }
