"""Reads a checkpoint's tokenizer from its folder, never from the network, and checks it against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cope_cli.errors import CheckpointError
from cope_cli.model.checkpoint.reading import AGAIN, naming, quiet_transformers

TURN_END = "<|im_end|>"


def load_tokenizer(folder: Path, layout: str) -> Any:
    """Read the tokenizer of a checkpoint.

    Published folders may have Qwen2's vocab.json and merges.txt instead of tokenizer.json. Their config.json does not
    choose the class, because that of the original layout names another model's.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    kind: Any = AutoTokenizer if layout == "cope" else PreTrainedTokenizerFast
    needed = ["tokenizer.json", "tokenizer_config.json"]
    pieces = ["vocab.json", "merges.txt"]
    if layout != "cope" and not (folder / "tokenizer.json").is_file() and (folder / "vocab.json").is_file():
        kind, needed = Qwen2Tokenizer, [*pieces, "tokenizer_config.json"]
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing", AGAIN)
    with naming(folder, "the tokenizer"), quiet_transformers():
        return kind.from_pretrained(folder, local_files_only=True)


def check_tokenizer(tokenizer: Any, num_embeddings: int, folder: Path) -> None:
    """Check a tokenizer against its model.

    Raises:
        CheckpointError: it has no end of a turn, no padding token, or more tokens than the model has embeddings.
    """
    problem = ""
    if TURN_END not in tokenizer.get_vocab():
        problem = f"has no {TURN_END}, which ends an answer"
    elif tokenizer.pad_token_id is None:
        problem = "has no padding token"
    elif len(tokenizer) > num_embeddings:
        problem = f"has {len(tokenizer)} tokens, the model {num_embeddings} embeddings"
    if problem:
        raise CheckpointError(f"{folder}: the tokenizer {problem}", "Use the tokenizer that belongs to the model.")
