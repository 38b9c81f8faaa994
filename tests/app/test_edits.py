"""What is drawn on a page changes the voxels under it and no other, however the scan lies and however coarse it is."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from liver_pipeline.app import collection, corrections
from liver_pipeline.app.cases import CaseFolder, NoSuchCase
from liver_pipeline.app.collection import collect_cases
from liver_pipeline.app.corrections import save_edit, take_back
from liver_pipeline.app.edits import Edit, changes, lay_on
from liver_pipeline.app.uploads import Refusal
from liver_pipeline.commands.collect import collect
from liver_pipeline.data import folder_cases
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.file_names import EDITED
from liver_pipeline.io.files import remove_temporary, write_json
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.volumes import Scan, read_label_map, read_scan
from liver_pipeline.reports import viewer_volumes
from liver_pipeline.reports.viewer_volumes import Shown, shown_volumes
from tests.orientations import OBLIQUE, every_orientation

NOBODY = "0" * 64
SHAPE = (13, 11, 9)


def drawn_runs(page: npt.NDArray[np.uint8], drawn: npt.NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """Return what changed between two label maps of a page, a run a voxel."""
    old, new = page.ravel(order="F"), drawn.ravel(order="F")
    return [(int(k), 1, int(new[k])) for k in np.flatnonzero(old != new)]


@settings(max_examples=60)
@given(data=st.data())
def test_each_voxel_takes_the_label_of_the_page_voxel_over_it_or_stays(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape, steps = (data.draw(st.tuples(*[st.integers(1, most)] * 3)) for most in (9, 4))
    start = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
    size = tuple(data.draw(st.integers(1, side - first)) for side, first in zip(shape, start, strict=True))
    before = rng.integers(0, 3, shape, dtype=np.uint8)
    page = np.array([-(-n // step) for n, step in zip(size, steps, strict=True)])
    labels = rng.integers(0, 4, page)  # 3: not drawn on
    flat = labels.ravel(order="F")
    runs = [(int(k), 1, int(flat[k])) for k in np.flatnonzero(flat != 3)]
    after = before.copy()
    lay_on(
        after, Edit.model_validate({"made_from": NOBODY, "start": start, "size": size, "steps": steps, "runs": runs})
    )
    for voxel in np.ndindex(shape):
        at = [(v - first) / step for v, first, step in zip(voxel, start, steps, strict=True)]
        inside = all(first <= v < first + n for v, first, n in zip(voxel, start, size, strict=True))
        label = labels[tuple(int(place) for place in at)] if inside else 3
        assert after[voxel] == (before[voxel] if label == 3 else label)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"runs": [[0, 1, 3]]}, "less than or equal to 2"),
        ({"runs": [[0, 2, 1], [1, 1, 2]]}, "overlap"),
        ({"runs": [[26, 2, 1]]}, "out of the page"),
        ({"runs": [[-1, 1, 1]]}, "greater than or equal"),
        ({"steps": [0, 1, 1]}, "at least 1"),
        ({"made_from": "../x"}, "pattern"),
        ({"more": 1}, "not permitted"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(changed: dict[str, Any], why: str) -> None:
    whole = {"made_from": NOBODY, "start": [0, 0, 0], "size": [3, 3, 3], "steps": [1, 1, 1], "runs": []}
    Edit.model_validate(whole)
    with pytest.raises(ValidationError, match=why):
        Edit.model_validate({**whole, **changed})


def a_case(folder: Path, affine: npt.NDArray[np.float64], labels: npt.NDArray[np.uint8]) -> tuple[CaseFolder, str]:
    """Return an app's folder with one case that is done: a scan and its mask, as they lie on disk."""
    cases = CaseFolder(folder / "work")
    case = cases.create("one", "run")
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.integers(-100, 200, labels.shape, dtype=np.int16), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, cases.folder(case, "scan") / "scan-00001.nii.gz")
    mask = nib.Nifti1Image(labels, affine)
    mask.header.set_xyzt_units("mm")
    nib.save(mask, cases.result(case, ".nii.gz"))
    cases.result(case, ".json").write_text(
        json.dumps({"output": {"sha256": file_sha256(cases.result(case, ".nii.gz"))}})
    )
    return cases, case


def shown(cases: CaseFolder, case: str) -> Shown:
    """Return the page of a case's mask as it is now."""
    scan, mask = scan_and_mask(cases, case)
    return shown_volumes(scan, {"mask": to_ras(mask)[0]})


def scan_and_mask(cases: CaseFolder, case: str) -> tuple[Scan, Scan]:
    accept = ("FEW_SLICES", "THICK_SLICE", "HU_SCALE", "UNIT_SPACING_CT")
    mask = read_label_map(cases.result(case, f"{cases.kind(case)}.nii.gz"), accept=accept)
    given = cases.scan(case)
    assert given is not None
    return read_scan(given.path, accept=accept), mask


def edit_of(page: Shown, sha256: str, drawn: npt.NDArray[np.uint8]) -> Edit:
    start, size = ([getattr(side, name) for side in page.box] for name in ("start", "stop"))
    size = [stop - first for first, stop in zip(start, size, strict=True)]
    runs = drawn_runs(page.volumes["mask"], drawn)
    return Edit.model_validate({"made_from": sha256, "start": start, "size": size, "steps": page.steps, "runs": runs})


