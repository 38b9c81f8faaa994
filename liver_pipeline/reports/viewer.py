"""The viewer's page: scan, mask and reference in one HTML file that works offline and loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.evaluation.confidence import shown_levels
from liver_pipeline.evaluation.description import describe_label_map, lesion_confidence
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.io.file_names import PROBABILITIES, case_name, file_beside
from liver_pipeline.io.files import plain, write_text
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.paths import is_there
from liver_pipeline.io.patient_axes import on_grid, to_ras
from liver_pipeline.io.probabilities import read_probabilities
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.records import record_of
from liver_pipeline.io.volumes import Scan, read_label_map
from liver_pipeline.labels import LabelValues, Scaled
from liver_pipeline.metrics.overlap import as_told
from liver_pipeline.reports.viewer_volumes import Shown, encoded, shown_volumes
from liver_pipeline.visualize.contours import contour_lines

logger = logging.getLogger(__name__)

NO_NIIVUE = (
    "NiiVue is not in this installation, so the page draws slices and no 3D: install npm and then this package again, "
    "or run scripts/build_web.py in a checkout"
)
# Values that are no HU are shown all the same, and the page says what they are.
SHOWN_ANYWAY = (*ACCEPTED, "HU_SCALE", "MODALITY", "UNIT_SPACING_CT")
SCRIPTS = ("volumes.js", "slices.js", "gpu.js", "drawing.js", "correcting.js", "viewer.js")
# Nothing is loaded: what NiiVue has inside are data and blob addresses of the page itself.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)


def write_viewer_page(
    output: Path,
    scan: Path,
    mask: Path | None = None,
    reference: Path | None = None,
    reader: ScanReader | None = None,
    series: str | None = None,
    original: Path | None = None,
    probabilities: Mapping[str, Scan] | None = None,
    label_map: LabelValues | None = None,
) -> None:
    """Write the page for one scan.

    What lies beside the mask is taken up where it belongs to it: its provenance, and probabilities.

    Args:
        output: The page, an HTML file; replaced if it is there.
        scan: Whatever :func:`liver_pipeline.read_scan` reads.
        mask: Label map on the scan's grid: 0 background, 1 liver, 2 tumor; however its axes are stored.
        reference: Likewise.
        reader: How scans are read; by default as CT, where values that are no HU are shown as they are.
        series: Which of several DICOM series at ``scan``.
        original: Label map from which ``mask`` was made by hand; it is shown beside it.
        probabilities: Of the mask, as :func:`liver_pipeline.io.probabilities.read_probabilities` gives them; by default
            those that lie beside it. They give the confidence of lesions, and contours.
        label_map: What the values of the reference mean, where they are not 0, 1, 2. One that does not tell tumors from
            liver is shown as liver, and lesions are not matched with it.

    Raises:
        IntakeError: If a file cannot be used, or (LABEL_GRID_MISMATCH) a label map lies on another grid.
        OSError: If the page cannot be written; nothing is left behind.
    """
    reader = reader or ScanReader()
    image = replace(reader, accept={*reader.accept, *SHOWN_ANYWAY}).scan(scan, series=series)
    given = (("mask", mask, None), ("original", original, None), ("reference", reference, label_map))
    maps = {name: read_label_map(path, label_map=values, accept=ACCEPTED) for name, path, values in given if path}
    labels = {name: _on_scan(image, one) for name, one in maps.items()}
    tells_tumors = True
    if "reference" in labels:
        _, labels["reference"], tells_tumors = as_told(labels["reference"], labels["reference"])
    table, record = None, None
    if mask is not None:
        record = record_of(mask, maps["mask"].sha256)
        beside = file_beside(mask, PROBABILITIES)
        if probabilities is None and is_there(beside):
            probabilities = read_probabilities(beside)
        matched = labels if tells_tumors else {"mask": labels["mask"]}
        table = _described(image, matched, probabilities, record)
        levels = None if probabilities is None else shown_levels(image, probabilities, record)
        if levels is not None:
            labels["contours"] = contour_lines(levels)
    case = case_name((mask or scan).name)
    sha256 = maps["mask"].sha256 if mask else None
    shown = shown_volumes(image, labels)
    write_text(output, viewer_page(case, shown, table=table, record=record, mask_sha256=sha256))


def viewer_page(
    case: str,
    shown: Shown,
    *,
    table: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    mask_sha256: str | None = None,
) -> str:
    """Return the page as HTML, with NiiVue where it is installed; without it slices are drawn on a canvas.

    Args:
        case: Its name.
        shown: The volumes.
        table: Result of :func:`liver_pipeline.describe` for the mask; gives figures and the list of lesions.
        record: Provenance of the mask; gives the run, warnings and quality.
        mask_sha256: Of the mask's file: what is drawn on the page says what it was drawn on.
    """
    engine = _niivue()
    data = {
        "case": case,
        "version": version("liver-pipeline"),
        "volumes": list(shown.volumes),
        "shape": list(shown.volumes["scan"].shape),
        "affine": shown.affine.tolist(),
        "low": shown.low,
        "high": shown.high,
        "in_hu": shown.in_hu,
        "cropped": shown.cropped,
        "grid": {
            "start": [side.start for side in shown.box],
            "size": [side.stop - side.start for side in shown.box],
            "steps": list(shown.steps),
        },
        "mask_sha256": mask_sha256,
        "table": None if table is None else plain(table),
        "record": None if record is None else _told(record),
        "without_niivue": "" if engine else NO_NIIVUE,
    }
    volumes = "".join(
        f'<script type="text/plain" id="volume-{name}">{base64.b64encode(content).decode()}</script>\n'
        for name, content in encoded(shown).items()
    )
    body = _asset("viewer.html").replace("{{case}}", escape(case))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><title>{escape(case)}: liver and tumors</title>',
        f"<style>{_asset('viewer.css')}</style></head><body>{body}\n",
        f'<script type="application/json" id="page-data">{_inside_script(data)}</script>\n',
        volumes,
        f"<!--\n{_licenses()}\n-->\n<script>{engine}</script>\n" if engine else "",
        *(f"<script>{_asset(name)}</script>\n" for name in SCRIPTS),
        "</body></html>\n",
    ]
    return "".join(parts)


def _on_scan(scan: Scan, label_map: Scan) -> npt.NDArray[np.uint8]:
    try:
        array = on_grid(scan, label_map)
    except ValueError as reason:
        raise refuse(label_map.path, "LABEL_GRID_MISMATCH", f"it is not on the grid of its scan: {reason}") from None
    assert array is not None
    return array


def _described(
    scan: Scan,
    labels: Mapping[str, npt.NDArray[np.uint8]],
    probabilities: Mapping[str, Scan] | None,
    record: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the clinical table; with the confidence of lesions where probabilities are there."""
    array, affine = to_ras(scan)
    sure = {} if probabilities is None else lesion_confidence(scan, probabilities, record)
    return describe_label_map(
        labels["mask"],
        affine,
        hu=Scaled(array, scan.slope, scan.intercept),
        reference=labels.get("reference"),
        record=record,
        **sure,
    )


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of a mask's provenance: no folders, no machine."""
    return {
        "warnings": record.get("warnings", []),
        "quality": record.get("quality"),
        "weights": record.get("weights", {}).get("sha256"),
        "seconds": record.get("timing", {}).get("seconds"),
        "started": record.get("timing", {}).get("started"),
        "corrections": len(record.get("edits", [])),
    }


def _inside_script(data: Any) -> str:
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


@cache
def _niivue() -> str:
    """Return NiiVue's script, or nothing where the installation lacks it; says so once."""
    path = files("liver_pipeline").joinpath("app", "web", "niivue.umd.js")
    if not path.is_file():
        logger.warning(NO_NIIVUE)
        return ""
    return path.read_text(encoding="utf-8")


def _licenses() -> str:
    return "\n\n".join(_asset(name) for name in ("niivue.LICENSE", "niivue.LICENSES.txt")).replace("--", "- -")


def _asset(name: str) -> str:
    return files("liver_pipeline").joinpath("app", "web", name).read_text(encoding="utf-8")
