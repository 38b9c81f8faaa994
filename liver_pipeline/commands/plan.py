"""``liver-pipeline plan``: look at a data set once, write its fingerprint, a page, and an experiment file to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from liver_pipeline.bundle.build import check_build
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.keys import keys_with
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.names import DEFAULT_LAYERS, layer_file
from liver_pipeline.bundle.roles import Role
from liver_pipeline.causes import as_raised
from liver_pipeline.io.files import move_aside, write_json, write_text
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.networks.shapes import roi_multiple
from liver_pipeline.planning.experiment_file import experiment_text, is_edited, refuse_edited
from liver_pipeline.planning.fingerprint import CaseRow
from liver_pipeline.planning.rules import (
    Value,
    batch_size,
    intensity_values,
    median_size,
    memory_budget,
    patch_size,
    target_spacing,
    tumor_ratio,
)
from liver_pipeline.planning.survey import pooled_histograms, summarize_dataset, survey_cases
from liver_pipeline.planning.training_memory import training_memory
from liver_pipeline.reports.dataset import dataset_page
from liver_pipeline.transforms.spatial import ToModelGridd


@dataclass(frozen=True)
class TrainingPlan:
    """What was found and written: rows of all cases, the summary, and the experiment file (None: nothing to learn)."""

    rows: list[CaseRow]
    summary: dict[str, Any]
    experiment: Path | None


@as_raised()
def plan(
    output_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any],
    gpu_memory_gb: float = 24.0,
    overwrite: bool = False,
) -> TrainingPlan:
    """Write ``fingerprint.json``, ``fingerprint.html`` and ``experiment.yaml`` for a data set.

    Args:
        output_dir: Made when it does not exist. ``cases.jsonl`` in it keeps what was measured, so that the same
            command again reads only cases that are new or changed.
        layers: Names (or paths) for ``data``, ``modality``, ``network``; see ``layers.merge_layers``.
        experiment: Name or path of one to fill in: it stays as it is, with the data set's intensities (HU window, mean,
            SD) where it sets none.
        overrides: Keys of the configs, ``dataset_dir`` among them; the others are written into the experiment as they
            are and win over what is proposed.
        gpu_memory_gb: Memory of the GPU that is to train, in 10^9 bytes.
        overwrite: Write another experiment file where the one that is there was edited; that goes to ``earlier/``.

    Returns:
        The plan. Without a usable case that holds liver or tumor there is no experiment.

    Raises:
        FileExistsError: If the experiment file was edited and ``overwrite`` is false.
        FileNotFoundError: If the data set is not there.
        ValueError: If a key is unknown, a scan on the grid that was given cannot fit into this job's memory, or no
            window fits into the GPU's.
    """
    output_dir = Path(output_dir)
    written = output_dir / "experiment.yaml"
    if not overwrite:
        refuse_edited(written)
    config = merge_layers(layers, experiment=experiment, overrides={**overrides, "encoder_weights": None})["train"]
    check_build(config)
    parser = ConfigParser(config)
    reader: ScanReader = parser.get_parsed_content("reader")
    root = Path(parser.get_parsed_content("dataset_dir"))
    rows = survey_cases(parser.get_parsed_content("cases"), reader, output_dir / "cases.jsonl", root=root)
    summary = summarize_dataset(rows, reader.modality)
    cases = [{key: value for key, value in row.items() if key != "histograms"} for row in rows]
    content = {"liver_pipeline": version("liver-pipeline"), "modality": reader.modality, "summary": summary}
    write_json(output_dir / "fingerprint.json", {**content, "cases": cases})
    usable = [row for row in rows if row["usable"]]
    learnable = summary["n_cases_without_label"] < len(usable)
    if experiment or {"spacing", "grid_size"} & set(overrides):
        _refuse_large_grids(usable, parser)
    values: dict[str, Value] = {}
    own = read_config(layer_file("experiment", experiment)) if experiment else {}
    chosen = {kind: DEFAULT_LAYERS[kind] for kind in ("data", "modality", "network")} | own.pop("layers", {}) | layers
    if learnable and experiment:
        values = fill_in(own, summary, parser, overrides)
        heading = f"for the experiment {experiment}"
    elif learnable:
        values = propose(usable, summary, parser, overrides, gpu_memory_gb)
        heading = f"for a GPU of {gpu_memory_gb:g} GB"
    if not learnable or is_edited(written):
        move_aside(output_dir, [written.name])  # of another state of the data set, or somebody's work
    if learnable:
        write_text(written, experiment_text(values, chosen, summary, heading))
    pooled = pooled_histograms(usable) if reader.modality == "ct" else None
    write_text(output_dir / "fingerprint.html", dataset_page(rows, summary, pooled, values))
    return TrainingPlan(rows, summary, written if learnable else None)


def fill_in(
    own: Mapping[str, Any], summary: Mapping[str, Any], parser: ConfigParser, overrides: Mapping[str, Any]
) -> dict[str, Value]:
    """Return what an experiment sets, with the data set's intensities where it sets none; see :func:`propose`."""
    kept = {key: Value(value, "of the experiment") for key, value in own.items()}
    return {**_intensities(summary, parser), **kept, **_settled(overrides)}


