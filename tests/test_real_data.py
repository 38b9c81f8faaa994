"""The main job on real scans: DICOM in, training, masks that lie on the patient."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.data.ircadb import convert_case
from liver_pipeline.io.volumes import read_scan
from tests.stock import run_stock_bundle

pytestmark = pytest.mark.real_data

COARSE = {  # a few minutes on two cores
    "spacing": [4.5, 4.5, 4.5],
    "roi_size": [48, 48, 40],
    "network_def::channels": [8, 16, 32],
    "network_def::dropout": 0.0,
    "learning_rate": 5.0e-3,
    "max_epochs": 100,
    "batch_size": 1,
    "crops_per_case": 4,
    "val_interval": 25,
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def ircadb(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case in LiTS layout, twice: one copy trains, the other validates: this is about learning one case."""
    folder = tmp_path_factory.mktemp("ircadb")
    volume, segmentation = convert_case(real_data / "3dircadb1_01", folder, 1)
    (folder / "volume-2.nii.gz").symlink_to(volume)
    (folder / "segmentation-2.nii.gz").symlink_to(segmentation)
    return folder


@pytest.fixture(scope="module")
def run(ircadb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    split_file = folder / "split.json"
    split_file.write_text(json.dumps({"cases": {"train": ["volume-1"], "val": ["volume-2"], "test": []}}))
    overrides = {**COARSE, "dataset_dir": str(ircadb), "split_file": str(split_file)}
    lp.train(folder / "run", {"network": "unet3d"}, overrides=overrides)
    return folder / "run"


def predict(run: Path, scans: Path, masks: Path, **overrides: Any) -> int:
    """Return the exit code."""
    try:
        run_workflow(run, "inference", {"dataset_dir": str(scans), "output_dir": str(masks), **overrides})
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def canonical(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_the_masks_of_3dircadb_become_liver_and_tumor(ircadb: Path) -> None:
    image, label = (nib.load(ircadb / f"{name}-1.nii.gz") for name in ("volume", "segmentation"))
    values = np.asarray(label.dataobj)
    np.testing.assert_array_equal(image.affine, label.affine)
    assert (values > 0).sum() == 2_865_131  # the official liver mask
    assert (values == 2).sum() == 214_268  # union of the seven tumors
    hu = np.asarray(image.dataobj)
    assert 100 < hu[values == 1].mean() < 130  # enhanced liver
    assert hu[values == 2].mean() < hu[values == 1].mean() - 20  # hypodense tumors
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert_case(ircadb, ircadb, 1)


def test_dicom_and_nifti_of_one_scan_give_one_mask_in_patient_space(
    run: Path, ircadb: Path, real_data: Path, tmp_path: Path
) -> None:
    series = tmp_path / "scans" / "patient"
    with zipfile.ZipFile(real_data / "3dircadb1_01/PATIENT_DICOM.zip") as archive:
        for member in archive.namelist():
            (series / Path(member).name).parent.mkdir(parents=True, exist_ok=True)
            (series / Path(member).name).write_bytes(archive.read(member))
    turned = tmp_path / "nifti" / "turned.nii.gz"  # the same scan stored in another axis order
    turned.parent.mkdir()
    image = nib.load(ircadb / "volume-1.nii.gz")
    asl = nib.orientations.axcodes2ornt("ASL")
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), asl)), turned)

    assert predict(run, series, tmp_path / "from_dicom") == 0
    assert predict(run, turned, tmp_path / "from_nifti") == 0

    dicom_mask = nib.load(tmp_path / "from_dicom/patient.nii.gz")
    scan = read_scan(series)
    assert dicom_mask.shape == scan.array.shape == (512, 512, 129)
    np.testing.assert_allclose(dicom_mask.affine, scan.affine, atol=1e-4)
    assert nib.aff2axcodes(nib.load(tmp_path / "from_nifti/turned.nii.gz").affine) == ("A", "S", "L")

    (a, affine_a), (b, affine_b) = (
        canonical(tmp_path / "from_dicom/patient.nii.gz"),
        canonical(tmp_path / "from_nifti/turned.nii.gz"),
    )
    np.testing.assert_allclose(affine_a, affine_b, atol=1e-3)
    assert (a == b).mean() >= 0.9999

    reference, _ = canonical(ircadb / "segmentation-1.nii.gz")
    assert dice(a > 0, reference > 0) > 0.9  # it has learned its training case
    hu = np.asarray(nib.as_closest_canonical(image).dataobj)
    assert 90 < hu[a > 0].mean() < 130  # and the mask lies on the liver


def test_labels_are_those_of_a_stock_bundles_inference(run: Path, ircadb: Path, tmp_path: Path) -> None:
    scan = ircadb / "volume-1.nii.gz"
    assert predict(run, scan, tmp_path / "ours", **{"postprocessing::transforms": [], "skip_air": False}) == 0
    ours = np.asarray(nib.load(tmp_path / "ours/volume-1.nii.gz").dataobj)
    stock = run_stock_bundle(run, scan, tmp_path / "stock")
    assert (ours > 0).sum() > 1_000_000  # it sees a liver
    assert (ours == stock).mean() >= 0.9999


def test_a_whole_abdominal_ct_from_dicom_is_segmented(run: Path, real_data: Path, tmp_path: Path) -> None:
    assert predict(run, real_data / "tcia_pancreas_ct_cb_001/dicom.zip", tmp_path) == 0
    mask = nib.load(tmp_path / "dicom.nii.gz")
    assert mask.shape == (512, 512, 134)
    np.testing.assert_allclose(mask.header.get_zooms(), (1.074, 1.074, 3.0), atol=1e-3)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
    assert (np.asarray(mask.dataobj) > 0).sum() * 1.074**2 * 3 / 1000 > 100  # ml: it sees a liver in another patient


def test_slices_with_gaps_are_refused(run: Path, real_data: Path, tmp_path: Path) -> None:
    assert predict(run, real_data / "gstt_msd_liver14_3slices/dcm", tmp_path) == 4
    assert not list(tmp_path.glob("*.nii.gz"))
    assert "UNEVEN_SLICE_GAPS" in (tmp_path / "ledger.jsonl").read_text()
