"""`make docs` builds the site: every link, anchor and docstring reference leads somewhere, and nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(out),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    result = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == 0, result.stderr
    pages = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert pages >= {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    api = (tmp_path / "site" / "api.html").read_text()
    assert "cope_cli.CopeVideoLM.ask" in api and "cope_cli.Slot.motion" in api
    for page in (tmp_path / "site").glob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?:[^\"]+)", page.read_text())
        assert fetched == [], page.name


def test_an_anchor_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[nowhere](#gone)\n")
    settings = (ROOT / "mkdocs.yml").read_text()
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"\nnav:\n(.*\n)+?\n", "\n", settings))
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode != 0
    assert "#gone" in result.stderr
