"""Decodes many short answers at once: the prefix that all questions share is computed once, then all answers together.

Decoding is greedy, as in `VideoLM.generate` at temperature 0, which computes every prompt as a whole.

Legend: C videos, Q questions about all of them, L tokens of the prefix, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.kv_cache import cache_option
from cope_cli.model.videolm import VideoLM


@dataclass(frozen=True, kw_only=True)
class SharedPrefix:
    """The prefix of all prompts about a video, and the rest of each prompt.

    Attributes:
        ids: L token ids; those at visual positions are not read.
        kinds: L values of `TokenKind`.
        visual: embeddings of the visual positions, as `VideoLM.visual_embeddings` returns them.
        rests: ids after the prefix for each question, at least one.
    """

    ids: Sequence[int]
    kinds: Sequence[int]
    visual: Tensor
    rests: Sequence[Sequence[int]]


@torch.no_grad()
def greedy_answers(
    model: VideoLM, videos: Sequence[SharedPrefix], *, pad_id: int, end_id: int, max_new_tokens: int
) -> list[list[list[int]]]:
    """Answer every question about some videos.

    Args:
        model: the model, in evaluation mode.
        videos: at least one; all prefixes have the same length.
        pad_id: the tokenizer's padding token.
        end_id: the token that ends an answer.
        max_new_tokens: longest answer, tokens.

    Returns:
        Tokens of each answer without the end token, by video and question.

    Raises:
        ValueError: prefixes have different lengths.
    """
    if len({len(video.ids) for video in videos}) != 1:
        raise ValueError("prefixes of different lengths cannot be computed together")
    language_model, embed = model.base.model.language_model, model.base.get_input_embeddings()
    cache = model.new_cache()
    keep = {**cache_option(cache), "use_cache": True}
    language_model(inputs_embeds=_prefixes(model, videos), **keep)
    rows = [index for index, video in enumerate(videos) for _ in video.rests]
    cache.batch_select_indices(torch.tensor(rows, device=model.device))
    ids, mask = _padded_left([rest for video in videos for rest in video.rests], pad_id)
    mask = torch.cat([torch.ones((len(rows), len(videos[0].ids)), dtype=torch.int64), mask], dim=1)
    ids, mask = ids.to(model.device), mask.to(model.device)
    answers: list[list[int]] = [[] for _ in rows]
    is_open = torch.ones(len(rows), dtype=torch.bool, device=model.device)
    for _ in range(max_new_tokens):
        positions = (mask.cumsum(-1) - 1)[:, -ids.shape[1] :].clamp(min=0)
        hidden = language_model(
            inputs_embeds=embed(ids), attention_mask=mask, position_ids=positions, **keep
        ).last_hidden_state[:, -1]
        taken = model.base.lm_head(hidden).argmax(-1)
        is_open &= taken != end_id
        if not is_open.any():
            break
        for row, token in enumerate(taken.tolist()):
            if is_open[row]:
                answers[row].append(token)
        ids = taken[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    ordered = iter(answers)
    return [[next(ordered) for _ in video.rests] for video in videos]


def _prefixes(model: VideoLM, videos: Sequence[SharedPrefix]) -> Tensor:
    """Return the embeddings of the videos' prefixes (C, L, D)."""
    ids = torch.tensor([list(video.ids) for video in videos])
    size = model.vision_size_px
    batch = VideoLMBatch(
        input_ids=ids,
        token_kind=torch.tensor([list(video.kinds) for video in videos], dtype=torch.uint8),
        attention_mask=torch.ones_like(ids),
        labels=None,
        rgb=torch.empty((0, size, size, 3), dtype=torch.uint8),
        motion=torch.empty((0, 2, 0, 0), dtype=torch.int16),
        residual=torch.empty((0, 0, 0, 3), dtype=torch.int16),
        frame_size_px=torch.empty((0, 2), dtype=torch.int32),
    )
    return model.embed(batch.to(model.device), torch.cat([video.visual for video in videos]))


def _padded_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return rows (Q, R) with padding on the left, and their mask."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)
