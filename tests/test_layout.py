"""The shape of the code: one namespace in three pieces, dependencies one way, modules that can be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIECES = [ROOT / "protos" / "gen" / "rewardmesh", ROOT / "services" / "rewardmesh", ROOT / "trainer" / "rewardmesh"]
WRITTEN = [module for piece in PIECES[1:] for module in sorted(piece.rglob("*.py"))]
LONGEST_MODULE = 400
HEAVY = {"numpy", "torch", "pydantic", "structlog", "yaml", "transformers", "prometheus_client"}
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

LIGHT = {"v1", "client"}
BASE = LIGHT | {"serving", "engine"}
SERVICES = {"reward", "judge", "panel", "verifier", "logprob", "generation", "gateway"}
MAY_IMPORT = {
    "v1": {"v1"},
    "client": LIGHT,
    "serving": LIGHT | {"serving"},
    "engine": BASE,
    **{service: BASE | {service} for service in SERVICES},
    "audit": BASE | {"audit"},
    "principles": BASE | {"audit", "principles"},
    "cli": BASE | SERVICES | {"audit", "principles", "cli", "trainer", "demo", "adapters"},
    "trainer": BASE | {"trainer"},
    "demo": BASE | {"trainer", "demo"},
    "adapters": BASE | {"adapters"},
}
"""Package -> the packages it may import: protos <- client <- serving <- engine <- services <- cli, and the trainer beside the services."""


def package(module: Path) -> str:
    """The package of the namespace that a module lies in."""
    [piece] = [piece for piece in PIECES if piece in module.parents]
    return module.relative_to(piece).parts[0]


def imported_packages(module: Path) -> Iterator[tuple[int, str]]:
    """(line, package) of every import of this namespace, wherever in the module it stands."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "rewardmesh" else [base]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "rewardmesh" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_the_namespace_has_no_init() -> None:
    for piece in PIECES:
        assert piece.is_dir()
        assert not (piece / "__init__.py").exists(), f"{piece}/__init__.py would hide the other pieces of the namespace"


def test_every_package_is_typed_and_says_what_it_is() -> None:
    packages = [folder for piece in PIECES for folder in sorted(piece.iterdir()) if folder.is_dir() and folder.name != "__pycache__"]
    for folder in packages:
        assert (folder / "py.typed").exists() or (folder.parent / "py.typed").exists(), f"{folder}: no py.typed"
    for folder in {module.parent for module in WRITTEN} - set(PIECES):
        assert (folder / "__init__.py").exists(), f"{folder}: no __init__.py"


def test_dependencies_point_one_way() -> None:
    wrong = [
        f"{module.relative_to(ROOT)}:{line}: {package(module)} imports {imported}"
        for module in WRITTEN
        for line, imported in imported_packages(module)
        if imported not in MAY_IMPORT[package(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_client_needs_only_grpc_and_protobuf() -> None:
    for module in (PIECES[1] / "client").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            heavy = {name.split(".")[0] for name in names} & HEAVY
            assert not heavy, f"{module.relative_to(ROOT)} imports {heavy}"


@pytest.mark.parametrize("module", WRITTEN, ids=lambda module: str(module.relative_to(ROOT)))
def test_modules_are_short_and_documented(module: Path) -> None:
    source = module.read_text()
    lines = source.count("\n")
    assert lines <= LONGEST_MODULE, f"{lines} lines: split it"
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no module docstring"
    if module.name.startswith("_") and module.name != "__init__.py":
        return
    # Methods need one where their name and types do not say it all; what overrides is documented where it is declared.
    public = [node for node in tree.body if isinstance(node, Documented) and not node.name.startswith("_")]
    undocumented = [f"{node.lineno}: {node.name}" for node in public if not ast.get_docstring(node)]
    assert not undocumented, "no docstring: " + ", ".join(undocumented)
