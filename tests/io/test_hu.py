"""Values that are HU pass, whatever the padding; shifted, scaled, negated, clipped or windowed ones are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.io.distribution import distribution
from liver_pipeline.io.findings import IntakeError, Severity
from liver_pipeline.io.hu import value_findings
from liver_pipeline.io.volumes import read_scan
from tests.damage import LENIENT, REAL, SPOILT, WHOLE, crops, on_values, thinned

Change = Callable[[Any], Any]


def scan(fat: float = 0.3, lung: float = 0.1, noise: float = 12.0, seed: int = 0) -> Any:
    """A trunk in air, (X, Y, Z) float HU: fat round soft tissue, lungs, a spine, contrast in a vessel."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (60, 50, 40)], indexing="ij")
    hu = np.full(x.shape, -1000.0)
    trunk = (x / 0.9) ** 2 + (y / 0.75) ** 2
    hu[trunk < 1] = -100.0
    hu[trunk < 1 - fat] = 55.0
    hu[((x - 0.3) / 0.35) ** 2 + (y / 0.4) ** 2 + z**2 < 1] = 110.0
    hu[(x / 0.1) ** 2 + ((y + 0.45) / 0.1) ** 2 < 1] = 350.0
    hu[((x + 0.3) / 0.3) ** 2 + (y / 0.45) ** 2 + ((z - 1) / (8 * lung + 1e-6)) ** 2 < 1] = -830.0
    return hu + rng.normal(0, np.where(hu == -830, 80.0, noise))  # lungs are no one value


def padded(hu: Any, value: float) -> Any:
    """``hu`` with everything outside a circle set to ``value``, as scanners do."""
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in hu.shape], indexing="ij")
    return np.where(x**2 + y**2 > 1, value, hu)


def severity(hu: Any, modality: str = "ct") -> str:
    """Return "" or the severity of HU_SCALE."""
    found = value_findings(np.asfortranarray(np.rint(hu).astype(np.int32)), 1.0, 0.0, modality)
    assert all(finding.code == "HU_SCALE" for finding in found)
    return str(found[0].severity) if found else ""


GOOD: dict[str, Change] = {
    "as it is": lambda hu: hu,
    "clipped at -1024": lambda hu: np.clip(hu, -1024, 3071),
    "clipped at -1000 and 1000": lambda hu: np.clip(hu, -1000, 1000),
    "padding -1024": lambda hu: padded(hu, -1024),
    "padding -2000": lambda hu: padded(hu, -2000),
    "padding -3024": lambda hu: padded(hu, -3024),
    "two paddings": lambda hu: np.where(np.indices(hu.shape)[0] < 2, -3024, padded(hu, -2048)),
    "padding -32768": lambda hu: padded(hu, -32768),
    "a metal clip": lambda hu: np.where(np.indices(hu.shape).sum(axis=0) == 70, 3071, hu),
    "air cut off": lambda hu: hu[15:45, 12:38],
}  # fmt: skip
BAD: dict[str, Change] = {
    "scaled by 0.5": lambda hu: 0.5 * hu,
    "scaled by 2": lambda hu: 2 * hu,
    "scaled by 10": lambda hu: 10 * hu,
    "negated": lambda hu: -hu,
    "clipped to [-200, 300]": lambda hu: np.clip(hu, -200, 300),
    "clipped to [-300, 300]": lambda hu: np.clip(hu, -300, 300),
    "clipped to [-160, 240]": lambda hu: np.clip(hu, -160, 240),
    "clipped to [-100, 200]": lambda hu: np.clip(hu, -100, 200),
    "intercept lost": lambda hu: np.maximum(hu, -1024) + 1024,
    "intercept lost, padding -2000": lambda hu: padded(np.maximum(hu, -1024) + 1024, -2000),
    "intercept lost, padding -3024": lambda hu: padded(np.maximum(hu, -1024) + 1024, -3024),
    "intercept twice": lambda hu: np.maximum(hu, -1024) - 1024,
    "intercept twice, padding -3048": lambda hu: padded(np.maximum(hu, -1024) - 1024, -3048),
    "slope 0.5": lambda hu: 0.5 * (np.maximum(hu, -1024) + 1024) - 1024,
    "scaled to [0, 1000]": lambda hu: (hu + 1000) * 0.4,
    "scaled to [-500, 500]": lambda hu: (hu + 1000) * 0.7 - 500,
}
SHIFTS = [*range(-3000, -199, 100), *range(200, 3001, 100), -1024, 1024, 250, -250]
BODIES: list[dict[str, Any]] = [
    {},
    {"fat": 0.05},
    {"fat": 0.6},
    {"lung": 0.0},
    {"lung": 0.4},
    {"noise": 30.0},
    {"noise": 2.0},
]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("body", BODIES, ids=str)
def test_hounsfield_units_pass(name: str, body: dict[str, Any]) -> None:
    assert severity(GOOD[name](scan(**body))) == ""


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("padding", [None, -1024])
@pytest.mark.parametrize("body", BODIES, ids=str)
def test_values_that_are_no_hounsfield_units_are_an_error(name: str, padding: Any, body: dict[str, Any]) -> None:
    hu = scan(**body)
    assert severity(BAD[name](hu if padding is None else padded(hu, padding))) == "error"


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_shift_of_200_hu_or_more_is_an_error(body: dict[str, Any]) -> None:
    hu = scan(**body)
    missed = [(shift, pad) for shift in SHIFTS for pad in (None, -1024)
              if severity((hu if pad is None else padded(hu, pad)) + shift) != "error"]  # fmt: skip
    assert not missed


