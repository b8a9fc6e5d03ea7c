"""The documents keep their promises: examples run, commands exist, links lead somewhere, the changelog is in step."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import cope_cli
from cope_cli.cli.main import app
from tools.reference import command_reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "sample_videos" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language; "" stands for plain blocks."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def commands_of(page: Path) -> list[list[str]]:
    """Every `cope ...` line of a page's plain code blocks."""
    lines = [line.partition("#")[0].strip() for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("cope ")]


def test_the_readmes_python_example_runs(tmp_path, monkeypatch):
    (example,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "sample_videos").symlink_to(ROOT / "sample_videos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # the example itself is what is tested
    slot = names["slot"]
    assert slot.seconds == 3.0
    assert slot.motion_px.shape == (2, 224, 224)
    assert slot.residual.shape == (224, 224, 3)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist_and_take_their_options(page):
    for arguments in commands_of(page):
        command = get_command(app)
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {argument for argument in arguments if argument.startswith("--")} <= known, (page.name, arguments)


def test_the_readme_shows_every_stage():
    shown = {command[0] for command in commands_of(ROOT / "README.md")}
    assert shown >= {"encode", "extract", "train", "ask", "bench", "cache"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_command_reference_is_up_to_date():
    assert command_reference().strip() in (ROOT / "docs" / "commands.md").read_text()


def test_modules_that_the_paper_page_names_exist():
    rows = [
        line.split("|")[2] for line in (ROOT / "docs" / "paper.md").read_text().splitlines() if line.startswith("|")
    ]
    named = [name for cell in rows for name in re.findall(r"`([a-z_0-9.]+)`", cell) if "." in name]
    assert len(named) > 30
    for name in named:
        parts = name.split(".")
        path = ROOT / "cope_cli" / "/".join(parts)
        is_module = path.with_suffix(".py").exists() or path.is_dir()
        holder = ROOT / "cope_cli" / f"{'/'.join(parts[:-1])}.py"
        assert is_module or f"def {parts[-1]}(" in holder.read_text(), name


def test_the_map_of_the_house_has_every_layer():
    layers = {path.name.removesuffix(".py") for path in (ROOT / "cope_cli").iterdir() if not path.name.startswith("_")}
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## The map")[2].partition("## How to")[0]
    named = {name for line in table.splitlines() if line.startswith("| `") for name in re.findall(r"`([a-z]+)`", line)}
    assert layers - {"pretrained", "py.typed"} <= named


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == cope_cli.__version__
