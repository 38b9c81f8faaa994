"""Evaluate a folder of predictions against a folder of references: pairs by name, cases in parallel, tables out."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from liver_pipeline.intake import GRID_CLOSE, GRID_SAME, IntakeError, corner_shift_mm, spacing_of
from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.lits import official_case, official_summary
from liver_pipeline.metrics.overlap import LIVER, TUMOR, Counts, confusion_matrix, overlap_figures
from liver_pipeline.metrics.statistics import summarize
from liver_pipeline.metrics.summaries import summarize_cases
from liver_pipeline.scans import Scan, read_label_map

PROTOCOLS = ("lits", "lits-official", "plain")
SUFFIXES = (".nii.gz", ".nii")
ACCEPTED = ("FEW_SLICES", "THICK_SLICE")  # they hinder a network, not a figure
BYTES_PER_VOXEL = 16  # peak of one case over the voxels of its volume; scripts/bench_evaluation.py measures it
PROCESS_BYTES = 300_000_000  # Python with the libraries, before the first case
SMALL_JOB_VOXELS = 20_000_000  # with fewer voxels in all, starting processes costs more than it gains
LESION_COLUMNS = (
    "case", "kind", "id", "status", "volume_ml", "voxels", "diameter_mm", "perpendicular_mm", "size_class", "slice",
    "centroid_ras_mm", "centroid_lps_mm", "group_iou", "matched_ids", "overlap_voxels",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One case: its name and the two files."""

    case: str
    pred: Path
    label: Path


@dataclass(frozen=True)
class Failure:
    """Why a case has no figures: a code and one line."""

    code: str
    detail: str


class CaseError(ValueError):
    """A case that cannot be scored; ``code`` says why."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


def evaluate_folders(
    pred_dir: Path | str,
    label_dir: Path | str,
    output_dir: Path | str,
    *,
    protocol: str = "lits",
    overwrite: bool = False,
    cases: Collection[str] | None = None,
    min_lesion_ml: float = 0.0,
    workers: int | None = None,
    memory_gb: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score every prediction and write ``metrics.json``, ``cases.csv`` and ``lesions.csv``.

    Args:
        pred_dir: Folder of predicted label maps (NIfTI), searched with its sub-folders.
        label_dir: Folder of reference label maps of the same names (see :func:`case_name`).
        output_dir: Where the tables go; made if absent.
        protocol: ``lits`` (the challenge's figures as meant, and everything else), ``lits-official`` (the challenge's
            program figure for figure) or ``plain`` (everything but LiTS's own figures).
        overwrite: Replace tables that are there.
        cases: Names of the cases to score; None scores all, and then each folder must hold a file for every case.
        min_lesion_ml: Smaller lesions are left out of lesion-wise figures (not of the LiTS ones).
        workers: Processes; None takes one per core as far as ``memory_gb`` reaches.
        memory_gb: Memory that all processes may take together; None takes half of the machine's.
        progress: Show a progress bar on a terminal.

    Returns:
        What ``metrics.json`` holds: ``protocol``, ``n_cases``, ``global``, ``summary``, ``cases``, ``failures`` (case to
        code and detail), ``versions`` and, but for ``lits-official``, ``detection``, ``confusion``, ``agreement`` and
        ``tumor_free``. A case that cannot be scored is in ``failures`` and does not stop the others. Figures that an
        empty mask leaves undefined are None.

    Raises:
        FileNotFoundError: If a folder is missing or holds no label map.
        FileExistsError: If a table is there and ``overwrite`` is false.
        ValueError: If the protocol is unknown, or a case lacks its prediction or reference.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    output = Path(output_dir)
    refuse_existing([output / name for name in ("metrics.json", "cases.csv", "lesions.csv")], overwrite)
    pairs, failures = find_pairs(Path(pred_dir), Path(label_dir), cases)
    score = partial(score_pair, protocol=protocol, min_lesion_ml=min_lesion_ml)
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(pairs), unit="case", disable=None if progress else True) as bar:
        for case, outcome in _run(pairs, score, workers, memory_gb):
            if isinstance(outcome, Failure):
                failures[case] = outcome
                bar.write(f"{case}: {outcome.code}: {outcome.detail}") if not bar.disable else None
            else:
                results[case] = outcome
            bar.update()
    metrics = _collect(protocol, dict(sorted(results.items())), dict(sorted(failures.items())), min_lesion_ml)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_text(output / "cases.csv", _cases_csv(metrics))
    write_text(output / "lesions.csv", _lesions_csv(metrics))
    return metrics


def case_name(path: Path) -> str:
    """Name of the case that a label map belongs to.

    LiTS numbers its scans ``volume-12`` and its references ``segmentation-12``: both are case ``volume-12``. Any other
    file is named by itself, without ``.nii`` or ``.nii.gz``.

    Example:
        >>> case_name(Path("labels/segmentation-012.nii")), case_name(Path("liver_3.nii.gz"))
        ('volume-12', 'liver_3')
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    lits = re.fullmatch(r"(test-)?(volume|segmentation)-(\d+)", stem)
    return f"{lits[1] or ''}volume-{int(lits[3])}" if lits else stem


