"""The video language model: LlavaOnevision's parameters plus a Delta-encoder, inputs assembled from a token plan.

`base` is transformers' LlavaOnevisionForConditionalGeneration. Only its parts are used: its own multimodal forward
puts one newline at the end of a video (LLaVA-Video: one per grid row) and has no Delta-tokens. This module assembles
the embeddings and passes them on as `inputs_embeds`.

```
rgb    -> vision tower -> projector -> bilinear pooling -> RGB tokens ---+
motion,                                                                  +-> scattered by token kind -> Qwen2
residual -> Delta-encoder -> projector -----------------> Delta-tokens --+
```

Covered: SigLIP towers, one vision feature layer, grid newlines. Not covered, `VideoLM` raises an error: CLIP-like
towers with a class token, several feature layers.

Legend: B batch, L tokens, N RGB frames, P P-slots, V vision input side, G grid side, M patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.attention import attention_of
from cope_cli.model.batch import VideoLMBatch, VideoLMOutput
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.kv_cache import cache_option
from cope_cli.model.placement import execution_device
from cope_cli.model.token_plan import IGNORED_LABEL, TokenCosts, TokenKind

#: Frames or P slots at a time without gradients; on a CPU, as many as keep the activations in its cache.
CPU_CHUNK, GPU_CHUNK = 4, 64


class VideoLM(nn.Module):
    """A vision tower, a projector, a language model and a Delta-encoder.

    Args:
        base: a LlavaOnevisionForConditionalGeneration with a SigLIP tower.
        delta_encoder: None for a model that sees RGB slots only.

    Unused parameters of the vision tower (layers after the feature layer, post-layernorm, pooling head) are frozen:
    they never get a gradient, and distributed training would wait for one.

    Raises:
        CheckpointError: the vision tower is not covered, or the Delta-encoder's width differs from its width.
    """

    def __init__(self, base: Any, delta_encoder: DeltaEncoder | None) -> None:
        super().__init__()
        _check_base(base.config)
        vision_width = base.config.vision_config.hidden_size
        if delta_encoder is not None and delta_encoder.config.out_width != vision_width:
            raise CheckpointError(
                f"the Delta-encoder gives tokens of width {delta_encoder.config.out_width}, "
                f"the vision encoder's width is {vision_width}",
                "Build or pre-train a Delta-encoder for this vision encoder.",
            )
        self.base = base
        self.delta_encoder = delta_encoder
        read = {id(parameter) for parameter in self.vision_parameters()}
        for parameter in base.model.vision_tower.parameters():
            if id(parameter) not in read:
                parameter.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Device of the inputs: that of the token embeddings."""
        return execution_device(self.base.get_input_embeddings())

    @property
    def vision_size_px(self) -> int:
        """Side V of the vision encoder's input."""
        return int(self.base.config.vision_config.image_size)

    @property
    def patches_per_side(self) -> int:
        """Vision tokens along one side of a frame, before pooling."""
        return self.vision_size_px // int(self.base.config.vision_config.patch_size)

    @property
    def context_tokens(self) -> int:
        """Longest sequence of the language model, tokens."""
        return int(self.base.config.text_config.max_position_embeddings)

    @property
    def token_costs(self) -> TokenCosts:
        """Tokens per slot; without a Delta-encoder, the paper's numbers for P slots, which must not be planned then."""
        side = -(-self.patches_per_side // 2)
        if self.delta_encoder is None:
            return TokenCosts(grid_rows=side, grid_cols=side)
        config = self.delta_encoder.config
        return TokenCosts(
            grid_rows=side,
            grid_cols=side,
            num_motion_tokens=config.num_motion_tokens,
            num_residual_tokens=config.num_residual_tokens,
        )

    def vision_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the vision tower's parameters that the features depend on; the others stay frozen."""
        yield from self.base.model.vision_tower.embeddings.parameters()
        for layer in self._vision_layers():
            yield from layer.parameters()

    def _vision_layers(self) -> Any:
        """Return the encoder layers up to the one whose output is read."""
        layers = self.base.model.vision_tower.encoder.layers
        index = self.base.config.vision_feature_layer  # into hidden_states, which starts with the embeddings
        return layers[: index if index >= 0 else len(layers) + 1 + index]

    def vision_tokens(self, rgb: Tensor) -> Tensor:
        """Return what the projector reads: the feature layer's output, before post-layernorm.

        Args:
            rgb: (N, V, V, 3) uint8.

        Returns:
            (N, M, D_vision).

        Raises:
            ValueError: the frames do not have the vision encoder's size.
        """
        size = self.vision_size_px
        if tuple(rgb.shape[1:]) != (size, size, 3):
            raise ValueError(f"rgb has shape {list(rgb.shape)}, expected [N, {size}, {size}, 3]")
        tower = self.base.model.vision_tower
        if len(rgb) == 0:
            width, dtype = self.base.config.vision_config.hidden_size, tower.embeddings.patch_embedding.weight.dtype
            return torch.zeros((0, self.patches_per_side**2, width), dtype=dtype, device=rgb.device)
        # SigLIP's preprocessing: to [0, 1], then mean 0.5 and standard deviation 0.5; in one array, transposed once.
        pixels = rgb.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        # The convolution returns patches channels first: transposed here once, or else every layer does it again.
        tokens: Tensor = tower.embeddings(pixels.mul_(2 / 255).sub_(1)).contiguous()
        for layer in self._vision_layers():
            tokens = layer(tokens, None)
        return tokens

    def rgb_tokens(self, rgb: Tensor) -> Tensor:
        """Return the RGB tokens of frames: projected, then pooled (bilinear) to half the side, rounded up.

        Args:
            rgb: (N, V, V, 3) uint8.

        Returns:
            (N, rows * cols, D_llm), row by row, without newlines.
        """
        parts = [self.pooled_tokens(self.vision_tokens(chunk)) for chunk in self.chunks(rgb)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def chunks(self, items: Tensor) -> Sequence[Tensor]:
        """Cut frames, or the arrays of P slots, into at least one chunk with small activations.

        Returns one chunk if gradients are enabled, because they keep all activations anyway, and with several ranks,
        which must call each module equally often for any number of items.
        """
        if torch.is_grad_enabled() or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return (items,)
        return torch.split(items, CPU_CHUNK if items.device.type == "cpu" else GPU_CHUNK)

    def pooled_tokens(self, vision_tokens: Tensor) -> Tensor:
        """Return vision tokens (N, M, D_vision) projected and pooled: (N, rows * cols, D_llm)."""
        projected: Tensor = self.base.model.multi_modal_projector(vision_tokens)
        num, side, costs = len(vision_tokens), self.patches_per_side, self.token_costs
        if num == 0:
            return projected[:, : costs.grid_rows**2]
        planes = projected.transpose(1, 2).reshape(num, -1, side, side)
        pooled = functional.interpolate(planes, (costs.grid_rows, costs.grid_cols), mode="bilinear")
        return pooled.flatten(2).transpose(1, 2)

    def delta_tokens(self, motion: Tensor, residual: Tensor, frame_size_px: Tensor) -> Tensor:
        """Return the Delta-tokens of P slots, after the projector: (P, K_motion + K_residual, D_llm).

        Raises:
            CheckpointError: the model has no Delta-encoder.
        """
        if self.delta_encoder is None:
            raise CheckpointError(
                "the model has no Delta-encoder, but the input has P slots",
                "Leave the P slots out, or use a model that was finetuned with Delta-tokens.",
            )
        projector = self.base.model.multi_modal_projector
        device = execution_device(self.delta_encoder.some_branch)
        parts = (self.chunks(tensor.to(device)) for tensor in (motion, residual, frame_size_px))
        tokens = torch.cat([self.delta_encoder(*chunk) for chunk in zip(*parts, strict=True)])
        output: Tensor = projector(tokens.to(projector.linear_1.weight.dtype))
        return output

    def embed(self, batch: VideoLMBatch, visual: Tensor | None = None) -> Tensor:
        """Return the language model's inputs (B, L, D_llm): text, RGB, Delta-tokens and newlines in their places.

        Args:
            batch: the inputs.
            visual: result of `visual_embeddings` for the same frames and P slots, which are then not computed again.

        Raises:
            ValueError: `token_kind` does not have as many visual positions as frames and P slots give.
        """
        is_visual = batch.token_kind != TokenKind.TEXT
        embeddings: Tensor = self.base.get_input_embeddings()(batch.input_ids.masked_fill(is_visual, 0))
        embeddings = embeddings.to(is_visual.device)
        visual = self.visual_embeddings(batch) if visual is None else visual
        return _scatter(embeddings, is_visual, "visual", visual)

    def visual_embeddings(self, batch: VideoLMBatch) -> Tensor:
        """Return the batch's RGB tokens, Delta-tokens and newlines, in order, row by row: (T, D_llm).

        Raises:
            ValueError: `token_kind` does not have as many visual positions as frames and P slots give.
        """
        return self.arranged(batch.token_kind, self.rgb_tokens(batch.rgb), self._shown_delta_tokens(batch))

    def arranged(self, token_kind: Tensor, rgb_tokens: Tensor, delta_tokens: Tensor) -> Tensor:
        """Return RGB tokens (..., D_llm) and Delta-tokens (..., D_llm) with their newlines: (T, D_llm).

        Args:
            token_kind: (B, L) uint8; text is left out.
            rgb_tokens: RGB tokens in order, row by row over the batch.
            delta_tokens: Delta-tokens in order, row by row over the batch.

        Raises:
            ValueError: `token_kind` has another number of RGB or Delta positions.
        """
        kinds = token_kind[token_kind != TokenKind.TEXT]
        rows = self.base.model.image_newline.to(kinds.device).expand(len(kinds), -1)
        rows = _scatter(rows, kinds == TokenKind.RGB, "RGB", rgb_tokens)
        return _scatter(rows, kinds == TokenKind.DELTA, "DELTA", delta_tokens)

    def _shown_delta_tokens(self, batch: VideoLMBatch) -> Tensor:
        """Return the batch's Delta-tokens under its mode; "zero" acts after the projector, which has a bias."""
        if self.delta_encoder is not None and batch.delta_mode == "zero":
            shape = (len(batch.motion), self.delta_encoder.config.num_tokens, len(self.base.model.image_newline))
            return torch.zeros(shape, device=batch.motion.device)
        if self.delta_encoder is None and len(batch.motion) == 0:
            return torch.zeros((0, len(self.base.model.image_newline)), device=batch.input_ids.device)
        return self.delta_tokens(batch.motion, batch.residual, batch.frame_size_px)

    def forward(self, batch: VideoLMBatch, num_items_in_batch: Tensor | int | None = None) -> VideoLMOutput:
        """Run the model on a batch, from pixels to the loss.

        Args:
            batch: the inputs. With labels, every part of the model runs, on a zero-weighted dummy if the batch has no
                input for it, so that all ranks of a distributed run communicate equally often.
            num_items_in_batch: divisor of the summed loss, for gradient accumulation and several ranks (Trainer's
                name); None for this batch's number of labels.

        Returns:
            The next-token loss (section 3.3) and the logits.
        """
        if batch.labels is None:
            embeddings = self.embed(batch)
        else:  # vision tower before Delta-encoder on every rank, or ranks that shard them wait for different ones
            dummy = self._dummy_frame(batch)
            embeddings = self.embed(batch)
            embeddings = embeddings + (dummy + self._dummy_slot(batch)).to(embeddings.dtype)
        mask, positions = attention_of(batch, self.base.config._attn_implementation)
        hidden = self.base.model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        if batch.labels is None:
            return VideoLMOutput(loss=None, logits=self.base.lm_head(hidden))
        labels = batch.labels[:, 1:]
        wanted = labels != IGNORED_LABEL
        logits = self.base.lm_head(hidden.to(labels.device)[:, :-1][wanted]).to(labels.device)
        total = functional.cross_entropy(logits.float(), labels[wanted], reduction="sum")
        divisor = max(len(logits), 1) if num_items_in_batch is None else num_items_in_batch
        return VideoLMOutput(loss=total / divisor, logits=logits)

    def _dummy_frame(self, batch: VideoLMBatch) -> Tensor:
        """Return 0, computed through the vision tower if the batch has no frame for it."""
        device = batch.input_ids.device
        if len(batch.rgb):
            return torch.zeros((), device=device)
        frame = torch.zeros((1, self.vision_size_px, self.vision_size_px, 3), dtype=torch.uint8, device=device)
        return 0.0 * self.rgb_tokens(frame).float().mean().to(device)

    def _dummy_slot(self, batch: VideoLMBatch) -> Tensor:
        """Return 0, computed through the Delta-encoder if the batch has nothing for it."""
        device = batch.input_ids.device
        if self.delta_encoder is None or (len(batch.motion) and batch.delta_mode == "on"):
            return torch.zeros((), device=device)
        side = self.delta_encoder.config.grid_px
        motion = torch.zeros((1, 2, side, side), dtype=torch.int16, device=device)
        residual = torch.zeros((1, side, side, 3), dtype=torch.int16, device=device)
        size = torch.ones((1, 2), dtype=torch.int32, device=device)
        return 0.0 * self.delta_tokens(motion, residual, size).float().mean().to(device)

    def new_cache(self) -> Any:
        """Return an empty KV cache, transformers' `DynamicCache`, for `generate`."""
        from transformers import DynamicCache

        return DynamicCache(config=self.base.config.text_config)

    @torch.no_grad()
    def generate(
        self,
        batch: VideoLMBatch,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        visual: Tensor | None = None,
        cache: Any = None,
        streamer: Any = None,
        **options: Any,
    ) -> Tensor:
        """Continue each sequence of a left-padded batch until the checkpoint's end token (``<|im_end|>``).

        Args:
            batch: the prompts; labels are ignored.
            max_new_tokens: upper bound per sequence.
            temperature: 0 decodes greedily; above 0 samples.
            top_p: with a temperature, sample from the most likely tokens whose probabilities add up to this.
            visual: the prompts' visual embeddings, if they are known; see `embed`.
            cache: from `new_cache`. It must hold the first positions of the prompts; only the rest is computed.
                Afterwards it also holds all new tokens but the last.
            streamer: transformers' streamer, which gets each new token.
            options: further arguments of transformers' `generate`, such as a stopping criterion.

        Returns:
            (B, T) int64, the new tokens only, padded on the right.

        Raises:
            UsageError: the prompt and `max_new_tokens` exceed the model's context.
            ValueError: the batch has padding on the right.
        """
        length = batch.input_ids.shape[1]
        if not batch.attention_mask[:, -1].all():
            raise ValueError("a batch to continue must be padded on the left: its last position is padding")
        if length + max_new_tokens > self.context_tokens:
            raise UsageError(
                f"the prompt takes {length} tokens and the answer up to {max_new_tokens}, "
                f"the model's context is {self.context_tokens}",
                "Show fewer GOPs or fewer keyframes per GOP, or ask for a shorter answer.",
            )
        output: Tensor = self.base.generate(
            inputs_embeds=self.embed(batch, visual),
            attention_mask=batch.attention_mask,
            **cache_option(cache),
            generation_config=_generation_config(max_new_tokens, temperature, top_p),
            streamer=streamer,
            **options,
        )
        return output


def _check_base(config: Any) -> None:
    """Refuse base models whose vision features are not a plain grid of patches."""
    found = {
        "vision_config.model_type": config.vision_config.model_type,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "type of vision_feature_layer": type(config.vision_feature_layer).__name__,
    }
    expected = dict(zip(found, ("siglip_vision_model", "full", "int"), strict=True))
    for name, value in found.items():
        if value != expected[name]:
            raise CheckpointError(
                f"base model: {name} is {value!r}, expected {expected[name]!r}",
                "Use a LLaVA model with a SigLIP tower.",
            )


def _scatter(embeddings: Tensor, mask: Tensor, name: str, features: Tensor) -> Tensor:
    """Put feature rows into the positions of a mask, in order.

    Args:
        embeddings: (..., D).
        mask: (...) bool, which positions.
        name: of these positions, for the message.
        features: (..., D), one row per position of the mask.
    """
    rows = features.reshape(-1, embeddings.shape[-1])
    num_positions = int(mask.sum())
    if num_positions != len(rows):
        raise ValueError(f"token_kind has {num_positions} {name} positions, the inputs give {len(rows)} features")
    return embeddings.masked_scatter(mask[..., None], rows.to(embeddings))


def _generation_config(max_new_tokens: int, temperature: float, top_p: float) -> Any:
    """Return all settings, so that a checkpoint's generation_config.json, which often samples, is not used."""
    from transformers import GenerationConfig

    is_sampled = temperature > 0
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=is_sampled,
        temperature=temperature if is_sampled else 1.0,
        top_p=top_p if is_sampled else 1.0,
        top_k=0 if is_sampled else 50,  # 50 is "not set" to transformers, which warns about anything else when greedy
        repetition_penalty=1.0,
        num_beams=1,
    )
