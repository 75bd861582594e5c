#!/bin/bash
# A training under Slurm: sbatch [--nodes 4] examples/slurm.sh runs/first my.txt --recipe recipe.toml
# The first word is the run folder, on a disk that all nodes see. PROCESSES are those of a node, one for each of its GPUs.
# After a signal (a preemption, or the time limit in two minutes) everything is saved, the job goes back into the queue,
# and the run goes on where it stood. The partition's GraceTime has to be long enough for a checkpoint.
#SBATCH --job-name=hornbook
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
run=$1
shift
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${PROCESSES:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.$SLURM_RESTART_COUNT" --rdzv-endpoint "$first:${PORT:-29500}" \
    -m hornbook train "$@" --out "$run"
code=$?
if tail -n 1 "$run/metrics.jsonl" | grep -q '"reason":"interrupted"'; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