def propose(
    rows: Sequence[CaseRow],
    summary: Mapping[str, Any],
    parser: ConfigParser,
    overrides: Mapping[str, Any],
    gpu_memory_gb: float,
) -> dict[str, Value]:
    """Propose values for the keys that the configs know.

    Args:
        rows: Usable cases.
        summary: Of the data set.
        parser: The training's config; gives the network, its channels and ``crops_per_case``.
        overrides: Keys that are settled.
        gpu_memory_gb: See :func:`plan`.

    Returns:
        Value and reason by key, in the order in which they are written.
    """
    settled = _settled(overrides)
    spacings, shapes = [row["spacing_mm"] for row in rows], [row["shape"] for row in rows]
    grid_size = parser.get_parsed_content("grid_size")
    if grid_size is None:
        spacing = target_spacing(spacings, shapes)
        if "spacing" in settled:
            spacing = Value(parser.get_parsed_content("spacing"), "as given")
        values, edges = {"spacing": spacing}, spacing.value
        size = median_size(spacings, shapes, edges)
    else:
        own = median_size(spacings, shapes, np.median(spacings, axis=0))
        size = np.where(np.asarray(grid_size) < 0, own, grid_size)
        values, edges = {}, np.median(np.multiply(spacings, shapes), axis=0) / size
    values |= _windows(parser, size, edges, settled, len(rows), gpu_memory_gb)
    values |= _intensities(summary, parser)
    values |= _classes(len(rows), summary["n_cases_with_tumor"], parser.get_parsed_content("num_classes"))
    return values | settled


def _refuse_large_grids(rows: Sequence[CaseRow], parser: ConfigParser) -> None:
    """Refuse a grid on which a training would give up at a case of the data set."""
    grid = ToModelGridd("image", **{key: parser.get_parsed_content(key) for key in ("spacing", "grid_size")})
    for row in rows:
        try:
            grid.model_grid(np.diag([*row["spacing_mm"], 1.0]), row["shape"])
        except MemoryError as error:
            raise ValueError(f"{row['case']}: {error}") from error


def _settled(overrides: Mapping[str, Any]) -> dict[str, Value]:
    """Return what was given, without paths, which are named when the training is started."""
    return {key: Value(value, "as given") for key, value in overrides.items() if key not in keys_with(Role.PATH)}


def _intensities(summary: Mapping[str, Any], parser: ConfigParser) -> dict[str, Value]:
    """Propose those of ``hu_window``, ``hu_mean`` and ``hu_std`` that the modality's file has."""
    values = intensity_values(summary["intensity"]["foreground"]) if summary["intensity"] is not None else {}
    return {key: value for key, value in values.items() if key in parser.get()}


def _classes(n_cases: int, n_with_tumor: int, num_classes: int) -> dict[str, Value]:
    if not n_with_tumor:
        return {"num_classes": Value(2, "background, liver: no case has a tumor outlined")}
    if num_classes < 3:
        return {}
    ratio = tumor_ratio(n_cases, n_with_tumor)
    share = n_with_tumor / n_cases * ratio / (ratio + 2)
    have = f"{n_with_tumor} of {n_cases} cases with tumor, {share:.0%} of all windows centred on it"
    return {"class_ratios": Value([1, 1, ratio], f"background, liver, tumor: {have}")}


def _windows(
    parser: ConfigParser,
    size: Sequence[int],
    spacing: Sequence[float],
    settled: Mapping[str, Value],
    n_cases: int,
    gpu_memory_gb: float,
) -> dict[str, Value]:
    """Propose ``roi_size``, ``crops_per_case`` and ``batch_size``."""
    network, own_roi, channels, crops = (
        parser.get_parsed_content(key) for key in ("network_def", "roi_size", "in_channels", "crops_per_case")
    )
    memory = training_memory(network, own_roi, channels)
    budget = memory_budget(gpu_memory_gb)
    if "roi_size" in settled:
        sides, reason = own_roi, "as given"
    else:
        multiple = roi_multiple(network, own_roi, channels)
        sides = patch_size(size, spacing, memory, multiple=multiple, windows=crops, budget=budget)
        reason = f"voxels; multiples of {multiple}. The median case has {_times(size)}"
    fit = memory.windows(budget, sides)
    batch = batch_size(sides, size, n_cases, crops_per_case=crops, windows=fit)
    used = memory.bytes(batch * crops, sides) / 1e9
    fits = f"{fit} windows fit into {gpu_memory_gb:g} GB with mixed precision; this takes about {used:.1f} GB"
    return {
        "roi_size": Value(list(sides), reason),
        "crops_per_case": Value(crops, "windows of a case in a step; as the network's file has it"),
        "batch_size": Value(batch, f"cases in a step; {fits}"),
    }


def _times(sizes: Sequence[int]) -> str:
    return "x".join(str(int(size)) for size in sizes)
