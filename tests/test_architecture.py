"""The layers of DESIGN.md: a module imports strictly lower packages, and inside a package nothing goes in circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cope_cli

ROOT = Path(cope_cli.__file__).parent
LAYERS = [
    *("errors", "files", "types", "options", "config", "codec", "cache", "model", "data", "stages"),
    *("video", "library", "runs", "train", "ask", "evaluate", "inspect", "world", "cli"),
]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__main__.py")
PURE = [
    "config",
    "options",
    "ask/config",
    "evaluate/config",
    "inspect/config",
    "train/config",
    "codec/gop",
    "model/token_plan",
    "errors",
]
CLI_ONLY = {"typer", "rich", "tqdm"}


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it; those for type checkers count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "cope_cli" and parts[1] in LAYERS else None


def name(path: Path) -> str:
    return ".".join(["cope_cli", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_only_lower_layers(path):
    own = layer(name(path))
    if own is None:
        return
    for module in imports(path):
        other = layer(module)
        if other is not None and other != own:
            assert LAYERS.index(other) < LAYERS.index(own), f"{name(path)} imports {module}, which is not below it"


def test_only_the_command_line_imports_the_rendered_world():
    users = {layer(name(path)) for path in MODULES if any(layer(module) == "world" for module in imports(path))}
    assert users == {"world", "cli"}


def test_only_the_command_line_knows_the_rendered_world():
    knowing = {name(path) for path in MODULES if any(layer(module) == "world" for module in imports(path))}
    assert {layer(module) for module in knowing} <= {"world", "cli"}


def test_every_module_has_a_layer():
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in MODULES} == {*LAYERS, "__init__"}


def test_imports_inside_the_package_are_acyclic():
    modules = {name(path): path for path in MODULES}
    graph = {
        module: {other for other in imports(path) if other in modules} - {module, "cope_cli"}
        for module, path in modules.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


@pytest.mark.parametrize("module", PURE)
def test_pure_arithmetic_needs_neither_av_nor_torch_nor_numpy(module):
    tops = {imported.split(".")[0] for imported in imports(ROOT / f"{module}.py")}
    assert not tops & {"av", "torch", "zarr", "numba", "numpy", "transformers"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_libraries_stay_in_their_layers(path):
    tops = {imported.split(".")[0] for imported in imports(path)}
    own = layer(name(path))
    if own != "cli":
        assert not tops & CLI_ONLY
    if own != "codec":
        assert "av" not in tops
    if own not in ("model", "train", "ask", "evaluate"):
        assert not tops & {"transformers", "accelerate", "peft"}
    if own not in ("model", "data", "train", "ask", "evaluate"):
        assert "torch" not in tops


def test_asking_does_not_import_training():
    asking = [name(path) for path in MODULES if layer(name(path)) == "ask"]
    code = f"import sys, {', '.join(asking)}; print([m for m in sys.modules if m.startswith('cope_cli.train')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_cache_decodes_no_video():
    modules = [name(path) for path in MODULES if layer(name(path)) == "cache"]
    code = f"import sys; [__import__(name) for name in {modules!r}]; print('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