def test_a_crop_without_air_is_a_warning_and_a_windowed_one_an_error() -> None:
    inside = scan()[5:30, 20:30, :20]  # fat and soft tissue
    assert severity(inside) == "warning"
    assert severity(np.clip(inside, -80, 120)) == "error"


@pytest.mark.parametrize(("shape", "spacing"), [((128, 104, 64), (3.0, 3.0, 5.0)), ((32, 26, 16), (12.0, 12.0, 19.0))])
@pytest.mark.parametrize("tumors", [0, 3])
def test_the_phantoms_carry_honest_units(shape: Any, spacing: Any, tumors: int) -> None:
    for seed in range(4):
        assert severity(liver_phantom(shape, spacing, n_tumors=tumors, seed=seed)[0]) == ""


def test_stored_values_are_judged_after_slope_and_intercept() -> None:
    stored = np.asfortranarray(np.rint(2 * (scan() + 1024)).astype(np.int32))
    assert value_findings(stored, 0.5, -1024.0, "ct") == []
    assert value_findings(stored, 1.0, -1024.0, "ct")[0].code == "HU_SCALE"


def test_other_modalities_and_labels_are_left_alone() -> None:
    mr = np.abs(scan()) * 0.7
    assert severity(mr) == "error" and severity(mr, "mr") == "" and severity(mr, "label") == ""
    (found,) = value_findings(np.asfortranarray(mr), 1.0, 0.0, "ct")
    assert found.detail.endswith(" (if it is an MR, set modality=mr, with a run that knows MR)")
    (found,) = value_findings(np.asfortranarray(scan(lung=0)[12:48, 12:38, :-1]), 1.0, 0.0, "ct")
    assert found.severity is Severity.WARNING and "cropped? (if it is an MR, set modality=mr" in found.detail
    (found,) = value_findings(np.asfortranarray(scan() * 10), 1.0, 0.0, "ct")
    assert "modality" not in found.detail  # air is where no MR has anything


def test_a_ct_read_as_mr_is_told_by_its_values() -> None:
    for hu in (scan(), padded(scan(), -2000), scan(fat=0.05)):
        (found,) = value_findings(np.asfortranarray(hu.astype(np.int16)), 1.0, 0.0, "mr")
        assert (found.code, found.severity) == ("MODALITY", Severity.WARNING)


def test_a_label_map_read_as_mr_is_told_by_its_values_and_a_scan_of_eight_bits_is_none() -> None:
    labels = np.zeros((20, 20, 20), dtype=np.float32, order="F")
    labels[5:15, 5:15, 5:15], labels[8, 8, 8] = 1, 2
    for stored, slope in ((labels, 1.0), (labels * 2, 0.5), (np.asfortranarray(labels > 0).astype(np.uint8), 4.0)):
        (found,) = value_findings(stored, slope, 0.0, "mr")
        assert (found.code, found.severity) == ("LABEL_MAP", Severity.ERROR)
    organs = np.asfortranarray(np.kron(np.arange(1, 65).reshape(4, 4, 4), np.ones((6, 6, 6))).astype(np.uint8))
    assert [f.code for f in value_findings(organs, 1.0, 0.0, "mr")] == ["LABEL_MAP"]  # 64 values, in patches
    smooth = np.asfortranarray(np.rint(np.add.outer(np.add.outer(*2 * [np.arange(40) * 2.0]), np.arange(40))))
    assert value_findings(smooth, 1.0, 0.0, "mr") == []
    eight_bits = np.asfortranarray(
        np.random.default_rng(0).gamma(2.0, 20.0, (20, 20, 20)).clip(0, 255).astype(np.uint8)
    )
    assert value_findings(eight_bits, 1.0, 0.0, "mr") == []
    assert value_findings(labels * 0.3, 1.0, 0.0, "mr") == []  # not whole
    assert value_findings(labels * 200, 1.0, 0.0, "mr") == []  # no label is so high


