#!/bin/bash
# Reads all data of stage 4 and runs ten steps of it on one GPU: token lengths, problems, seconds per step, memory, disk.
set -euo pipefail

cope train check --model lmms-lab/LLaVA-Video-7B-Qwen2 --delta-encoder paper-pretrain --data "$DATA" \
    --video-root "$VIDEOS" --keyframes 4 --batch-size 1 --lora 64 --dtype bfloat16 --measure 10
