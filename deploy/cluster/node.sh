#!/usr/bin/env bash
# One machine's part of a training run on one or several; the files beside this one start it.
#
#   node.sh OUTPUT RECIPE [SETTING...]
#
# Starts the run, or resumes the one in OUTPUT: a folder that all machines share or, for one
# machine, a URL such as s3://bucket/runs/coco.
# torchrun reads from the environment how many machines and devices there are and where they meet:
# PET_NNODES, PET_NPROC_PER_NODE, PET_RDZV_ENDPOINT (host:port), PET_RDZV_ID and PET_MAX_RESTARTS.
set -euo pipefail
output=$1 recipe=$2
shift 2
# A machine that comes back could not join: the others would not tell it where they meet.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export PET_RDZV_BACKEND=${PET_RDZV_BACKEND:-c10d} PET_MAX_RESTARTS=${PET_MAX_RESTARTS:-3}
# SIGUSR1 announces the end of a job: torchrun passes it on, and each process saves its state.
# Older versions of PyTorch know the second name only.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export TORCHELASTIC_SIGNALS_TO_HANDLE=$PET_SIGNALS_TO_HANDLE
begun=
case $output in
*://*)
  if [ "${PET_NNODES:-1}" != 1 ]; then
    echo "error: OUTPUT must be a folder that all machines share, got the URL $output" >&2
    exit 2
  fi
  begun=$(python -c '
import sys
from oculox.addresses import Address
from oculox.errors import OculoxError
try:
    print("yes" if (Address(sys.argv[1]) / "last.pt").exists() else "")
except OculoxError as error:
    sys.exit(f"error: {error}")' "$output")
  ;;
*) [ ! -e "$output/last.pt" ] || begun=yes ;;
esac
if [ -n "$begun" ]; then
  exec torchrun -m oculox train --resume "$output"
fi
exec torchrun -m oculox train "$recipe" "$@" --output "$output"
