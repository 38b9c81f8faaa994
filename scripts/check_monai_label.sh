#!/usr/bin/env bash
# Run MONAI Label 0.8.5 on three bundles and compare: scripts/check_monai_label.sh [FOLDER]
#
# FOLDER (a temporary one by default; about 8 GB) gets an environment of its own, since MONAI Label needs other versions of
# pydicom and numpy than liver-pipeline; the runs; and what the server wrote. `liver-pipeline` of the environment that calls
# this makes the runs and the masks to compare with. Ends with 1 if a mask differs, or if a training does not leave the better
# of its weights and those that were there.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
port=${PORT:-8111}
mkdir -p "$work" && cd "$work"

if [ ! -e env/ready ]; then
  python3 -m venv env
  env/bin/pip install --quiet monailabel==0.8.5 'pydicom<3' 'pynetdicom<3' dicomweb-client==0.59.3 \
    isal connected-components-3d openvino segmentation-models-pytorch dynamic-network-architectures
  touch env/ready
fi
env/bin/pip install --quiet --no-deps --force-reinstall "$repo"  # without its dependencies, which it shares or does not need here

if [ ! -e runs/ready ]; then
  rm -rf runs
  liver-pipeline demo runs/demo
  liver-pipeline train runs/slices --network unet2d --data phantom dataset_dir=runs/demo/data n_phantoms=10 'spacing=[4,4,4]' \
    'roi_size=[64,64,1]' 'network_def::network::features=[8,8,16,16,32,8]' max_epochs=25 num_workers=0 learning_rate=1e-2
  touch runs/ready
fi

# the server's folders: bundles without anything of the cases, and scans with labels to train on
rm -rf app studies masks
PATH=$PWD/env/bin:$PATH PYTHONPATH= monailabel apps --name monaibundle --download --output . > apps.log && mv monaibundle app
liver-pipeline export runs/demo/run app/model/demo --format bundle
liver-pipeline export runs/slices app/model/slices --format bundle
liver-pipeline export default app/model/default --format bundle
mkdir -p studies/labels/final masks
for n in 1 2 3 4; do
  cp runs/demo/data/volume-$n.nii.gz studies/scan$n.nii.gz
  cp runs/demo/data/segmentation-$n.nii.gz studies/labels/final/scan$n.nii.gz
done

PATH=$PWD/env/bin:$PATH PYTHONPATH= monailabel start_server --app app --studies studies --host 127.0.0.1 --port "$port" \
  --conf models demo,default,slices --conf zoo_source local --conf sam2 false > server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 180); do curl -sf "http://127.0.0.1:$port/info/" > info.json && break; sleep 1; done

failed=0
infer() {  # MODEL RUN: the server's mask of a scan is that of predict
  curl -sf -X POST "http://127.0.0.1:$port/infer/$1?image=scan1&output=image" -F 'params={"device": "cpu"}' -o "masks/$1.nii.gz"
  liver-pipeline predict "$2" studies/scan1.nii.gz "masks/$1_predict.nii.gz" --overwrite device=cpu > /dev/null
  python3 - "$1" <<'PY' || failed=1
import sys
import nibabel as nib
import numpy as np

name = sys.argv[1]
theirs, ours = (np.asarray(nib.load(f"masks/{name}{end}.nii.gz").dataobj) for end in ("", "_predict"))
differing = int((theirs != ours).sum()) if theirs.shape == ours.shape else -1
print(f"{name}: {differing} of {ours.size} voxels differ from predict; {int((ours > 0).sum())} are liver or tumor")
sys.exit(differing != 0)
PY
}
train() {  # MODEL: POST /train trains so many epochs; only weights that validate better than those that are there replace them
  before=$(sha256sum < "app/model/$1/models/model.pt")
  curl -sf -X POST "http://127.0.0.1:$port/train/$1?run_sync=true" -H 'Content-Type: application/json' \
    -d '{"device": "cpu", "max_epochs": 2, "val_split": 0.25}' > "train_$1.json" || true
  new=no; [ "$before" = "$(sha256sum < "app/model/$1/models/model.pt")" ] || new=yes
  python3 - "$1" "$new" <<'PY' || failed=1
import csv
import re
import sys
from pathlib import Path

name, new = sys.argv[1:]
rows = list(csv.DictReader(Path(f"app/model/{name}/log.csv").open()))
there = float(re.findall(r"weights that are there score ([0-9.]+);", Path("server.log").read_text())[-1])
best = max(float(row["val_mean_dice"]) for row in rows if row["val_mean_dice"])
print(f"{name}: POST /train: {len(rows)} epochs of 2, Dice {there:.3f} before, {best:.3f} at best, new weights: {new}")
close = abs(best - there) < 1e-3  # said with three digits
sys.exit(len(rows) != 2 or not (close or (best > there) == (new == "yes")))
PY
}

infer demo runs/demo/run
infer slices runs/slices
infer default default
for model in demo slices; do
  train $model
  infer $model "app/model/$model"
  train $model  # again: as many epochs more
done
exit $failed