def find_pairs(
    pred_dir: Path, label_dir: Path, cases: Collection[str] | None = None
) -> tuple[list[Pair], dict[str, Failure]]:
    """Match predictions and references by name.

    Where a folder of references also holds the LiTS volumes, the segmentations are taken. Hidden files are left out.

    Args:
        pred_dir: Folder of predictions; sub-folders are part of the case's name, as are those of ``label_dir``.
        label_dir: Folder of references.
        cases: Names to keep; None keeps all.

    Returns:
        Pairs by name, and a DUPLICATE_NAME failure for each case that two files of one folder claim.

    Raises:
        FileNotFoundError: If a folder is missing or holds no label map.
        ValueError: If a case has no prediction or no reference; all are listed.
    """
    preds, labels = _by_case(pred_dir), _by_case(label_dir)
    if cases is not None:
        wanted = set(cases)
        preds = {case: files for case, files in preds.items() if case in wanted}
        labels = {case: files for case, files in labels.items() if case in wanted}
        if unknown := sorted(wanted - set(preds) - set(labels)):
            raise ValueError(f"no file for cases {_listed(unknown)} in {pred_dir} and {label_dir}")
    problems = []
    if missing := sorted(set(labels) - set(preds)):
        problems.append(f"no prediction for {_listed(missing)} in {pred_dir}")
    if extra := sorted(set(preds) - set(labels)):
        problems.append(f"no reference for {_listed(extra)} in {label_dir}")
    if problems:
        raise ValueError("; ".join(problems) + "; files are matched by name")
    failures = {}
    for case in sorted(preds):
        for files in (preds[case], labels[case]):
            if len(files) > 1:
                names = " and ".join(str(file) for file in files)
                failures[case] = Failure("DUPLICATE_NAME", f"{names} are both case {case}; keep one")
    pairs = [Pair(case, preds[case][0], labels[case][0]) for case in sorted(preds) if case not in failures]
    return pairs, failures


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _by_case(folder: Path) -> dict[str, list[Path]]:
    """Label maps below a folder by case name; the folder inside it is part of the name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name a folder of label maps (.nii or .nii.gz)")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(SUFFIXES) and path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise FileNotFoundError(f"no .nii or .nii.gz file in {folder.resolve()}; name a folder of label maps")
    by_case: dict[str, list[Path]] = {}
    for path in files:
        inside = path.parent.relative_to(folder).as_posix()
        name = case_name(path)
        by_case.setdefault(name if inside == "." else f"{inside}/{name}", []).append(path)
    return {case: _without_volumes(paths) for case, paths in by_case.items()}


def _without_volumes(paths: list[Path]) -> list[Path]:
    """Leave out a LiTS volume that lies beside its segmentation."""
    segmentations = [path for path in paths if "segmentation-" in path.name]
    volumes = [path for path in paths if "volume-" in path.name]
    return segmentations if segmentations and volumes else paths


def score_pair(pair: Pair, *, protocol: str, min_lesion_ml: float = 0.0, threads: int = 1) -> dict[str, Any] | Failure:
    """Read and score one case; whatever is wrong with it comes back as a failure."""
    try:
        if protocol == "lits-official":
            return score_officially(pair)
        return score_as_meant(pair, lits=protocol == "lits", min_lesion_ml=min_lesion_ml, threads=threads)
    except (IntakeError, CaseError) as error:
        return Failure(error.code, " ".join(str(error).split()))
    except MemoryError:
        return Failure("OUT_OF_MEMORY", f"{pair.label}: not enough memory for this case; use fewer workers")
    except Exception as error:  # a case must never stop the others; the line says what to report
        return Failure("SCORING_FAILED", f"{pair.pred}: {type(error).__name__}: {' '.join(str(error).split())}")


def score_as_meant(pair: Pair, *, lits: bool, min_lesion_ml: float, threads: int = 1) -> dict[str, Any]:
    """Score one case of the protocols ``lits`` and ``plain``.

    Both maps are turned to the axes nearest to right, anterior, superior, so that neither axis order nor flips change a
    figure. Spacing is that of the reference's affine.

    Raises:
        IntakeError: If a file cannot be used.
        CaseError: LABEL_GRID_MISMATCH if the grids differ, NO_LIVER if the reference holds no liver.
    """
    label = read_label_map(pair.label, accept=ACCEPTED)
    pred = read_label_map(pair.pred, accept=ACCEPTED)
    warnings = [f"{path.name}: {f.code}: {f.detail}" for path, scan in ((pair.label, label), (pair.pred, pred))
                for f in scan.findings if f.code not in ACCEPTED]  # fmt: skip
    warnings += _grid_warnings(pair, pred, label)
    if not label.array.any():
        raise CaseError("NO_LIVER", f"{pair.label}: the reference holds no liver (labels 1 and 2); nothing to score")
    turned_label, affine = to_ras(label)
    turned_pred, _ = to_ras(pred, like=label)
    figures = case_figures(
        turned_pred, turned_label, spacing_of(affine), lits=lits, min_lesion_ml=min_lesion_ml, threads=threads
    )
    for lesion in figures["lesion_list"]:
        ras = affine[:3, :3] @ lesion["centroid_index"] + affine[:3, 3]
        lesion["centroid_ras_mm"] = [float(value) for value in ras]
        lesion["centroid_lps_mm"] = [-float(ras[0]), -float(ras[1]), float(ras[2])]
    return {"shape_ras": list(turned_label.shape), **figures, "warnings": warnings}


def to_ras(scan: Scan, *, like: Scan | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """View a scan along the axes nearest to right, anterior, superior.

    Args:
        scan: Scan of shape (X, Y, Z).
        like: Take the axes from this scan, on the same grid, instead.

    Returns:
        The array, a view, and the affine of the view.
    """
    affine = (like or scan).affine
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(scan.array, orientation)
    return turned, np.asarray(affine @ nib.orientations.inv_ornt_aff(orientation, scan.array.shape))


def _grid_warnings(pair: Pair, pred: Scan, label: Scan) -> list[str]:
    """Compare the grids: a tenth of the smallest voxel edge is silent, up to a half a warning, beyond an error."""
    code = "LABEL_GRID_MISMATCH"
    if pred.array.shape != label.array.shape:
        raise CaseError(code, f"{pair.pred}: shape {pred.array.shape}, reference {label.array.shape}; resample it")
    shift, edge = corner_shift_mm(label.array.shape, pred.affine, label.affine), min(label.spacing)
    if shift <= GRID_SAME * edge:
        return []
    detail = f"{pair.pred}: lies up to {shift:.3g} mm off its reference (smallest voxel edge {edge:.3g} mm)"
    if shift > GRID_CLOSE * edge:
        raise CaseError(code, f"{detail}; resample it to the reference's grid")
    return [f"{code}: {detail}"]


def score_officially(pair: Pair) -> dict[str, Any]:
    """Score one case as the LiTS program reads it: file axis order, truncated to 8 bits, zooms of the reference.

    Returns:
        ``official`` (the program's figures) and ``figures`` (Dice, IoU, ... of liver and tumor).

    Raises:
        CaseError: If a file cannot be read, is not three-dimensional, or the shapes differ; NO_LIVER for a reference
            without liver, where the program divides by zero.
    """
    pred, _ = _read_as_int8(pair.pred)
    label, spacing = _read_as_int8(pair.label)
    if pred.shape != label.shape:
        raise CaseError("LABEL_GRID_MISMATCH", f"{pair.pred}: shape {pred.shape}, reference {label.shape}")
    if not (label >= 1).any():
        raise CaseError("NO_LIVER", f"{pair.label}: the reference holds no liver (labels >= 1)")
    confusion = confusion_matrix(_plain_labels(pred), _plain_labels(label))
    figures = {
        region: overlap_figures(Counts.of_region(confusion, classes))
        for region, classes in (("liver", LIVER), ("tumor", TUMOR))
    }
    return {"official": official_case(pred, label, spacing), "figures": figures}


def _read_as_int8(path: Path) -> tuple[npt.NDArray[np.int8], tuple[float, float, float]]:
    """Read as the program does: scaled values truncated towards zero, then wrapped to signed 8 bits."""
    try:
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise CaseError("READ_FAILED", f"{path}: {error}") from error
    if values.ndim != 3:
        raise CaseError("NOT_3D", f"{path}: shape {values.shape}; a label map has three axes")
    if not np.isfinite(values).all():
        raise CaseError("NON_FINITE", f"{path}: voxels are nan or infinite")
    if values.dtype.kind == "f":
        values = values.astype(np.int64)
    x, y, z = image.header.get_zooms()[:3]
    return values.astype(np.int8), (float(x), float(y), float(z))


def _plain_labels(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Labels 0, 1, 2 of a map with any values: 2 is tumor, every other value from 1 is liver."""
    return ((values >= 1).astype(np.uint8) + (values == 2)).astype(np.uint8)


def _run(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], workers: int | None, memory_gb: float | None
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score pairs in as many processes as cores and memory allow, each result as it comes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    voxels = {pair.case: _voxels(pair.label) for pair in pairs}
    n_workers = _count_workers(list(voxels.values()), workers or cores, memory_gb)
    if workers is None and sum(voxels.values()) < SMALL_JOB_VOXELS:
        n_workers = 1
    if n_workers == 1:
        for pair in pairs:
            yield pair.case, score(pair, threads=cores)
        return
    largest_first = sorted(pairs, key=lambda pair: -voxels[pair.case])
    yield from _run_in_pool(largest_first, partial(score, threads=max(1, cores // n_workers)), n_workers)


def _run_in_pool(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], n_workers: int
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score in processes; cases of a pool that died get one process each, so that only the guilty one fails."""
    unfinished = {pair.case: pair for pair in pairs}
    try:
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(score, pair): pair.case for pair in pairs}
            for future in as_completed(waiting):
                outcome = future.result()
                del unfinished[waiting[future]]
                yield waiting[future], outcome
    except BrokenProcessPool:
        if n_workers == 1 and len(pairs) == 1:
            detail = f"{pairs[0].label}: the process died, most likely for want of memory"
            yield pairs[0].case, Failure("WORKER_DIED", detail)
            return
        for pair in unfinished.values():
            yield from _run_in_pool([pair], score, 1)


def _voxels(path: Path) -> int:
    """Voxels by the header; 0 for a file that cannot be read, whose error comes later."""
    try:
        return int(np.prod(nib.load(path).shape))
    except Exception:
        return 0


def _count_workers(voxels: Sequence[int], wanted: int, memory_gb: float | None) -> int:
    """As many processes as wanted whose largest cases fit into memory at once; at least one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8e9
    budget = total / 2 if memory_gb is None else memory_gb * 1e9
    n_workers, used = 0, 0.0
    for size in sorted(voxels, reverse=True)[:wanted]:
        used += size * BYTES_PER_VOXEL + PROCESS_BYTES
        if used > budget:
            break
        n_workers += 1
    return max(1, n_workers)


def _collect(
    protocol: str, results: Mapping[str, dict[str, Any]], failures: Mapping[str, Failure], min_lesion_ml: float
) -> dict[str, Any]:
    """Lay out ``metrics.json``."""
    metrics: dict[str, Any] = {"protocol": protocol, "n_cases": len(results), "n_failed": len(failures)}
    if protocol != "lits-official":
        metrics["min_lesion_ml"] = min_lesion_ml
        metrics |= summarize_cases(results, lits=protocol == "lits") if results else {"global": {}, "summary": {}}
        metrics["cases"] = dict(results)
    else:
        official = {case: row["official"] for case, row in results.items()}
        figures = {case: row["figures"] for case, row in results.items()}
        metrics["global"] = official_summary(official) if official else {}
        metrics["summary"] = _plain_summary(list(figures.values()))
        metrics |= {"cases": official, "figures": figures}
    metrics["failures"] = {case: asdict(failure) for case, failure in failures.items()}
    names = ("liver-pipeline", "numpy", "scipy", "nibabel", "scikit-image")
    metrics["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return metrics


def _plain_summary(rows: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Means of the overlap figures that stand beside the program's own."""
    return {
        f"{region}_{key}": summarize([row[region][key] for row in rows]).as_dict()
        for region in (rows[0] if rows else {})
        for key in rows[0][region]
    }


def _cases_csv(metrics: Mapping[str, Any]) -> str:
    """One row per case: every single figure, named ``<block>_<figure>``; empty where it is undefined."""
    official = metrics["protocol"] == "lits-official"
    rows = []
    for case, figures in metrics["cases"].items():
        row: dict[str, Any] = {"case": case}
        blocks = {**metrics["figures"][case], "official": _scalars(figures)} if official else figures
        for block in ("liver", "tumor", "parenchyma", "tumor_burden", "lits", "official"):
            row |= {f"{block}_{key}": value for key, value in _scalars(blocks.get(block, {})).items()}
        if not official:
            row |= {f"n_{kind}_lesions": figures["lesions"][f"n_{kind}"] for kind in ("reference", "predicted")}
        rows.append(row)
    return _csv(rows, list(dict.fromkeys(key for row in rows for key in row)) or ["case"])


def _scalars(block: Mapping[str, Any]) -> dict[str, Any]:
    """The single values of a block, inner blocks flattened once."""
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{name}": inner for name, inner in value.items() if not isinstance(inner, list | dict)}
        elif not isinstance(value, list):
            flat[key] = value
    return flat


def _lesions_csv(metrics: Mapping[str, Any]) -> str:
    """One row per lesion, reference and predicted."""
    rows = [
        {"case": case, **row} for case, figures in metrics["cases"].items() for row in figures.get("lesion_list", [])
    ]
    return _csv(rows, LESION_COLUMNS)


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        writer.writerow(cells)
    return text.getvalue()


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise FileExistsError if one of ``paths`` is there and may not be overwritten."""
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{' and '.join(there)} exist already; name another folder or add --overwrite")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8", newline=""
    ) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
