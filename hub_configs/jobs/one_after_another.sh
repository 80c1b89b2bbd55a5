#!/bin/bash
# One life after another on this machine: bash one_after_another.sh. Stopped and started again, it goes on where it was.
# `singlelife train-all --executor shell` writes this file with your lives and flags.

LIVES=(sim_1 sim_2)
FLAGS=()
LAUNCH=(accelerate launch --num_processes=1 --num_machines=1 --mixed_precision=no --dynamo_backend=no)

failed=()
trap 'echo "Stopped at $life."; exit 130' INT
for life in "${LIVES[@]}"; do
  echo "$(date): $life"
  "${LAUNCH[@]}" -m singlelife.cli train --life "$life" --resume "${FLAGS[@]}" || failed+=("$life")
done
if [[ ${failed[*]} ]]; then
  echo "These lives failed: ${failed[*]}" >&2
  exit 1
fi
