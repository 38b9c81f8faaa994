"""Feed damaged files to the readers until the time is up: each must give a scan or a coded error, and nothing else.

    nice python scripts/fuzz_readers.py FOUND --seconds 3600

Files of ``make_bad_nifti.py`` are changed at random (bits, numbers, cut, repeated, spliced; compressed again so that
the header is reached), or guided by coverage with ``--engine atheris`` where that is installed. What a reader does not
turn into a code of its own - another exception, READER_FAILED, a crash, more than 20 s - is kept in FOUND, one input a
cause. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import importlib.util
import json
import multiprocessing
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.pictures import Pictures
from liver_pipeline.io.volumes import read_label_map, read_scan

SLOW_S = 20.0
GREY, COLOUR = Pictures([8, 8, 1]), Pictures([8, 8, 1], channels=3)
BATCH = 500  # inputs a child process reads: a crash of a C++ library ends the child alone
NUMBERS = [
    struct.pack(kind, value)
    for kind in ("<h", ">h", "<i", ">i", "<f", ">f")
    for value in (0, -1, 1, 2, 7, 32767, -32768)
] + [struct.pack(kind, value) for kind in ("<f", ">f", "<d") for value in (float("nan"), float("inf"), 1e30, -0.5)]
TEXTS = [b"\0" * 4, b"\xff" * 8, b"nan", b"-1", b"0", b"999999999999", b"1e400", b"\\", b"(", b"%s", b"\r\n", b"none"]


def seeds(folder: Path) -> list[Path]:
    """Write the set of malformed and good files below ``folder``; return those of at most 200 kB, and the folders."""
    script = Path(__file__).with_name("make_bad_nifti.py")
    spec = importlib.util.spec_from_file_location("make_bad_nifti", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_all(folder / "set")
    entries = [*(folder / "set" / "scans").iterdir(), *(folder / "set" / "labels").iterdir()]
    return sorted(entry for entry in entries if entry.is_dir() or 0 < entry.stat().st_size < 200_000)


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return ``data`` with one to six changes, most of them near its beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        end = len(changed) if rng.random() < 0.3 else min(len(changed), 700)
        at = rng.randrange(end + 1)
        match rng.randrange(7):
            case 0 | 1 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 2 | 3:
                part = rng.choice(NUMBERS)
                changed[at : at + len(part)] = part
            case 4:
                part = rng.choice(TEXTS)
                changed[at : at + rng.choice((0, len(part)))] = part
            case 5:
                length = rng.randrange(1, 64)
                changed[at : at + length] = changed[at : at + length] * rng.choice((0, 2, 3))
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                changed[at : at + rng.randrange(400)] = other[start : start + rng.randrange(400)]
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return ``data`` changed; what gzip holds is changed inside, nine times in ten."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.9:
        return gzip.compress(mutated(unpacked(data), others, rng), 1)
    return mutated(data, others, rng)


def write_damaged(seed: Path, target: Path, others: list[bytes], rng: random.Random) -> None:
    """Write a damaged copy of a file, or of a folder with one or two of its files changed."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if seed.is_file():
        target.write_bytes(damaged(seed.read_bytes(), others, rng))
        return
    shutil.copytree(seed, target)
    files = sorted(file for file in target.rglob("*") if file.is_file())
    for file in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
        file.write_bytes(damaged(file.read_bytes(), others, rng))


def complaint(path: Path) -> tuple[str, str]:
    """Read ``path`` as CT, MR, label map and picture; return (outcome, "") or ("", what went wrong)."""
    outcome = "read"
    for read in (read_scan, lambda one: read_scan(one, modality="mr"), read_label_map, GREY.read, COLOUR.read):
        start = time.monotonic()
        try:
            read(path)
        except IntakeError as reason:
            outcome = reason.code
            if reason.code == "READER_FAILED":
                return "", "".join(traceback.format_exception(reason.__cause__))
        except Exception:
            return "", traceback.format_exc()
        if time.monotonic() - start > SLOW_S:
            return "", f"slow: {time.monotonic() - start:.0f} s"
    return outcome, ""


