"""The viewer's page: what is inside it is the scan and the mask, at their places in the patient, and little else."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

import liver_pipeline as lp
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.io.file_names import PROBABILITIES
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.reports import viewer, viewer_volumes
from liver_pipeline.reports.viewer import viewer_page, write_viewer_page
from liver_pipeline.reports.viewer_volumes import Shown, shown_volumes
from tests.orientations import OBLIQUE, every_orientation

STEP_HU = 600 / 255  # of a grey level


def scene() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], Affine]:
    """A body with a bright mark at the patient's right, front and top; a liver, a large and a one-voxel tumor."""
    image = np.full((40, 30, 24), -1000, dtype=np.int16)
    image[4:36, 4:26, 2:22] = 40 + np.arange(32 * 22 * 20).reshape(32, 22, 20) % 7
    image[30:34, 20:24, 17:20] = 350
    label = np.zeros(image.shape, dtype=np.uint8)
    label[10:24, 8:20, 6:16] = 1
    label[12:16, 10:14, 8:11] = 2
    label[21, 17, 13] = 2
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-40, -30, -36)
    return image, label, affine


def stored(array: npt.NDArray[Any], affine: Affine, permutation: Any, flips: Any) -> nib.Nifti1Image:
    """Store an array along RAS axes in another order of the axes."""
    orientation = np.array(list(zip(permutation, flips, strict=True)), dtype=float)
    turned = nib.apply_orientation(array, orientation)
    return nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(orientation, array.shape))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    image, label, affine = scene()
    for name, array in (("scan", image), ("mask", label), ("reference", np.roll(label, 1, axis=0))):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return tmp_path