@every_orientation
def test_however_a_scan_lies_what_is_drawn_lands_where_it_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permutation: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    monkeypatch.setattr(viewer_volumes, "MAX_VOXELS", 200)  # of 1287: cut to the liver, then two in one
    monkeypatch.setattr(viewer_volumes, "SHOWN_MARGIN_MM", 2.0)
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE[:, permutation] * flips * (1.5, 2.0, 2.5)
    affine[:3, 3] = (-20, 30, 7)
    rng = np.random.default_rng([*permutation, *(flip + 1 for flip in flips)])
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:11, 2:9, 1:8] = rng.integers(1, 3, (9, 7, 7))
    cases, case = a_case(tmp_path, affine, labels)
    page = shown(cases, case)
    assert page.cropped and max(page.steps) > 1
    drawn = page.volumes["mask"].copy(order="F")
    touched = rng.random(drawn.shape) < 0.2
    drawn[touched] = rng.integers(0, 3, int(touched.sum()))
    original = cases.result(case, ".nii.gz")
    save_edit(cases, case, edit_of(page, file_sha256(original), drawn))

    edited = nib.load(cases.result(case, ".edited.nii.gz"))
    np.testing.assert_array_equal(edited.affine, nib.load(original).affine)
    voxels = np.argwhere(np.ones(SHAPE, dtype=bool))
    places = voxels @ edited.affine[:3, :3].T + edited.affine[:3, 3]
    on_page = (places - page.affine[:3, 3]) @ np.linalg.inv(page.affine[:3, :3]).T
    at = np.rint(on_page).astype(int)
    size = [side.stop - side.start for side in page.box]  # the last voxel of the page may stand for fewer
    inside = ((at >= 0) & ((on_page + 0.5) * page.steps < size)).all(axis=1)
    expected = labels.copy()
    for voxel, place in zip(voxels[inside], at[inside], strict=True):
        if drawn[tuple(place)] != page.volumes["mask"][tuple(place)]:
            expected[tuple(voxel)] = drawn[tuple(place)]
    np.testing.assert_array_equal(np.asarray(edited.dataobj), expected)
    again = shown(cases, case)
    if again.box == page.box:  # unless what was drawn moved the box round the liver
        np.testing.assert_array_equal(again.volumes["mask"], drawn)  # the page shows what was drawn
    record = json.loads(cases.result(case, ".edited.json").read_text())
    assert record["changed"] == changes(labels, expected)
    assert record["output"]["sha256"] == file_sha256(cases.result(case, ".edited.nii.gz"))


@pytest.fixture
def one(tmp_path: Path) -> tuple[CaseFolder, str]:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:9, 3:8, 2:7] = 1
    return a_case(tmp_path, np.diag([-2.0, -2.0, 2.0, 1.0]), labels)


def spot(made_from: str, label: int, count: int = 3) -> Edit:
    return Edit(made_from=made_from, start=(0, 0, 0), size=SHAPE, steps=(1, 1, 1), runs=[(500, count, label)])


def test_a_correction_goes_on_from_the_last_one_and_back_to_the_very_labels(one: tuple[CaseFolder, str]) -> None:
    cases, case = one
    original, edited = (cases.result(case, f"{kind}.nii.gz") for kind in ("", ".edited"))
    before = original.read_bytes()
    first_label = int(to_ras(read_label_map(original))[0].ravel(order="F")[500])
    save_edit(cases, case, spot(file_sha256(original), 2))
    once = file_sha256(edited)
    save_edit(cases, case, spot(once, first_label))  # as undo does
    np.testing.assert_array_equal(np.asarray(nib.load(edited).dataobj), np.asarray(nib.load(original).dataobj))
    record = json.loads(cases.result(case, ".edited.json").read_text())
    assert record["changed"] == {"added": {"1": 0, "2": 0}, "removed": {"1": 0, "2": 0}}
    assert [step["made_from"] for step in record["edits"]] == [file_sha256(original), once]
    assert record["original"]["sha256"] == file_sha256(original)
    assert original.read_bytes() == before
    take_back(cases, case)
    assert cases.kind(case) == "" and not list(cases.corrected.iterdir()) and original.read_bytes() == before
    with pytest.raises(Refusal, match="no correction"):
        take_back(cases, case)


def test_a_mask_that_was_changed_meanwhile_is_left_as_it_is(one: tuple[CaseFolder, str]) -> None:
    cases, case = one
    opened = file_sha256(cases.result(case, ".nii.gz"))
    save_edit(cases, case, spot(opened, 2))
    other_tab = cases.result(case, ".edited.nii.gz").read_bytes()
    with pytest.raises(Refusal) as refused:
        save_edit(cases, case, spot(opened, 0))
    assert refused.value.code == "MASK_CHANGED" and cases.result(case, ".edited.nii.gz").read_bytes() == other_tab


