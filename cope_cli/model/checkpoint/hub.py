"""A model's name becomes a folder: a path on this machine, or else a Hub id such as `lmms-lab/LLaVA-Video-7B-Qwen2`."""

from __future__ import annotations

import re
from pathlib import Path

from cope_cli.errors import CheckpointError

#: What a checkpoint consists of; pickled weights are never fetched, because they are never read.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "tokenizer.model", "vocab.json", "merges.txt")
#: Name of the model in the package (docs/cope-tiny.md), and its folder.
SHIPPED_NAME = "cope-tiny"
SHIPPED_MODEL = Path(__file__).parents[2] / "pretrained" / SHIPPED_NAME
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_folder(named: str | Path) -> Path:
    """Return the folder of a model.

    Args:
        named: a model folder or a run folder; where there is no such folder, `cope-tiny` for the bundled model, or a
            Hub id, `organisation/name`. Hugging Face's variables apply: HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, HF_ENDPOINT.

    Returns:
        The folder; for any other name the path as it was given, which loading refuses.

    Raises:
        CheckpointError: a Hub id cannot be downloaded, and is not on this machine yet.
    """
    path = Path(named)
    if path.is_dir():
        return path / "model" if (path / "model").is_dir() else path
    if str(named) == SHIPPED_NAME:
        return SHIPPED_MODEL
    name = path.as_posix() if isinstance(named, Path) else named
    # A folder of that name beside it: `runs/finetnue-1` is a slip, not something to ask the internet for.
    if _HUB_ID.fullmatch(name) is None or path.parent.is_dir():
        return path
    return _download(name)


def _download(hub_id: str) -> Path:
    """Fetch a checkpoint into Hugging Face's cache, or find it there."""
    from huggingface_hub import errors, snapshot_download

    # Newer versions of the library have failures of their own that inherit no builtin.
    own = (getattr(errors, name, None) for name in ("RevisionResolutionError", "CachedRepoTreeNotFoundError"))
    failures = (OSError, ValueError, *(kind for kind in own if kind is not None))
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(PATTERNS)))
    except failures as error:
        lines = str(error).strip().splitlines()
        raise CheckpointError(
            f"{hub_id}: no such folder here, and it cannot be downloaded from the Hub: "
            f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}",
            f"Download it where there is a network (`hf download {hub_id} --local-dir FOLDER`) and name the folder.",
        ) from error