def keep(found: Path, path: Path, why: str) -> None:
    """Keep the input under a name made from where it went wrong; one input a cause."""
    place = [line.strip() for line in why.splitlines() if line.strip().startswith("File ")][-2:]
    kind = why.strip().splitlines()[-1].split(":")[0]
    name = hashlib.sha256("".join((*place, kind)).encode()).hexdigest()[:12]
    if (found / f"{name}.txt").exists():
        return
    (found / f"{name}.txt").write_text(f"{path.name}\n{why}\n")
    target = found / f"{name}.{path.name}"
    shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)


def run_batch(inputs: list[Path], scratch: Path, found: Path, seed: int, until: float) -> None:
    """Read a batch of damaged inputs; runs in a process of its own."""
    warnings.simplefilter("ignore")
    rng, outcomes = random.Random(seed), Counter[str]()  # noqa: S311  not for secrets
    contents = [file.read_bytes() for file in inputs if file.is_file()]
    for _ in range(BATCH):
        if time.monotonic() > until:
            break
        one = rng.choice(inputs)
        target = scratch / one.name
        write_damaged(one, target, contents, rng)
        (scratch / "current.txt").write_text(str(target))
        outcome, why = complaint(target)
        outcomes[outcome or "FOUND"] += 1
        if why:
            keep(found, target, why)
    (scratch / "outcomes.json").write_text(json.dumps(outcomes))


def fuzz_at_random(found: Path, seconds: float, seed: int) -> Counter[str]:
    """Read damaged inputs, a child process a batch, until the time is up; return how many ended how."""
    until, outcomes = time.monotonic() + seconds, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        inputs = seeds(Path(folder))
        for one in inputs:
            complaint(one)  # ITK is loaded before the children are made
        while time.monotonic() < until:
            scratch = Path(tempfile.mkdtemp(dir=folder))
            child = multiprocessing.Process(target=run_batch, args=(inputs, scratch, found, seed, until))
            child.start()
            child.join()
            if child.exitcode != 0:
                current = Path((scratch / "current.txt").read_text())
                keep(found, current, f"crash of {current.name}: exit code {child.exitcode}")
                outcomes["FOUND"] += 1
            else:
                outcomes.update(json.loads((scratch / "outcomes.json").read_text()))
            shutil.rmtree(scratch)
            seed += 1
    return outcomes


def unpacked(data: bytes) -> bytes:
    """Return what gzip holds, if it is gzip and whole; else ``data``."""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        return gzip.decompress(data)
    return data


def fuzz_by_coverage(found: Path, seconds: float, seed: int) -> None:
    """Let atheris look for inputs that reach new code; it ends the process when the time is up."""
    import atheris

    scratch = Path(tempfile.mkdtemp())
    corpus = scratch / "corpus"
    corpus.mkdir()
    for file in seeds(scratch):
        if file.is_file():
            (corpus / file.name).write_bytes(unpacked(file.read_bytes()))

    def one_input(data: bytes) -> None:
        target = scratch / "input"
        target.write_bytes(data)
        _, why = complaint(target)
        if why:
            keep(found, target, why)

    warnings.simplefilter("ignore")
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-max_len=60000",
                   "-verbosity=0"], one_input)  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description="Feed damaged files to the readers until the time is up.")
    parser.add_argument("found", type=Path, help="a new folder for the inputs that went wrong")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random", help="default random")
    arguments = parser.parse_args()
    arguments.found.mkdir(parents=True, exist_ok=True)
    outcomes: Any = Counter()
    if arguments.engine == "atheris":
        fuzz_by_coverage(arguments.found, arguments.seconds, arguments.seed)
    else:
        outcomes = fuzz_at_random(arguments.found, arguments.seconds, arguments.seed)
    causes = sorted(arguments.found.glob("*.txt"))
    print(f"{sum(outcomes.values())} inputs: {dict(outcomes.most_common())}; {len(causes)} causes in {arguments.found}")
    return 1 if causes else 0


if __name__ == "__main__":
    sys.exit(main())
