#!/bin/bash
# Stage 4: global batch 128, 10,900 steps, learning rate 1e-5, 3 % warm-up, 4 keyframes and 4 P slots per GOP.
set -euo pipefail

torchrun ${RANKS:---nproc-per-node 8} -m -- cope_cli train finetune --run paper-finetune ${RESUME:-} \
    --model lmms-lab/LLaVA-Video-7B-Qwen2 --delta-encoder paper-pretrain --data "$DATA" --video-root "$VIDEOS" \
    --keyframes 4 --global-batch 128 --batch-size 1 --steps 10900 --lr 1e-5 --warmup 327 \
    --dtype bfloat16 --fsdp --activation-checkpointing --group-by-length --workers 6
