#!/bin/bash
# Stages 1 and 2 on one machine: primitives of all videos in $VIDEOS, and every slot as RGB for pre-training.
set -euo pipefail

cope encode "$VIDEOS"
cope extract --fusion 30 --store-frames all
cope cache verify
