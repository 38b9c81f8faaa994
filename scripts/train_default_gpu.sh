#!/usr/bin/env bash
# Train the default weights in one call on a machine with a GPU and no network.
# Usage: OUT=folder scripts/train_default_gpu.sh MATERIAL SECONDS LIMIT [options of make_default_weights.py]
# MATERIAL: folder of prepare_default_training.py; SECONDS: of training; LIMIT: after so many seconds it is interrupted, and
# what was exported stays. WHEELS, if set, is a folder of wheels to install first, into SITE.
set -uo pipefail
material=$1 seconds=$2 limit=$3
shift 3
if [ -n "${WHEELS:-}" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "${SITE:=$(mktemp -d)}" "$WHEELS"/*.whl || exit
  export PYTHONPATH=$SITE:$material/site:$PWD
fi
export PYTHONUNBUFFERED=1
timeout --signal=INT --kill-after=10 "$limit" python3 scripts/make_default_weights.py \
  "${RUN:-$(mktemp -d)/run}" "$material" "$OUT" --seconds "$seconds" "$@" 2>&1 | tee "$OUT/train.log"
