#!/bin/bash
# Stage 3: global batch 1024, 113,000 steps, learning rate 6.25e-5 * 1024 / 64, 1000 steps of warm-up (--recipe paper).
set -euo pipefail

torchrun ${RANKS:---nproc-per-node 8} -m -- cope_cli train pretrain --run paper-pretrain ${RESUME:-} \
    --model lmms-lab/LLaVA-Video-7B-Qwen2 --recipe paper --batch-size 16 --dtype bfloat16 --workers 6
