"""Reporting to tensorboard or wandb, beside the JSON lines that every run has."""

from __future__ import annotations

from importlib.util import find_spec

from cope_cli.errors import UsageError

#: Packages of which one is needed, by reporter.
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check_reporter(name: str) -> None:
    """Refuse a reporter whose package is not installed.

    Args:
        name: "none", "tensorboard" or "wandb".

    Raises:
        UsageError: names the package.
    """
    packages = _PACKAGES.get(name, ())
    if packages and not any(find_spec(package) for package in packages):
        raise UsageError(
            f"--report-to {name}: the package {packages[0]} is not installed",
            f"pip install {packages[0]}, or leave --report-to away: metrics.jsonl has every logged step.",
        )
