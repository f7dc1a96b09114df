#!/usr/bin/env bash
# One machine's part of a training run on one or several; the files beside this one start it.
#
#   node.sh OUTPUT RECIPE [SETTING...]
#
# Starts the run, or goes on with the one in OUTPUT, which is a folder that all machines share.
# torchrun reads from the environment how many machines and devices there are and where they meet:
# PET_NNODES, PET_NPROC_PER_NODE, PET_RDZV_ENDPOINT (host:port), PET_RDZV_ID and PET_MAX_RESTARTS.
set -euo pipefail
output=$1 recipe=$2
shift 2
export PET_RDZV_BACKEND=${PET_RDZV_BACKEND:-c10d} PET_MAX_RESTARTS=${PET_MAX_RESTARTS:-3}
# SIGUSR1 announces the end of a job: torchrun passes it on, and each process saves its state.
# Older versions of PyTorch know the second name only.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export TORCHELASTIC_SIGNALS_TO_HANDLE=$PET_SIGNALS_TO_HANDLE
if [ -e "$output/last.pt" ]; then
  exec torchrun -m oculox train --resume "$output"
fi
exec torchrun -m oculox train "$recipe" "$@" --output "$output"
