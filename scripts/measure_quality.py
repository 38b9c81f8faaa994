"""Measure which masks of the default weights are flagged: scans that must raise a flag, and scans that must not.

SCANS holds the public scans: 3dircadb1_01/PATIENT_DICOM.zip (3D-IRCADb), tcia_pancreas_ct_cb_001/dicom.zip (TCIA
Pancreatic-CT-CBCT-SEG), totalsegmentator_examples/example_ct.nii.gz (3 mm; its liver lies above slice 64, and the dome
is cut off) and example_mr_sm.nii.gz. OUT gets what is made of them, the masks with their records, and measured.json.
HU_SCALE, for which the MR would be refused as CT, is accepted here.

Example: python scripts/measure_quality.py scans out
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np

from liver_pipeline.commands.predict import predict
from liver_pipeline.io.files import write_json
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.volumes import read_scan

PELVIS, HALF = 60, 92  # slices of example_ct.nii.gz: below its liver, and up to the liver's middle
Volume = tuple[Any, Any]  # HU along R, A, S, and affine


def must_raise(scans: Path) -> Iterator[tuple[str, Volume]]:
    """Yield the name and volume of scans on which no mask can be right."""
    examples = scans / "totalsegmentator_examples"
    ct, affine = volume(examples / "example_ct.nii.gz")
    yield "dome_cut_off", (ct, affine)
    yield "pelvis", (ct[:, :, :PELVIS], affine)
    yield "half_a_liver", (ct[:, :, :HALF], affine)
    yield "upside_down", (ct, affine @ np.diag([1, 1, -1, 1]))
    yield "left_is_right", (ct, affine @ np.diag([-1, 1, 1, 1]))
    rng = np.random.default_rng(0)
    yield "noise", (rng.normal(0, 300, (120, 100, 100)).clip(-1024, 3000), affine)
    body = np.where(ct > -500, rng.normal(50, 300, ct.shape), ct)
    yield "noise_in_a_body", (body, affine)
    mr, mr_affine = volume(examples / "example_mr_sm.nii.gz", modality="mr")
    yield "mr_as_ct", (mr, mr_affine)
    whole, whole_affine = volume(scans / "3dircadb1_01" / "PATIENT_DICOM.zip")
    yield "ircadb_upside_down", (whole[::2, ::2], whole_affine @ np.diag([2, 2, -1, 1]))


def must_not_raise(scans: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of scans that are what they should be."""
    yield "ircadb_01", scans / "3dircadb1_01" / "PATIENT_DICOM.zip"
    yield "tcia_cb_001", scans / "tcia_pancreas_ct_cb_001" / "dicom.zip"


def volume(path: Path, modality: str = "ct") -> Volume:
    """Read a scan as HU along R, A, S."""
    scan = read_scan(path, modality=modality)
    turned, affine = to_ras(scan)
    return turned * np.float32(scan.slope) + np.float32(scan.intercept), affine


def gather(scans: Path, inputs: Path) -> None:
    """Write or copy all scans, whose folder says what is expected."""
    for name, (values, affine) in must_raise(scans):
        path = inputs / "must_raise" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.rint(values).astype(np.int16), affine)
        nib.save(image, path)
    for name, source in must_not_raise(scans):
        path = inputs / "must_not_raise" / f"{name}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)


@click.command(help=__doc__)
@click.argument("scans", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(scans: Path, out: Path) -> None:
    """Gather, segment, say what was flagged."""
    if not (out / "inputs").is_dir():
        gather(scans, out / "inputs")
    predict("default", out / "inputs", out / "masks", overrides={"quality": True, "accept": ["HU_SCALE"]})
    measured = {}
    for case, row in sorted(read_ledger(out / "masks" / LEDGER)[0].items()):
        quality = row.get("quality") or {"flagged": True, "reasons": [{"code": row.get("code", ""), "message": ""}]}
        record = out / "masks" / f"{case}.json"
        told = json.loads(record.read_text()) if record.is_file() else {}
        network = told.get("timing", {}).get("seconds_network")
        measured[case] = {**quality, "seconds_network": network, "output": told.get("output", {}).get("volume_ml")}
        right = quality["flagged"] == case.startswith("must_raise")
        figures = [quality.get(key) for key in ("liver_agreement", "tumor_agreement")]
        codes = ", ".join(reason["code"] for reason in quality["reasons"])
        click.echo(f"{'right' if right else 'WRONG'}  {case}  {figures}  {codes}")
    write_json(out / "measured.json", measured)


if __name__ == "__main__":
    main()
