#!/bin/bash
# One training stage on several machines: `sbatch --nodes 2 slurm.sh pretrain`, `sbatch --nodes 8 slurm.sh finetune`.
# Submit the same job again to continue a run that was stopped.
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --signal B:TERM@120
set -euo pipefail

hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
export RANKS="--nnodes $SLURM_NNODES --nproc-per-node 8 --rdzv-id $SLURM_JOB_ID --rdzv-backend c10d --rdzv-endpoint ${hosts[0]}:29500"
export OMP_NUM_THREADS=4
# Checked before the ranks start: all of them must agree on it.
if [ -e "$COPE_RUNS/paper-$1/status.json" ]; then export RESUME=--resume; fi
srun bash "$1.sh"
