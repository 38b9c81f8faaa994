"""Time of one scan in a fresh process, for revisions in turn, beside ``import monai`` in the same minute.

    python scripts/bench_start.py scan.nii.gz --revisions v0.1.0 . --repeat 5

A revision of git is unpacked into a temporary folder; ``.`` is the working tree. Each has converted networks of its
own: its first call, for which nothing is converted yet, is the row "first use". Then all rows are run in turn. Other
programs on the machine change wall seconds; seconds of the processor (of all threads) they change little.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from liver_pipeline.prediction.provenance import machine

ROOT = Path(__file__).resolve().parents[1]
PREDICTS = {"predict quality=false": ["quality=false"], "predict": []}


class Tree:
    """The code of a revision, and what it wrote."""

    def __init__(self, revision: str, folder: Path) -> None:
        self.revision, self.folder = revision, folder
        self.code = ROOT if revision == "." else folder / "code"
        folder.mkdir()
        if revision != ".":
            self.code.mkdir()
            packed = subprocess.run(
                ["git", "archive", revision, "liver_pipeline"], cwd=ROOT, check=True, stdout=subprocess.PIPE
            )
            subprocess.run(["tar", "-x"], cwd=self.code, input=packed.stdout, check=True)

    def predict(self, run: str, scan: Path, overrides: list[str]) -> tuple[float, float]:
        """Segment a scan; return wall and processor seconds."""
        words = [run, str(scan), str(self.mask), f"openvino_dir={self.folder / 'openvino'}", "overwrite=true"]
        return self.timed("-m", "liver_pipeline", "predict", *words, *overrides)

    @property
    def mask(self) -> Path:
        """The last mask."""
        return self.folder / "mask.nii.gz"

    def timed(self, *words: str) -> tuple[float, float]:
        """Run Python on this tree to its end; return wall and processor seconds."""
        around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.code), os.environ.get("PYTHONPATH", "")])}
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run([sys.executable, *words], env=around, cwd=self.folder, capture_output=True, text=True)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode:
            sys.exit(f"{self.revision}: {' '.join(words)}\n{ended.stderr}")
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run the rows in turn; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--run", default="default", help="a run folder, or weights in the box")
    parser.add_argument("--revisions", nargs="+", default=["."])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(revision, Path(folder) / str(number)) for number, revision in enumerate(options.revisions)]
        scan = options.scan.resolve()
        for tree in trees:
            tree.timed("-m", "liver_pipeline", "--help")
            figures[f"first use, quality=false, {tree.revision}"] = [tree.predict(options.run, scan, ["quality=false"])]
        for _ in range(options.repeat):
            figures.setdefault("import monai", []).append(trees[0].timed("-c", "import monai"))
            for tree in trees:
                figures.setdefault(f"--help, {tree.revision}", []).append(tree.timed("-m", "liver_pipeline", "--help"))
            for name, overrides in PREDICTS.items():
                for tree in trees:
                    once = tree.predict(options.run, scan, overrides)
                    figures.setdefault(f"{name}, {tree.revision}", []).append(once)
        same = len({hashlib.sha256(tree.mask.read_bytes()).hexdigest() for tree in trees}) == 1
    here = machine(torch.device("cpu"))
    print(f"{here['cores']} cores, {here['processor']}; load {load:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    print("| what | wall: each | median | of `import monai` | processor: least | median |\n|---|---|---|---|---|---|")
    monai = statistics.median(wall for wall, _ in figures["import monai"])
    for name, seconds in figures.items():
        walls, cpus = [wall for wall, _ in seconds], [cpu for _, cpu in seconds]
        median, each = statistics.median(walls), ", ".join(f"{wall:.2f}" for wall in walls)
        told = [f"{figure:.2f}" for figure in (median, median / monai, min(cpus), statistics.median(cpus))]
        print(f"| {name} | {each} | {' | '.join(told)} |")
    print(f"\nmasks of all revisions the same to the byte: {same}")


if __name__ == "__main__":
    main()
