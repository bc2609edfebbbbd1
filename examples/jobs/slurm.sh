#!/bin/bash
# Eight ranks draw the prompts; a rank that is killed goes on where it was when the job runs again.
#SBATCH --job-name=geneval
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# A folder that all nodes see.
RUN=${RUN:-$SLURM_SUBMIT_DIR/out/parm}
GENEVAL=${GENEVAL:-$SLURM_SUBMIT_DIR/target/release/examples/geneval}
mkdir -p "$RUN"

# srun tells each process its rank, and Slurm shows each its own GPU.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" "$GENEVAL" --quiet --prompts "$SLURM_SUBMIT_DIR/evaluation_metadata.jsonl" --strategy parm \
  --model-dir "$SLURM_SUBMIT_DIR/Janus-Pro-1B" --format q8_0 --device cuda --jobs 1 \
  --pictures "$RUN/pictures" --out "$RUN/results.jsonl"

# Outside of srun there is one process, and merging needs no model.
"$GENEVAL" --merge --out "$RUN/results.jsonl"
