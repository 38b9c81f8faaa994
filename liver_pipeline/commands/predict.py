"""Segment a scan, or every scan of a folder, with a trained run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from liver_pipeline.bundle.ensembles import ensemble_of
from liver_pipeline.bundle.entry import refuse_empty
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.dicom_results.results import DicomResults, write_results
from liver_pipeline.exits import EXIT_DONE, EXIT_SOME_FAILED
from liver_pipeline.io.file_names import (
    FORMATS,
    MASK_SUFFIXES,
    NO_MASKS,
    PICTURE_MASK,
    PICTURE_SUFFIXES,
    SCAN_SUFFIXES,
    case_name,
)
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import voxel_count
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.outputs import check_outputs, refuse_full_disk
from liver_pipeline.io.paths import real_path
from liver_pipeline.io.screen import say
from liver_pipeline.io.shards import Shard
from liver_pipeline.io.studies import find_volumes
from liver_pipeline.io.tables import read_json
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.case_files import write_case, write_case_description, write_case_page
from liver_pipeline.prediction.pipeline import network_bar
from liver_pipeline.prediction.segmenter import load_runner
from liver_pipeline.prediction.summary import Summary

FOLDER_KEYS = ("dry_run", "retry_failed", "max_failures")  # they ask the ledger, or end a run of many
DICOM_KEYS = ("dicom", "seg_type", "seg_deflate")
logger = logging.getLogger(__name__)


def predict(
    run: str | Path,
    scans: str | Path,
    masks: str | Path,
    *,
    ensemble: Sequence[str | Path] = (),
    partial: bool = False,
    shard: str | None = None,
    ray: str | None = None,
    worker_cores: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Summary:
    """Segment ``scans`` into ``masks``: label maps 0, 1 liver, 2 tumor on each scan's own grid.

    Args:
        run: A run folder, a folder of folds (the mean of their probabilities), or "default", the weights in the box.
        scans: A file (NIfTI or another volume format), a DICOM folder, a zip of one, or a folder searched recursively.
        masks: A folder, which mirrors the input and holds the ledger; or, for one scan, a file ``*.nii.gz``, ``*.nii``,
            ``*.nrrd`` or ``*.mha``.
        ensemble: Further runs on the same grid, to average with.
        partial: Of a folder of folds take those that are trained, where some are not.
        shard: ``I/N``: part I (from 0) of N of the folder, while other machines run the other parts.
        ray: Address of a Ray cluster (``host:port``, ``auto``) whose machines share the work, or ``local`` to start Ray
            on this one.
        worker_cores: Of each worker of the cluster where no GPUs are; default 8, or all of a smaller machine.
        overrides: Keys of the run's ``configs/inference.yaml``, such as ``{"overwrite": True}``.

    Returns:
        How it ended. Failures of single cases of a folder are in its ledger, not raised.

    Raises:
        IntakeError: If there is nothing to segment, or the one scan cannot be used.
        FileExistsError: If the one mask is there already and ``overwrite`` is not set.
        FileNotFoundError: If there is no such run.
        ValueError: If a key is unknown or a value cannot be used, a fold is not trained and ``partial`` is false, or
            several scans are to go into one file, or another process writes to ``masks``.
    """
    refuse_empty(run=run, scans=scans, masks=masks)
    for key, named in (("dataset_dir", scans), ("output_dir", masks)):
        if key in (overrides or {}):
            raise ValueError(f"{key} is {named}, the argument; leave the key out")
    if worker_cores is not None and ray is None:
        raise ValueError("worker_cores is of the workers of a cluster; give --ray, too")
    one_mask = is_mask_file(masks)
    first, others = ensemble_of(run if one_mask else _begun_with(run, masks), ensemble, partial=partial)
    values = {**(overrides or {}), **({"ensemble": [str(other.absolute()) for other in others]} if others else {})}
    if one_mask:
        if shard is not None or ray is not None:
            raise ValueError(f"--shard and --ray need a folder for the masks; {masks} is a file")
        return _predict_one(first, Path(scans), Path(masks), values)
    paths = {"dataset_dir": str(Path(scans).absolute()), "output_dir": str(Path(masks).absolute())}
    if values.pop("view", False):
        values["evaluator::view"] = True  # no key of its own: runs that were composed without it know it, too
    if ray is not None:
        return _predict_on_ray(first, Path(scans), Path(masks), values, shard, address=ray, worker_cores=worker_cores)
    part = None if shard is None else str(Shard.of(shard))
    values |= {**paths, "run": [f"$@evaluator.run({part!r})"]}  # without its exit(): the summary comes back
    summary: Summary = run_workflow(first, "inference", values)[0]
    return summary


def _begun_with(run: str | Path, masks: str | Path) -> str | Path:
    """Return the version of weights in the box that a folder of masks was begun with, where ``run`` names none.

    An upgrade of the package must not segment half of a folder with other weights.
    """
    begun = {row.get("run", "") for row in read_ledger(Path(masks) / LEDGER)[0].values()}
    versions = sorted(name for name in begun if name.partition("@")[0] == str(run) and name != str(run))
    if not versions or Path(run).exists():
        return run
    logger.warning("%s was begun with %s and goes on with it", masks, versions[-1])
    return str(versions[-1])


def _predict_on_ray(
    run: Path, scans: Path, masks: Path, values: dict[str, Any], shard: str | None, **options: Any
) -> Summary:
    if shard is not None:
        raise ValueError("--shard and --ray are two ways to use many machines; choose one")
    if values.get("dry_run"):
        raise ValueError("--dry-run lists what would be done on any machine; leave --ray out")
    from liver_pipeline.cluster.start import require_ray  # here: Ray is an extra

    require_ray()
    from liver_pipeline.cluster.ray_run import predict_on_ray

    return predict_on_ray(run, scans.absolute(), masks.absolute(), values, **options)


def is_mask_file(path: str | Path) -> bool:
    """Tell whether an output is meant as a file rather than as a folder.

    Raises:
        ValueError: If it is named as a file of a format that masks are not written in.
    """
    name = Path(path).name.lower()
    if Path(path).is_dir() or not name.endswith((*SCAN_SUFFIXES, *PICTURE_SUFFIXES, *NO_MASKS)):
        return False
    if not Path(path).name.endswith(MASK_SUFFIXES):
        dicom = "; DICOM SEG comes beside one, by --dicom seg" if name.endswith(".dcm") else ""
        raise ValueError(f"{path}: masks are written as {', '.join(MASK_SUFFIXES)}; or name a folder{dicom}")
    return True


def _predict_one(run: Path, scan: Path, mask: Path, values: dict[str, Any]) -> Summary:
    """Write one mask and what lies beside it, without a ledger."""
    overwrite, table, page = (bool(values.pop(key, False)) for key in ("overwrite", "describe", "view"))
    for key in FOLDER_KEYS:
        if values.pop(key, None) not in (None, False):
            raise ValueError(f"{key} is of folders of masks, with a ledger; {mask} is a file")
    if not mask.name.endswith(FORMATS[wanted := values.pop("format", "nifti")]) and wanted != "nifti":
        raise ValueError(f"format is {wanted!r} and the mask is called {mask.name}; leave one of them out")
    dicom = _dicom_results(run, values)
    case = _one_case(scan, mask, series=values.pop("series", None), accept=values.get("accept", ()))
    asked = {case.description: table, case.page: page, case.probabilities: values.get("probabilities")}
    files = [mask, case.provenance, *(path for path in asked if asked[path]), *dicom.paths(mask).values()]
    check_outputs(files, overwrite, inputs=[scan, case.path])
    refuse_full_disk(mask, voxel_count(case.path, case.series)[0])

    runner = load_runner(run, values)
    if page:
        runner.show_probabilities()
    with network_bar():
        runner.run(case)
    write_case(case, runner, overwrite=overwrite)
    if table:
        write_case_description(case, runner.reader)
    if page:
        write_case_page(case, runner.reader)
    say(case.summary(runner.labels))
    for reason in (case.quality or {"reasons": []})["reasons"]:
        logger.warning("look at %s: %s: %s", mask, reason["code"], reason["message"])
    if dicom.kinds:
        try:
            record = read_json(case.provenance)
            write_results(dicom, mask, case.path, series=case.series, reader=runner.reader, record=record)
        except IntakeError as reason:  # the mask is there
            logger.warning("no DICOM results: %s", reason)
            return Summary(1, 0, 0, EXIT_SOME_FAILED, refused=1)
    return Summary(1, 0, 0, EXIT_DONE)


def _one_case(scan: Path, mask: Path, *, series: str | None, accept: Sequence[str]) -> FolderCase:
    """Return the one case at ``scan``, whose mask goes to ``mask``."""
    inputs = find_volumes(scan, series=series, accept=accept, pictures=True)
    if len(inputs) > 1:
        several = ", ".join(one.series or one.case for one in inputs[:3])
        raise ValueError(
            f"{scan} holds {len(inputs)} scans ({several}, ...) for the one mask {mask}; name a folder for the masks, "
            f"or one of several series with --series"
        )
    one = inputs[0]
    suffix = next(ending for ending in MASK_SUFFIXES if mask.name.endswith(ending))
    if one.path.name.lower().endswith(PICTURE_SUFFIXES) != (suffix == PICTURE_MASK):
        raise ValueError(f"{mask}: the mask of a picture, and of nothing else, is a {PICTURE_MASK}")
    name = real_path(one.path).name
    case = case_name(name, one.path.is_dir())
    return FolderCase(case, one.path, name, one.series, one.why, one.elsewhere, output=mask, suffix=suffix)


def _dicom_results(run: Path, values: Mapping[str, Any]) -> DicomResults:
    """Return which DICOM results the run's config and ``values`` ask for."""
    config = load_config(run, "inference", {key: values[key] for key in DICOM_KEYS if key in values})
    found = ConfigParser(config).get_parsed_content("dicom_results") if "dicom_results" in config else DicomResults()
    assert isinstance(found, DicomResults)
    return found
