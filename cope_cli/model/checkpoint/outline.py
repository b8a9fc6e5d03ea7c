"""Reads a model without its weights, from JSON and the headers of its files only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cope_cli.model.checkpoint.base import check_tensors, own_dtype
from cope_cli.model.checkpoint.description import COPE_FILE, read_description
from cope_cli.model.checkpoint.published import read_base
from cope_cli.model.checkpoint.reading import naming
from cope_cli.model.checkpoint.tokenizer import load_tokenizer
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.videolm import VideoLM


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A VideoLM whose parameters have shapes but no values.

    Attributes:
        model: the model, on the meta device.
        tokenizer: transformers' tokenizer.
        has_own_delta: whether the Delta-encoder is the checkpoint's own.
        stored_dtype: the dtype that most weights are stored in.
    """

    model: VideoLM
    tokenizer: Any
    has_own_delta: bool
    stored_dtype: torch.dtype


def read_outline(folder: Path, fresh: DeltaEncoderConfig) -> Outline:
    """Read the outline of a VideoLM of any layout.

    Args:
        folder: a folder that `load_videolm` reads, except an adapter's.
        fresh: Delta-encoder to use if the model has none; `out_width` is set to the model's.

    Raises:
        PathNotFoundError, CheckpointError: as in `load_videolm`.
    """
    from dataclasses import replace

    from transformers import LlavaOnevisionForConditionalGeneration

    has_description = (folder / COPE_FILE).is_file() or not folder.is_dir()
    values = read_description(folder, "videolm") if has_description else None
    checkpoint = read_base(folder, is_ours=values is not None)
    check_tensors(checkpoint)
    own = None if values is None else values["delta_encoder"]
    with naming(folder, "config.json"), torch.device("meta"):
        width = checkpoint.config.vision_config.hidden_size
        config = replace(fresh, out_width=width) if own is None else DeltaEncoderConfig.from_dict(own)
        base = LlavaOnevisionForConditionalGeneration(checkpoint.config)
        model = VideoLM(base, DeltaEncoder(config))
    base.tie_weights()
    tokenizer = load_tokenizer(folder, checkpoint.layout if values is None else "cope")
    return Outline(model=model, tokenizer=tokenizer, has_own_delta=own is not None, stored_dtype=own_dtype(checkpoint))
