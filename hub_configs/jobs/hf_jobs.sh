#!/bin/bash
# One Hugging Face Job per life: bash hf_jobs.sh. Needs `hf auth login`, or HF_TOKEN; the token goes along as a secret.
# `singlelife train-all --executor hf-jobs` writes this file with your lives and flags, and with --submit starts the jobs.
# A job's disk is gone when it ends: the model is pushed to the Hub, and a job that is started again goes on from there.
set -euo pipefail

LIVES=(sim_1 sim_2)
FLAGS=(--push-to-hub --resume hub)
PACKAGE=singlelife
IMAGE=pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime
OPTIONS=(--flavor l4x1 --timeout 24h)

for life in "${LIVES[@]}"; do
  hf jobs run --detach --secrets HF_TOKEN "${OPTIONS[@]}" "$IMAGE" \
    bash -c 'pip install "$0" && exec accelerate launch -m singlelife.cli train "$@"' \
    "$PACKAGE" --life "$life" "${FLAGS[@]}"
done
