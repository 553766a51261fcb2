"""Who may import whom: arrows point down only, and every package that is imported is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "vitjax").rglob("*.py"))

# design.md's table; a package may always import itself. `errors` is for everybody.
ALLOWED = {
    "errors": (),
    "arrays": (),
    "paths": (),
    "config": (),
    "ops": ("arrays",),
    "layers": ("ops", "arrays"),
    "models": ("layers", "ops", "arrays", "config", "paths", "weights.rules", "weights.layouts"),
    "evaluation": ("arrays", "ops"),
    # What `predict` returns is described beside `Bundle`; the tasks with predictions of their own make it.
    "tasks": (
        "ops",
        "arrays",
        "evaluation",
        "inference.detection_results",
        "inference.panoptic_results",
        "inference.segmentation_results",
    ),
    "data": (),
    # The trainer writes bundles; of data it knows only how batches are shared out and streamed.
    "training": ("arrays", "config", "paths", "tasks.task", "data.loading", "weights.bundle_io"),
    "weights": ("config", "paths", "arrays"),
    "inference": ("models", "tasks", "weights", "data", "evaluation", "layers", "ops", "arrays", "config", "paths"),
    "analysis": ("models", "tasks", "weights", "data", "inference", "ops", "layers", "arrays", "config", "paths"),
    "transfer": (
        "analysis",
        "models",
        "tasks",
        "weights",
        "data",
        "inference",
        "ops",
        "layers",
        "arrays",
        "config",
        "paths",
    ),
    "programs": None,  # whole experiments, which call the trainer
    "__init__": ("config", "inference", "models", "training"),
    "cli": None,  # everything
}

# What `data` may use of other people's: it runs in worker processes, where jax has no business.
DATA_FORBIDDEN = {"jax", "flax", "optax", "orbax", "torch", "tensorflow"}

# Kernels that a person may install and ask for by name; no extra of ours brings them.
UNDECLARED = {"tokamax"}


def imports_of(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, whether at module level) of every import in a file; `from a import b` gives `a.b`."""
    tree = ast.parse(path.read_text(), str(path))
    found = []
    for node, top in walk(tree, True):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno, top) for alias in node.names]
    return found


def walk(node: ast.AST, top: bool):
    for child in ast.iter_child_nodes(node):
        yield child, top
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield from walk(child, top and not inner)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "vitjax").with_suffix("").parts[0]


def violations(path: Path) -> list[str]:
    part = part_of(path)
    allowed = ALLOWED[part]
    if allowed is None:
        return []
    wrong = []
    for module, line, _ in imports_of(path):
        if module.split(".")[0] != "vitjax":
            continue
        target = module.removeprefix("vitjax.")
        if target.split(".")[0] in (part, "errors"):
            continue
        if not any(target == name or target.startswith(f"{name}.") for name in allowed):
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {part} may not import {module}")
    return wrong


def test_every_part_of_the_package_has_its_row():
    assert {part_of(path) for path in FILES} - set(ALLOWED) == set()


@pytest.mark.parametrize("part", sorted({part_of(path) for path in FILES}))
def test_arrows_point_down(part):
    wrong = [line for path in FILES if part_of(path) == part for line in violations(path)]
    assert not wrong, "\n".join(wrong)


def test_a_forbidden_arrow_is_found(tmp_path):
    # The check itself: a file of `ops` that reaches up, at the top, in a function and for types only.
    source = "import vitjax.models\ndef f():\n    from vitjax.data.images import decode_image\n"
    path = ROOT / "vitjax" / "ops" / "imagined.py"
    found = [module for module, _, _ in imports_of_text(source, tmp_path)]
    assert found == ["vitjax.models", "vitjax.data.images.decode_image"]
    assert part_of(path) == "ops"
    assert not any(module.removeprefix("vitjax.").startswith(ALLOWED["ops"]) for module in found)


def imports_of_text(source: str, folder: Path):
    (folder / "imagined.py").write_text(source)
    return imports_of(folder / "imagined.py")


def test_data_knows_no_accelerator():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in FILES
        if part_of(path) == "data"
        for module, line, _ in imports_of(path)
        if module.split(".")[0] in DATA_FORBIDDEN or module.startswith("vitjax.arrays")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_tensorflow():
    wrong = [
        f"{path}:{line}"
        for path in FILES
        for module, line, _ in imports_of(path)
        if module.split(".")[0] == "tensorflow"
    ]
    assert not wrong


def declared(requirements: list[str]) -> set[str]:
    return {normalise(re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0]) for text in requirements}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = declared(project["dependencies"])
    extras = core.union(*(declared(group) for group in project["optional-dependencies"].values()))
    # A namespace such as `google` belongs to many; what counts is that one that is declared has the module.
    owners = {name: {normalise(owner) for owner in found} for name, found in packages_distributions().items()}
    wrong = []
    for path in FILES:
        for module, line, top in imports_of(path):
            name = module.split(".")[0]
            if name in sys.stdlib_module_names or name == "vitjax" or (name in UNDECLARED and not top):
                continue
            # Slow or optional packages are imported inside the functions that use them, and may come from an extra.
            if not owners.get(name, {normalise(name)}) & (core if top else extras):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name} is not declared in pyproject.toml")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("slow", ["grain", "orbax", "tensorflow_datasets", "matplotlib", "sklearn", "torch"])
def test_slow_packages_are_imported_where_they_are_used(slow):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for module, line, top in imports_of(path)
        if top and module.split(".")[0] == slow
    ]
    assert not wrong, f"{slow} at module level: {wrong}"
