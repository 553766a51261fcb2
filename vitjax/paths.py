"""Leaves of a tree by name: `{"encoder/block_3/attention/query/kernel": leaf}`, and rules that match those names.

Logs, optimizer masks, weight tables, sharding rules and errors all use these names.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax

from vitjax.errors import UserError

__all__ = ["first_match", "flatten", "map_with_path", "path_name", "unflatten"]

T = TypeVar("T")


def path_name(key_path: Sequence[Any]) -> str:
    """Joins the keys of a JAX key path by `/`."""
    return jax.tree_util.keystr(tuple(key_path), simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Returns `{"a/b/c": leaf}` in the tree's own order.

    Example:
        >>> flatten({"head": {"kernel": 1, "bias": 2}})
        {'head/bias': 2, 'head/kernel': 1}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(key_path): leaf for key_path, leaf in leaves}


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """The nested dict that `flatten` turns back into `leaves`.

    Example:
        >>> unflatten({"head/bias": 2, "head/kernel": 1})
        {'head': {'bias': 2, 'kernel': 1}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"path {path!r} goes through {parent!r}, which is a leaf already")
        if name in node:
            raise ValueError(f"path {path!r} is a leaf, but other paths go through it")
        node[name] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function takes the leaf's path as its first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def first_match(rules: Sequence[tuple[str, T]], paths: Iterable[str], *, setting: str) -> dict[str, T]:
    """The value of the first rule whose pattern matches the whole path, for each path.

    Args:
        rules: (regular expression, value) pairs, tried in order with `re.fullmatch`.
        paths: names of leaves, as `flatten` makes them.
        setting: what the rules belong to; errors name it.

    Raises:
        UserError: a pattern is no regular expression, a path is matched by no rule (all such are listed), or a
            rule matches no path at all.
    """
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise UserError(f"`{setting}`: {pattern!r} is not a regular expression: {error}") from error
    found: dict[str, T] = {}
    uncovered = []
    used = [False] * len(compiled)
    for path in paths:
        matches = [number for number, (pattern, _) in enumerate(compiled) if pattern.fullmatch(path)]
        if not matches:
            uncovered.append(path)
            continue
        for number in matches:
            used[number] = True
        found[path] = compiled[matches[0]][1]
    if uncovered:
        raise UserError(
            f"`{setting}` covers every path, but no pattern matches {', '.join(uncovered)}; "
            f"patterns given: {[pattern for pattern, _ in rules]}; add a last pattern '.*' for the rest"
        )
    idle = [rules[number][0] for number, was_used in enumerate(used) if not was_used]
    if idle:
        raise UserError(f"`{setting}`: {idle} match no path; the paths are {', '.join(found) or 'none'}")
    return found
