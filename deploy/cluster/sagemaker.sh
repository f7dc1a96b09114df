#!/usr/bin/env bash
# The entry point of a SageMaker training job: AlgorithmSpecification.ContainerEntrypoint is
#
#   ["bash", "/opt/ml/input/data/code/sagemaker.sh", "yolox-x", "data.root=/opt/ml/input/data/train"]
#
# with this folder as the input channel "code" and the dataset as the channel "train". A run is kept
# in /opt/ml/checkpoints, which SageMaker copies to CheckpointConfig.S3Uri and back into a job that
# is resumed. Several instances need a shared folder: set OUTPUT to one on FSx or EFS.
set -euo pipefail
root=${SAGEMAKER_ROOT:-/opt/ml}
output=${OUTPUT:-$root/checkpoints/run}
case $output in
*://*)
  echo "error: OUTPUT must be a folder, got the URL $output; checkpoints go to S3 anyway" >&2
  exit 2
  ;;
esac
read -r first PET_NNODES < <(python -c '
import json, sys
hosts = sorted(json.load(open(sys.argv[1]))["hosts"])
print(hosts[0], len(hosts))' "$root/input/config/resourceconfig.json")
if [ "$PET_NNODES" -gt 1 ] && [ -z "${OUTPUT:-}" ]; then
  echo "error: $PET_NNODES instances need a folder in common; set OUTPUT to one on FSx or EFS" >&2
  exit 2
fi
export PET_NNODES PET_NPROC_PER_NODE=${PET_NPROC_PER_NODE:-gpu}
export PET_RDZV_ENDPOINT=$first:29400 PET_RDZV_ID=${TRAINING_JOB_NAME:-oculox}
# In the background, so that SIGTERM, which announces the end of a spot instance, is passed on.
bash "$(dirname "$0")/node.sh" "$output" "$@" &
trap 'kill -TERM "$!"' TERM
code=0
while kill -0 "$!" 2>/dev/null; do
  wait "$!" && code=0 || code=$?
done
[ "$code" -ne 0 ] || cp "$output/best.pt" "$output/config.yaml" "$root/model/"
exit "$code"
