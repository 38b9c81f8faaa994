#!/usr/bin/env bash
# All GPU figures in one call of less than four minutes, those that are wanted most first; a line of JSON for each as it comes.
#
#   scripts/bench_gpu.sh OUT [BEFORE]
#
# OUT     folder for figures.jsonl, table.md, tests.log and log.txt, which has what the parts said.
# BEFORE  folder with an older tree of this package (git archive REVISION | tar -x -C BEFORE), timed beside this one.
#
# SECONDS_IN_ALL=232 ends it early: parts that no longer fit are left out. WORKERS is the number of loader threads.
# DRY=1 runs everything once, tiny, on a processor. Packages come from PYTHONPATH; SimpleITK, itk and the metadata of this
# package, which a bare machine may lack, are put there empty. Ratios hold within one call only; the card is in each line.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
before=${2:+$(cd "$2" && pwd)}
end=$((SECONDS + ${SECONDS_IN_ALL:-232}))
python=${PYTHON:-python3}
work=$(mktemp -d)
lines=$out/figures.jsonl
: >"$lines"
export PYTHONUNBUFFERED=1

site=$work/site
mkdir -p "$site"
metadata() { # NAME VERSION: as if it were installed
    "$python" -c "import importlib.metadata as m; m.version('$1')" 2>/dev/null && return
    mkdir -p "$site/${1//-/_}-$2.dist-info"
    printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "$1" "$2" >"$site/${1//-/_}-$2.dist-info/METADATA"
}
metadata itk 5.4.7
metadata liver-pipeline "$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/pyproject.toml" | head -1)"
"$python" -c 'import SimpleITK' 2>/dev/null || { mkdir -p "$site/SimpleITK" && : >"$site/SimpleITK/__init__.py"; }
export PYTHONPATH=$here:$site${PYTHONPATH:+:$PYTHONPATH}

if [ -n "${DRY:-}" ]; then
    train=(--patch 32 --batch 2 --precision f32 --shape 96 88 64 --iterations 2 --warmup 1 --workers 1 --threads 1)
    device=cpu slices=12 scans=2 repeat=2 seconds=5 few=6 slow=9
else
    train=(--patch 128 --batch 2 --precision bf16 --shape 160 144 136 --iterations 400 --warmup 40 --workers "${WORKERS:-14}")
    device=cuda slices=400 scans=8 repeat=4 seconds=6 few=30 slow=1
fi
data=$work/data

group() { # NAME LIMIT SCRIPT OPTIONS...: run it if there is time, each of its parts for at most LIMIT seconds
    local name=$1 limit=$2 script=$3 left=$((end - SECONDS)) started=$SECONDS had
    shift 3
    if [ "$left" -lt $((limit / 2)) ]; then
        echo "{\"part\": \"$name\", \"failed\": \"left out: $left s were left\"}" | tee -a "$lines"
        return
    fi
    had=$(wc -l <"$lines")
    timeout -k 2 "$left" "$python" "$here/scripts/$script" "$@" --limit "$limit" --lines "$lines" >"$work/log" 2>&1 ||
        echo "{\"part\": \"$name\", \"failed\": \"exit code $?\"}" >>"$lines"
    { echo "=== $name" && cat "$work/log"; } >>"$out/log.txt"
    tail -n "+$((had + 1))" "$lines"
    echo "# $name: $((SECONDS - started)) s, $((end - SECONDS)) s left"
}
train() { # LIMIT NETWORK OPTIONS...
    local limit=$1 network=$2
    shift 2
    group "train_${network}_$2" "$limit" bench_training.py --network "$network" "${train[@]}" --seconds "$seconds" --folder "$data" "$@"
}
infer() { # LIMIT OPTIONS...
    local limit=$1
    shift
    group "infer_$2" "$limit" bench_inference.py --device $device --slices $slices --scans $scans --repeat $repeat --keep "$data/scans" "$@"
}

# side by side, untimed: data, nnU-Net's preprocessing, tests
(timeout $((60 * slow)) "$python" "$here/scripts/bench_training.py" --prepare --folder "$data" "${train[@]}" >"$work/prepare.log" 2>&1) &
(timeout $((60 * slow)) "$python" "$here/scripts/bench_inference.py" --prepare --slices $slices --keep "$data/scans" >"$work/scan.log" 2>&1) &
(cd "$here" && timeout $((60 * slow)) "$python" -m pytest -q -p no:cacheprovider -m gpu tests/inferers/test_streaming.py tests/test_losses.py \
    tests/handlers/test_step_losses.py >"$out/tests.log" 2>&1) &
wait
cat "$work/prepare.log" "$work/scan.log" >"$out/log.txt"
tail -n 5 "$out/tests.log"
echo "# prepared: $((end - SECONDS)) s left"

older=() # with the figures of this tree
[ -n "$before" ] && older=(before --before "$before")
# first what was never measured: too little time was left for it
infer $((40 * slow)) --chains folder
train $((40 * slow)) dynunet --parts network ours
train $((60 * slow)) unet3d --parts stock --iterations $few --warmup $((few / 6))
infer $((40 * slow)) --chains ours stock # and their labels against each other
train $((45 * slow)) unet3d --parts network ours loader
[ -n "$before" ] && infer $((35 * slow)) --chains "${older[@]}"
train $((40 * slow)) unet3d --parts nnunet
[ -n "$before" ] && train $((40 * slow)) unet3d --parts "${older[@]}" --iterations $few

"$python" - "$lines" <<'PY' | tee "$out/table.md"
import json, sys

rows = [json.loads(line) for line in open(sys.argv[1])]
alone = {row["network"]: row["iterations_per_second"] for row in rows if row.get("part") == "network" and "steps" in row}
for row in rows:
    name = " ".join(str(row[key]) for key in ("network", "slices", "part", "chain") if key in row)
    if "failed" in row:
        print(f"{name}: {row['failed']}")
    elif "iterations_per_second" in row:
        rate = row["iterations_per_second"]
        share = f"{rate / alone[row['network']]:.0%} of the network alone" if row["network"] in alone else ""
        print(f"{name}: {rate:.2f} steps/s, {share}, waiting {row['data_wait_share']:.1%}, GPU {row['peak_gpu_gb']} GB")
    elif "seconds" not in row:
        print(json.dumps(row))
    else:
        stages = ", ".join(f"{key} {value:.2f}" for key, value in {**row["seconds"], **row.get("stages", {})}.items())
        print(f"{name}: {row['total']:.2f} s ({stages}), scans/s {row.get('scans_per_second')}, GPU {row.get('peak_gpu_gb')} GB")
PY
rm -rf "$work"