@pytest.mark.parametrize("top", [-50, 0, 60, 110])
@pytest.mark.parametrize("body", [body for body in BODIES if body.get("noise") != 2.0], ids=str)
def test_a_scan_clipped_above_is_an_error_where_contrast_is_lost(top: float, body: dict[str, Any]) -> None:
    assert severity(np.minimum(scan(**body), top)) == "error"


@pytest.mark.parametrize("top", [340, 350])
def test_a_scan_clipped_in_bone_is_a_warning_and_a_spike_that_is_narrow_is_none(top: float) -> None:
    assert severity(np.minimum(scan(), top)) == "warning"
    assert severity(np.where(scan() > 100, 350, scan())) == ""  # nothing lies just below
    assert severity(np.minimum(scan(), 370)) == ""  # ten voxels, no more than elsewhere


def test_fat_below_its_place_is_a_warning() -> None:
    hu = scan(noise=8.0)
    for factor in (2.0, 3.0):
        assert severity(np.where(hu > -500, factor * hu, hu)) in ("warning", "error")
    assert severity(np.where(hu > -500, 1.2 * hu, hu)) == ""  # at -120, as at 80 kV


def test_a_negated_scan_is_told_from_air_of_much_noise() -> None:
    assert severity(-scan() - 1000) == "error"
    noisy = scan()
    noisy[noisy < -900] += np.random.default_rng(0).normal(0, 60, int((noisy < -900).sum()))
    assert severity(noisy) == ""


def test_an_error_can_be_accepted(tmp_path: Path) -> None:
    nib.Nifti1Image((scan() + 300).astype(np.int16), np.diag([3.0, 3.0, 4.0, 1.0])).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(IntakeError, match="HU_SCALE"):
        read_scan(tmp_path / "a.nii.gz")
    (found,) = read_scan(tmp_path / "a.nii.gz", accept=["HU_SCALE"]).findings
    assert (found.code, found.severity) == ("HU_SCALE", Severity.WARNING)


def test_padding_is_apart_and_shares_are_of_the_rest() -> None:
    # 40 voxels of padding, then 30 of air, 50 of soft tissue, 20 of fat: shares of 100
    hu = np.repeat([-2000.0, -1000.0, 50.0, -100.0], [40, 30, 50, 20])
    values = distribution(hu)
    assert (values.low, values.high, values.airy, values.air) == (-1000.0, 50.0, 0.3, -987.5)
    assert (values.peaked, values.body, values.tissue, values.dense) == (1.0, 0.7, 1.0, 0.0)
    assert distribution(np.where(hu == -2000, -1050, hu)).airy == 0.5  # no padding: air could be as low


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    slope=st.floats(-100, 100, width=32).filter(lambda v: v != 0),
    modality=st.sampled_from(["ct", "mr", "label"]),
)
def test_any_values_have_an_answer(values: list[float], slope: float, modality: str) -> None:
    array = np.asfortranarray(np.array(values, dtype=np.float32).reshape(-1, 1, 1))
    assert len(value_findings(array, slope, -1024.0, modality)) <= 1


# --- real scans ------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_scans_pass_and_what_is_done_to_them_is_told(real_data: Path, name: str) -> None:
    read = read_scan(real_data / REAL[name], accept=LENIENT)
    assert not {f.code for f in read.findings} - set(LENIENT)
    hu = thinned(read.array.astype(np.float64) * read.slope + read.intercept)
    assert [change for change, apply in WHOLE.items() if on_values(apply(hu))] == []
    missed = [shift for shift in SHIFTS if severity(hu + shift) != "error"]
    missed += [change for change, apply in BAD.items() if severity(apply(hu)) != "error"]
    missed += [change for change, apply in SPOILT.items() if not on_values(apply(hu))]
    assert not missed
    assert [f.code for f in value_findings(np.asfortranarray(hu), 1.0, 0.0, "mr")] == ["MODALITY"]


@pytest.mark.real_data
def test_crops_of_real_scans_pass_and_a_real_mr_does_not(real_data: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("ircadb", "tcia", "totalsegmentator", "totalsegmentator dicom"):
        volume = read_scan(real_data / REAL[name]).array
        for crop, where in crops(volume, rng, least=8):
            if (crop > -200).mean() > 0.2:  # not air alone
                assert [f for f in on_values(crop) if "no air" not in f.detail] == [], (name, where)
    mr = real_data / "totalsegmentator_examples" / "example_mr_sm.nii.gz"
    assert read_scan(mr, modality="mr").findings == ()
    with pytest.raises(IntakeError, match="HU_SCALE"):
        read_scan(mr)