def test_a_page_of_another_grid_and_a_case_that_is_gone_are_refused(one: tuple[CaseFolder, str]) -> None:
    cases, case = one
    opened = file_sha256(cases.result(case, ".nii.gz"))
    with pytest.raises(Refusal, match="box ends at"):
        save_edit(cases, case, Edit(made_from=opened, start=(5, 0, 0), size=SHAPE, steps=(1, 1, 1), runs=[]))
    assert cases.kind(case) == ""
    cases.result(case, ".nii.gz").unlink()
    with pytest.raises(Refusal) as refused:
        save_edit(cases, case, spot(opened, 2))
    assert refused.value.code == "NO_MASK"
    cases.delete(case)
    with pytest.raises(NoSuchCase):
        save_edit(cases, case, spot(opened, 2))


def test_a_full_disk_leaves_the_earlier_correction(
    one: tuple[CaseFolder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, case = one
    save_edit(cases, case, spot(file_sha256(cases.result(case, ".nii.gz")), 2))
    folders = (cases.masks, cases.corrected)
    files = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}

    monkeypatch.setattr(corrections, "write_json", full)  # the last thing before the mask takes its place
    with pytest.raises(Refusal) as refused:
        save_edit(cases, case, spot(file_sha256(cases.result(case, ".edited.nii.gz")), 0))
    assert refused.value.code == "DISK_FULL"
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == files


def test_a_correction_is_saved_while_the_folder_run_begins_its_next_case(
    one: tuple[CaseFolder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, case = one

    def next_case_begins(path: Path, content: Any) -> None:
        remove_temporary(cases.masks)  # as a folder run does with what a killed one left
        write_json(path, content)

    monkeypatch.setattr(corrections, "write_json", next_case_begins)  # the mask is half written then
    save_edit(cases, case, spot(file_sha256(cases.result(case, ".nii.gz")), 2))
    record = json.loads(cases.result(case, ".edited.json").read_text())
    assert record["output"]["sha256"] == file_sha256(cases.result(case, ".edited.nii.gz"))


def test_corrected_and_accepted_cases_are_a_data_set_rejected_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:9, 3:8, 2:7] = 1
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    ids = [a_case(tmp_path, affine, labels)[1] for _ in range(5)]
    cases = CaseFolder(tmp_path / "work")
    with pytest.raises(ValueError, match="none was corrected"):
        collect_cases(cases, cases.training)
    edited, accepted, series, gone, rejected = ids
    for case in (edited, rejected):
        save_edit(cases, case, spot(file_sha256(cases.result(case, ".nii.gz")), 2))
    for case, verdict in {accepted: "accept", series: "accept", gone: "accept", rejected: "reject"}.items():
        cases.amend(case, verdict=verdict)
    volume = cases.folder(series, "scan")
    (volume / "scan-00001.nii.gz").rename(volume / "a file without a suffix")
    (cases.folder(gone, "scan") / "scan-00001.nii.gz").unlink()

    told = collect_cases(cases, cases.training)
    assert {case for case, why in told.items() if not why} == {edited, accepted, series}
    assert set(told) == {edited, accepted, series, gone} and "NOT_FOUND" in told[gone]
    found = {case["case"]: case for case in folder_cases(cases.training)}
    assert set(found) == {edited, accepted, series}
    assert found[edited]["patient"] == edited[:16]  # no record of the scan's hash: a patient of its own
    for case, kind in ((edited, EDITED), (accepted, ""), (series, "")):
        assert Path(found[case]["label"]).read_bytes() == cases.result(case, f"{kind}.nii.gz").read_bytes()
        given, taken = (
            nib.load(path) for path in (next(cases.folder(accepted, "scan").iterdir()), found[case]["image"])
        )
        np.testing.assert_array_equal(np.asarray(taken.dataobj), np.asarray(given.dataobj))  # all hold the same
        np.testing.assert_allclose(taken.affine, given.affine)

    before = sorted(path.name for path in cases.training.rglob("*"))
    cases.amend(edited, verdict="reject")
    monkeypatch.setattr(collection, "link_or_copy", full)
    with pytest.raises(OSError, match="full"):
        collect_cases(cases, cases.training)
    assert sorted(path.name for path in cases.training.rglob("*")) == before
    cases.delete(accepted)
    assert not list(cases.training.rglob(f"{accepted}*")) and len(folder_cases(cases.training)) == 2


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_scans_that_are_the_same_are_one_patient(tmp_path: Path) -> None:
    labels = np.ones(SHAPE, dtype=np.uint8)
    cases = CaseFolder(tmp_path / "work")
    for scan in ("a" * 64, "a" * 64, "b" * 64):
        case = a_case(tmp_path, np.eye(4) * 2, labels)[1]
        cases.result(case, ".json").write_text(json.dumps({"input": {"sha256": scan}}))
        cases.amend(case, verdict="accept")
    collect(tmp_path / "work", tmp_path / "set")
    assert sorted(case["patient"] for case in folder_cases(tmp_path / "set")) == ["a" * 16, "a" * 16, "b" * 16]
    with pytest.raises(FileExistsError, match="name a new folder"):
        collect(tmp_path / "work", tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="no app has worked"):
        collect(tmp_path, tmp_path / "other")