def inside(page: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the page's data and its volumes as nibabel reads them."""
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    volumes = {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
        for name, text in re.findall(r'id="volume-(\w+)">(.*?)</script>', page, re.DOTALL)
    }
    return json.loads(found[1]), volumes


def page_of(folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    write_viewer_page(folder / "page.html", folder / "scan.nii.gz", **options)
    return inside((folder / "page.html").read_text(encoding="utf-8"))


@every_orientation
def test_voxels_lie_along_right_front_and_up_at_their_own_places(tmp_path: Path, permutation: Any, flips: Any) -> None:
    image, label, affine = scene()
    oblique = np.eye(4)
    oblique[:3, :3] = OBLIQUE
    for name, array in (("scan", image), ("mask", label)):
        nib.save(stored(array, oblique @ affine, permutation, flips), tmp_path / f"{name}.nii.gz")
    data, volumes = page_of(tmp_path, mask=tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(volumes["mask"].dataobj), label)
    np.testing.assert_allclose(volumes["scan"].get_fdata(), np.clip(image, -200, 400), atol=STEP_HU / 2 + 1e-3)
    for volume in volumes.values():
        np.testing.assert_allclose(volume.affine, oblique @ affine, atol=1e-4)
    np.testing.assert_allclose(data["affine"], oblique @ affine, atol=1e-4)


def test_the_display_window_is_what_the_levels_hold(files: Path) -> None:
    data, volumes = page_of(files)
    header = volumes["scan"].header
    assert (data["low"], data["high"], data["in_hu"]) == (-200.0, 400.0, True)
    assert (float(header["cal_min"]), float(header["cal_max"])) == (-200.0, 400.0)
    assert data["table"] is None and data["volumes"] == ["scan"]


def test_lesions_are_listed_at_their_places_with_figures_and_matches(files: Path) -> None:
    data, volumes = page_of(files, mask=files / "mask.nii.gz", reference=files / "reference.nii.gz")
    large, small = sorted(data["table"]["lesions"], key=lambda row: -row["volume_ml"])
    assert large["volume_ml"] == pytest.approx(4 * 4 * 3 * 12 / 1000) and large["match"] == "found"
    assert small["volume_ml"] == pytest.approx(12 / 1000) and small["below_resolution"]
    assert small["match"] == "invented"  # the reference lies one voxel beside it
    voxel = np.linalg.solve(np.array(data["affine"]), [*large["centroid_ras_mm"], 1.0])[:3]
    np.testing.assert_allclose(voxel, (13.5, 11.5, 9.0))
    assert set(volumes) == {"scan", "mask", "reference"}


def test_what_is_too_much_is_cut_to_the_liver_and_a_margin(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_volumes, "SHOWN_MARGIN_MM", 4.0)
    monkeypatch.setattr(viewer_volumes, "MAX_VOXELS", 20 * 30 * 20)
    data, volumes = page_of(files, mask=files / "mask.nii.gz")
    _, label, affine = scene()
    assert data["cropped"] and data["grid"]["steps"] == [1, 1, 1]
    assert volumes["mask"].shape == (14 + 4, 12 + 4, 10 + 4)  # two voxels of 2 mm, two of 3 mm
    np.testing.assert_array_equal(np.asarray(volumes["mask"].dataobj), label[8:26, 6:22, 4:18])
    np.testing.assert_allclose(volumes["scan"].affine @ [0, 0, 0, 1], affine @ [8, 6, 4, 1])
    assert data["table"]["liver"]["liver_with_tumor_ml"] == pytest.approx(14 * 12 * 10 * 12 / 1000)


def test_what_is_still_too_much_is_joined_and_no_lesion_vanishes(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_volumes, "MAX_VOXELS", 20 * 15 * 24)
    data, volumes = page_of(files)
    image, label, affine = scene()
    shown = shown_volumes(lp.read_scan(files / "scan.nii.gz", accept=["FEW_SLICES"]), {"mask": label})
    assert data["grid"]["steps"] == [2, 2, 1] and not data["cropped"]
    clipped = np.clip(image, -200, 400).astype(float)
    joined = clipped.reshape(20, 2, 15, 2, 24).mean(axis=(1, 3))
    np.testing.assert_allclose(volumes["scan"].get_fdata(), joined, atol=2 * STEP_HU)  # rounded thrice
    np.testing.assert_allclose(volumes["scan"].affine @ [0, 0, 0, 1], affine @ [0.5, 0.5, 0, 1])
    np.testing.assert_allclose(spacing_of(volumes["scan"].affine), (4, 4, 3))
    place = np.linalg.solve(shown.affine, affine @ [21, 17, 13, 1])[:3].round().astype(int)
    assert shown.volumes["mask"][tuple(place)] == 2  # the lesion of one voxel


def test_values_that_are_no_hu_are_shown_over_their_own_range(tmp_path: Path) -> None:
    image, _, affine = scene()
    nib.save(nib.Nifti1Image((image + 1000).astype(np.uint16) * 3, affine), tmp_path / "scan.nii.gz")
    data, volumes = page_of(tmp_path)
    assert not data["in_hu"] and data["low"] == 0 and 3 * 1040 <= data["high"] <= 3 * 1350
    assert volumes["scan"].get_fdata().max() == pytest.approx(data["high"], rel=1e-5)


def test_a_mask_on_another_grid_is_refused_and_nothing_is_written(files: Path) -> None:
    _, label, affine = scene()
    nib.save(nib.Nifti1Image(label[:-1], affine), files / "short.nii.gz")
    with pytest.raises(IntakeError) as failed:
        page_of(files, mask=files / "short.nii.gz")
    assert failed.value.code == "LABEL_GRID_MISMATCH" and "short.nii.gz" in str(failed.value)
    assert not (files / "page.html").exists()


def test_provenance_counts_only_if_it_is_of_this_mask(files: Path) -> None:
    sha256 = lp.read_label_map(files / "mask.nii.gz").sha256
    record = {
        "output": {"sha256": sha256},
        "warnings": [{"code": "THICK_SLICE", "detail": "6 mm"}],
        "input": {"path": "Doe"},
    }
    (files / "mask.json").write_text(json.dumps(record))
    told = page_of(files, mask=files / "mask.nii.gz")[0]["record"]
    assert told["warnings"] == record["warnings"] and "Doe" not in json.dumps(told)
    (files / "mask.json").write_text(json.dumps({**record, "output": {"sha256": "0" * 64}}))
    assert page_of(files, mask=files / "mask.nii.gz")[0]["record"] is None


def test_confidence_comes_from_probabilities_beside_the_mask(files: Path) -> None:
    _, label, affine = scene()
    levels = np.stack([np.where(label == 1, 255, 0), np.where(label == 2, 204, 0)], axis=-1).astype(np.uint8)
    stored_levels = nib.Nifti1Image(levels, affine)
    stored_levels.header.set_slope_inter(1 / 255, 0)
    nib.save(stored_levels, files / f"mask{PROBABILITIES}")
    lesions = page_of(files, mask=files / "mask.nii.gz")[0]["table"]["lesions"]
    assert [row["mean_confidence"] for row in lesions] == pytest.approx([0.8, 0.8], abs=0.01)


def test_without_niivue_the_page_is_written_and_says_why(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(viewer, "files", lambda package: files)
    viewer._niivue.cache_clear()
    assert viewer._niivue() == ""
    assert "install npm" in caplog.text
    monkeypatch.undo()
    data, _ = inside(viewer_page("a", small()))
    assert "install npm" in data["without_niivue"]
    viewer._niivue.cache_clear()


def small() -> Shown:
    return Shown({"scan": np.zeros((8, 8, 8), dtype=np.uint8)}, np.eye(4), -200, 400, True, np.s_[0:8, 0:8, 0:8])


def test_a_case_name_is_text_and_nothing_is_loaded_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "_niivue", lambda: "")
    page = viewer_page("</script><script>alert(1)</script>", small())
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "default-src 'none'" in page and "patient's images" in page


def test_view_writes_beside_the_mask_and_overwrites_only_when_asked(files: Path) -> None:
    page = lp.view(files / "scan.nii.gz", files / "mask.nii.gz")
    assert page == files / "mask.html"
    with pytest.raises(FileExistsError, match="overwrite"):
        lp.view(files / "scan.nii.gz", files / "mask.nii.gz")
    assert lp.view(files / "scan.nii.gz", files / "mask.nii.gz", output=files / "b.html") == files / "b.html"
