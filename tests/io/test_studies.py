"""A study with several series: each volume is a case, or one of each study is chosen, with its reason."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.commands.check import check
from liver_pipeline.io.dicom_files import series_uids
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.studies import find_volumes
from tests.dicom_files import body, one_slice, scout, series

KINDS = (("1.2.3.0", 5.0, 6, ""), ("1.2.3.1", 4.0, 8, "Iomeprol"), ("1.2.3.2", 2.0, 12, ""))  # uid, mm, slices, agent


def write_study(folder: Path, *, flat: bool, study: str = "1.9", kinds: Any = KINDS) -> Path:
    for number, (uid, gap, slices, agent) in enumerate(kinds):
        tags = {
            "SeriesInstanceUID": uid,
            "StudyInstanceUID": study,
            "ContrastBolusAgent": agent,
            "SeriesNumber": number,
        }
        hu = body((20, 16, slices))
        files = [one_slice(k, hu, spacing=(1.5, 1.0, gap), **tags) for k in range(slices)]
        series(folder if flat else folder / f"ser{number}", files, prefix=f"S{number}_")
    return folder


def found(root: Path, which: str | None = None, **options: Any) -> list[tuple[str, str | None]]:
    return [(one.case, one.series) for one in find_volumes(root, series=which, **options)]


def test_each_series_in_one_place_is_a_case_of_its_own_that_can_be_read(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scans" / "p1", flat=True)
    scout().save_as(study / "scout", enforce_file_format=True)
    two = [one_slice(k, body((20, 16, 2)), SeriesInstanceUID="1.2.3.9") for k in range(2)]
    series(study, two, prefix="two")
    assert found(tmp_path / "scans") == [(f"p1/{uid}", uid) for uid, *_ in KINDS]
    for one, (uid, gap, slices, agent) in zip(find_volumes(study), KINDS, strict=True):
        told = f"({slices} CT slices, {gap:g} mm{', contrast' if agent else ''})"
        assert one.title == f"series {KINDS.index((uid, gap, slices, agent))} {told}"
        assert one.why.startswith(f"{uid} {told}: one of 3 scans there")
        assert one.why.endswith("1 series of fewer than 3 slices are no scans")
        assert ScanReader().scan(one.path, series=one.series).array.shape == (20, 16, slices)


def test_a_zip_of_a_study_is_its_series_too(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", flat=False)
    (tmp_path / "scans").mkdir()
    with zipfile.ZipFile(tmp_path / "scans" / "p1.zip", "w") as archive:
        for file in sorted(study.rglob("S*")):
            archive.write(file, file.relative_to(study))
    assert series_uids(tmp_path / "scans" / "p1.zip") == {uid for uid, *_ in KINDS}
    assert found(tmp_path / "scans") == [(f"p1/{uid}", uid) for uid, *_ in KINDS]
    assert found(tmp_path / "scans", "thinnest") == [("p1", "1.2.3.2")]


@pytest.mark.parametrize("name", ["p1.nii.gz", "p1.nrrd", "p1.img"])
def test_a_study_that_is_named_like_another_format_is_its_series_all_the_same(tmp_path: Path, name: str) -> None:
    study = write_study(tmp_path / "study", flat=True)
    expected = [(f"p1/{uid}", uid) for uid, *_ in KINDS]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(study)
    assert found(tmp_path / "linked") == expected
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / name, "w") as archive:
        for file in sorted(study.iterdir()):
            archive.write(file, file.name)
    assert found(tmp_path / "zipped") == expected


def test_a_folder_of_one_series_keeps_its_name_with_or_without_a_scout(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scans" / "p1", flat=True, kinds=KINDS[:1])
    assert found(tmp_path / "scans") == [("p1", None)]
    scout().save_as(study / "scout", enforce_file_format=True)
    assert found(tmp_path / "scans") == [("p1", None)]


@pytest.mark.parametrize("flat", [True, False], ids=["one place", "folders of their own"])
@pytest.mark.parametrize(
    ("which", "uid", "why"),
    [
        ("thinnest", "1.2.3.2", "thinnest of 3"),
        ("contrast", "1.2.3.1", "with contrast"),
        ("1.2.3.0", "1.2.3.0", "named"),
    ],
)
def test_one_series_of_each_study_is_chosen_with_its_reason(
    tmp_path: Path, flat: bool, which: str, uid: str, why: str
) -> None:
    write_study(tmp_path / "scans" / "p1", flat=flat)
    (one,) = find_volumes(tmp_path / "scans", series=which)
    assert one.series == uid and why in one.why
    assert one.case == ("p1" if flat else f"p1/ser{uid[-1]}")
    scan = ScanReader().scan(one.path, series=one.series, why=one.why)
    (told,) = (f.detail for f in scan.findings if f.code == "SERIES_CHOSEN")
    assert told == one.why


def test_each_of_two_studies_has_its_own_choice_also_in_one_place(tmp_path: Path) -> None:
    other = [("1.2.4.0", 1.5, 10, ""), ("1.2.4.1", 3.0, 6, "Iomeprol")]
    write_study(tmp_path / "apart" / "p1", flat=True)
    write_study(tmp_path / "apart" / "p2", flat=True, study="1.8", kinds=other)
    assert found(tmp_path / "apart", "thinnest") == [("p1", "1.2.3.2"), ("p2", "1.2.4.0")]
    write_study(tmp_path / "same" / "p", flat=True)
    numbered = [
        one_slice(k, body((20, 16, 10)), SeriesInstanceUID="1.2.4.0", StudyInstanceUID="1.8") for k in range(10)
    ]
    series(tmp_path / "same" / "p", numbered, prefix="T")
    assert found(tmp_path / "same", "thinnest") == [("p/1.2.3.2", "1.2.3.2"), ("p/1.2.4.0", "1.2.4.0")]


def test_a_study_without_contrast_is_a_case_that_says_so(tmp_path: Path) -> None:
    write_study(tmp_path / "p1", flat=True)
    write_study(tmp_path / "p2", flat=True, study="1.8", kinds=[("1.2.4.0", 1.5, 10, "")])
    assert found(tmp_path, "contrast") == [("p1", "1.2.3.1"), ("p2", "contrast")]
    with pytest.raises(IntakeError, match=r"NO_SERIES.*1\.2\.4\.0.*; or thinnest$"):
        ScanReader().scan(tmp_path / "p2", series="contrast")


def test_a_uid_that_no_place_has_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    write_study(tmp_path / "p1", flat=True)
    with pytest.raises(IntakeError, match=r"NO_SERIES.*1\.2\.3\.1.*thinnest, or contrast"):
        find_volumes(tmp_path, series="1.2.3.7")


def test_slices_that_each_have_a_series_are_no_cases_of_one_slice(tmp_path: Path) -> None:
    hu = body()
    series(tmp_path / "p1", [one_slice(k, hu, SeriesInstanceUID=f"1.2.3.{k}") for k in range(12)])
    assert found(tmp_path) == [("p1", None)]  # refused as MIXED_SERIES when it is read, which accept lifts
    assert found(tmp_path, accept=["MIXED_SERIES"]) == [("p1", None)]
    assert ScanReader(accept=["MIXED_SERIES"]).scan(tmp_path / "p1").array.shape == hu.shape


def test_a_damaged_slice_among_several_series_is_the_cases_own_trouble(tmp_path: Path) -> None:
    study = write_study(tmp_path / "p1", flat=True)
    (study / "S0_000").write_bytes((study / "S0_000").read_bytes()[:300])
    assert [case for case, _ in found(tmp_path)] in (["p1"], [f"p1/{uid}" for uid, *_ in KINDS])


# --- one series in several places -------------------------------------------------------------------------------------


def zipped(path: Path, files: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, file in enumerate(files):
            archive.write(file, f"{number:03d}")
    return path


def slices(folder: Path, numbers: Any, **tags: Any) -> list[Path]:
    hu = body()
    series(folder, [one_slice(k, hu, **tags) for k in numbers])
    return sorted(folder.iterdir())


def codes_of(root: Path) -> dict[str, str]:
    """Name of each input to its errors, as ``check`` tells them."""
    return {report.path.relative_to(root).as_posix(): report.as_json()["detail"] for report in check(root)}


def three_strangers(scans: Path) -> None:
    for number in range(3):
        zipped(
            scans / f"p{number}.zip", slices(scans.parent / f"s{number}", range(12), SeriesInstanceUID=f"1.9.{number}")
        )


def test_halves_of_a_series_in_zips_that_are_no_neighbours_name_each_other(tmp_path: Path) -> None:
    three_strangers(tmp_path / "scans")
    files = slices(tmp_path / "whole", range(12))
    zipped(tmp_path / "scans" / "a.zip", files[:5])
    zipped(tmp_path / "scans" / "site" / "z.zip", files[5:])
    told = codes_of(tmp_path / "scans")
    assert told["a.zip"].startswith("MIXED_SERIES: 7 more slices of the series lie in the zip site/z.zip")
    assert told["site/z.zip"].startswith("MIXED_SERIES: 5 more slices of the series lie in the zip a.zip")
    assert not any("MIXED" in told[f"p{number}.zip"] for number in range(3))
    accepted = find_volumes(tmp_path / "scans", accept=["MIXED_SERIES"])
    assert [one.elsewhere for one in accepted] == [""] * 5
    (chosen,) = [one for one in find_volumes(tmp_path / "scans", series="1.2.3.4") if one.series]
    assert "more slices" in chosen.elsewhere


def test_a_part_in_the_middle_of_a_zip_of_several_series_is_found(tmp_path: Path) -> None:
    three_strangers(tmp_path / "scans")
    files = slices(tmp_path / "whole", range(12))
    first, last = (slices(tmp_path / uid, range(12), SeriesInstanceUID=uid) for uid in ("1.2.1", "1.2.8"))
    zipped(tmp_path / "scans" / "a.zip", files[:5])
    zipped(tmp_path / "scans" / "z.zip", [*first, *files[5:], *last])
    told = {one.case: one.elsewhere for one in find_volumes(tmp_path / "scans") if one.elsewhere}
    assert told.keys() == {"a", "z/1.2.3.4"} and "7 more slices of the series lie in the zip z.zip" in told["a"]
    with pytest.raises(IntakeError, match=r"MIXED_SERIES.*5 more slices"):
        ScanReader().scan(tmp_path / "scans" / "z.zip", series="1.2.3.4", elsewhere=told["z/1.2.3.4"])


def test_of_a_series_and_a_copy_that_lacks_slices_the_copy_is_refused(tmp_path: Path) -> None:
    three_strangers(tmp_path / "scans")
    files = slices(tmp_path / "whole", range(12))
    zipped(tmp_path / "scans" / "a.zip", files[:9])
    for whole in ("x", "y"):
        zipped(tmp_path / "scans" / f"{whole}.zip", files)
    told = codes_of(tmp_path / "scans")
    assert "3 more slices" in told["a.zip"] and not any("MIXED" in told[name] for name in ("x.zip", "y.zip"))


def test_phases_and_patients_that_share_a_series_uid_are_no_parts_of_each_other(tmp_path: Path) -> None:
    slices(tmp_path / "scans" / "a" / "phase1", range(10), AcquisitionNumber=1)
    slices(tmp_path / "scans" / "b" / "phase2", range(2, 12), AcquisitionNumber=2)
    assert [one.elsewhere for one in find_volumes(tmp_path / "scans")] == ["", ""]
    for number, patient in enumerate("AB"):
        slices(tmp_path / "anonymised" / patient, range(6 * number, 6 * number + 6), PatientID=patient)
    assert [one.elsewhere for one in find_volumes(tmp_path / "anonymised")] == ["", ""]
