#!/bin/bash
# Many small jobs on one node, in one Slurm job or each task of an array. Sent away and requeued before it is through,
# it goes on where it was. Runs without Slurm too:
#
#   sbatch --array=0-3 slurm_array.sh jobs.txt      # each task takes every fourth line
#   bash slurm_array.sh jobs.txt
#
#SBATCH --job-name=many
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
# The last line: TERM to this script 60 s before the time is over. At a preemption Slurm sends it too, and KILL after
# its KillWait (30 s by default), which is why the grace below is shorter.

set -u
jobs=${1:?usage: slurm_array.sh FILE, with a command on each line}
task=${SLURM_ARRAY_TASK_ID:-0}
tasks=${SLURM_ARRAY_TASK_COUNT:-1}
log=${jobs}.${task}.log

# In the background, because bash looks at a signal only between commands, or while it waits.
awk -v n="$tasks" -v i="$task" 'NR % n == i' "$jobs" |
    corelane batch -j "${SLURM_CPUS_PER_TASK:-2}" --joblog "$log" --resume --retries 1 --grace 20 &
batch=$!
trap 'term=1; kill -TERM "$batch"' TERM
while :; do
    term=
    wait "$batch"
    status=$?
    [ -z "$term" ] && break # else the trap has ended the wait, and not the batch
done

# 143: TERM came before all was done. What is in the log is done; the rest is for the next time.
if [ "$status" = 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
