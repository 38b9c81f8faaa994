"""One scan in memory: what comes back equals what a folder run writes, whatever kind of scan was given."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

import liver_pipeline as lp
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.provenance import VOLATILE
from tests.dicom_files import ct
from tests.orientations import ORIENTATIONS
from tests.small import BRIEF, NETWORKS, make_phantoms


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder whose network has seen one phantom for one epoch, with a scan beside it."""
    folder = tmp_path_factory.mktemp("segmenter")
    data = make_phantoms(folder / "data")
    overrides = {**BRIEF, **NETWORKS["unet3d"], "dataset_dir": str(data), "spacing": [12.0, 12.0, 19.0]}
    lp.train(folder / "run", {"network": "unet3d"}, overrides=overrides)
    return folder


@pytest.fixture(scope="module")
def segment(trained: Path) -> Any:
    return lp.load_segmenter(trained / "run", device="cpu")


def scan_of(trained: Path) -> Path:
    return trained / "data" / "volume-0.nii.gz"


def test_a_mask_in_memory_equals_the_one_that_predict_writes_and_so_does_its_record(
    trained: Path, segment: Any
) -> None:
    summary = lp.predict(trained / "run", scan_of(trained), trained / "masks")
    assert (summary.done, summary.exit_code) == (1, 0)
    result = segment(scan_of(trained))
    written = nib.load(trained / "masks" / "volume-0.nii.gz")
    np.testing.assert_array_equal(result.label_map, np.asarray(written.dataobj))
    np.testing.assert_array_equal(result.affine, written.affine)
    record = json.loads((trained / "masks" / "volume-0.json").read_text())
    record["output"] |= {"path": None, "sha256": None}
    assert {k: v for k, v in result.record.items() if k not in VOLATILE} == {
        k: v for k, v in record.items() if k not in VOLATILE
    }


def test_one_file_in_one_file_out(trained: Path, tmp_path: Path) -> None:
    mask = tmp_path / "deep" / "mask.nii.gz"
    assert lp.predict(trained / "run", scan_of(trained), mask).exit_code == 0
    assert sorted(path.name for path in mask.parent.iterdir()) == ["mask.json", "mask.nii.gz"]
    lp.predict(trained / "run", scan_of(trained), tmp_path / "folder")
    assert mask.read_bytes() == (tmp_path / "folder" / "volume-0.nii.gz").read_bytes()
    record = json.loads((mask.parent / "mask.json").read_text())["output"]
    assert record["path"] == "mask.nii.gz" and record["sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest()
    with pytest.raises(FileExistsError, match="there already: "):
        lp.predict(trained / "run", scan_of(trained), mask)
    assert lp.predict(trained / "run", scan_of(trained), mask, overrides={"overwrite": True}).done == 1


def test_where_a_mask_cannot_be_written_nothing_is_segmented(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("liver_pipeline.commands.predict.load_runner", None)
    with pytest.raises(PermissionError, match="nothing can be written there"):
        lp.predict(trained / "run", scan_of(trained), tmp_path / "file" / "mask.nii.gz")


def test_one_scan_ends_with_its_volumes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = tmp_path / "mask.nii.gz"
    lp.predict(trained / "run", scan_of(trained), mask)
    image = nib.load(mask)
    counts = np.bincount(np.asarray(image.dataobj).ravel(), minlength=3) * np.prod(image.header.get_zooms()) / 1000
    liver, tumors = f"{counts[1] + counts[2]:.0f}", f"{counts[2]:.1f}"
    said = f"{mask}: liver {liver} ml, of it tumors {tumors} ml; record: {tmp_path / 'mask.json'}\n"
    assert capsys.readouterr().out == said


def test_a_network_without_a_tumor_class_is_not_said_to_have_found_none(tmp_path: Path) -> None:
    case = FolderCase("a", Path("a.png"), output=tmp_path / "a.png", suffix=".png")
    case.volumes = {"voxels": {"0": 9, "1": 5, "2": 0}, "volume_ml": {"1": None, "2": None}}
    assert case.summary({"1": "liver"}) == f"{tmp_path / 'a.png'}: liver 5 pixels; record: {tmp_path / 'a.json'}"


def test_what_lies_beside_one_mask_is_what_lies_beside_it_in_a_folder(trained: Path, tmp_path: Path) -> None:
    asked = {"describe": True, "probabilities": True, "view": True}
    lp.predict(trained / "run", scan_of(trained), tmp_path / "folder", overrides=asked)
    lp.predict(trained / "run", scan_of(trained), tmp_path / "one" / "volume-0.nii.gz", overrides=asked)
    there = {path.name for path in (tmp_path / "folder").iterdir()} - {"ledger.jsonl", "quality.csv"}
    found = {path.name: path for path in (tmp_path / "one").iterdir()}
    assert found.keys() == {name for name in there if name.startswith("volume-0")} and len(found) == 5
    for name in ("volume-0.nii.gz", "volume-0.probabilities.nii.gz"):
        assert found[name].read_bytes() == (tmp_path / "folder" / name).read_bytes()
    records = [json.loads((tmp_path / f / "volume-0.json").read_text())["probabilities"] for f in ("one", "folder")]
    assert records[0] == records[1] and records[0]["path"] == "volume-0.probabilities.nii.gz"
    tables = [json.loads((tmp_path / f / "volume-0.description.json").read_text()) for f in ("one", "folder")]
    assert tables[0]["lesions"] == tables[1]["lesions"] and tables[0]["liver"] == tables[1]["liver"]


def test_the_command_line_loads_little_and_writes_the_same_mask(trained: Path, tmp_path: Path) -> None:
    lp.predict(trained / "run", scan_of(trained), tmp_path / "here.nii.gz", overrides={"backend": "torch"})
    code = "import sys; from liver_pipeline.cli import main; main(sys.argv[1:], standalone_mode=False)"
    heavy = "('ignite', 'torchvision', 'torch._dynamo', 'skimage', 'scipy.stats', 'itk', 'matplotlib', 'tensorboard')"
    code += f"; print(*[name for name in {heavy} if name in sys.modules])"
    words = ["predict", str(trained / "run"), str(scan_of(trained)), str(tmp_path / "fresh.nii.gz"), "backend=torch"]
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[1:] == [""]  # the case's own line, and no heavy name
    assert (tmp_path / "fresh.nii.gz").read_bytes() == (tmp_path / "here.nii.gz").read_bytes()


@pytest.mark.parametrize("key", ["dry_run", "retry_failed", "max_failures"])
def test_what_a_single_mask_has_no_use_for_is_refused(trained: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is of folders"):
        lp.predict(trained / "run", scan_of(trained), tmp_path / "m.nii.gz", overrides={key: 1})
    assert not list(tmp_path.iterdir())


def test_dicom_results_lie_beside_one_mask_and_a_scan_that_is_no_series_gets_its_mask(
    trained: Path, tmp_path: Path
) -> None:
    series, mask = ct(tmp_path / "ct", odd=range(12), SliceThickness=3.0), tmp_path / "out" / "mask.nii.gz"
    overrides = {"dicom": ["seg", "sr", "sc"], "quality": True}
    assert lp.predict(trained / "run", series, mask, overrides=overrides).exit_code == 0
    found = {path.name for path in mask.parent.iterdir()}
    assert found == {"mask.json", "mask.nii.gz", "mask.seg.dcm", "mask.sr.dcm", "mask.sc"}
    assert "Quality of the segmentation" in pydicom.dcmread(mask.parent / "mask.sr.dcm").to_json()
    with pytest.raises(FileExistsError, match="there already: "):
        lp.predict(trained / "run", series, mask, overrides=overrides)
    told = lp.predict(trained / "run", scan_of(trained), tmp_path / "other.nii.gz", overrides={"dicom": ["seg"]})
    assert (told.done, told.refused, told.exit_code) == (1, 1, 3) and (tmp_path / "other.nii.gz").exists()


def test_a_mask_that_is_judged_stays_the_same_and_its_reasons_are_told(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = [tmp_path / "plain.nii.gz", tmp_path / "judged.nii.gz"]
    for mask, quality in zip(masks, (False, True), strict=True):
        lp.predict(trained / "run", scan_of(trained), mask, overrides={"quality": quality})
    assert masks[0].read_bytes() == masks[1].read_bytes()
    quality = json.loads((tmp_path / "judged.json").read_text())["quality"]
    assert quality["reasons"]  # one epoch gives no liver to trust
    assert quality["reasons"][0]["message"] in caplog.text


def test_a_page_beside_the_mask_by_either_way(trained: Path, tmp_path: Path) -> None:
    for masks in (tmp_path / "one.nii.gz", tmp_path / "folder"):
        assert lp.predict(trained / "run", scan_of(trained), masks, overrides={"view": True}).done == 1
    pages = [(tmp_path / name).read_text() for name in ("one.html", "folder/volume-0.html")]
    assert all('id="volume-mask"' in page and '"warnings"' in page for page in pages)


def test_the_ending_of_one_mask_is_its_format_and_several_scans_are_no_one_mask(trained: Path, tmp_path: Path) -> None:
    lp.predict(trained / "run", scan_of(trained), tmp_path / "m.nii.gz")
    for name in ("m2.nrrd", "m3.mha", "m4.nii"):
        lp.predict(trained / "run", scan_of(trained), tmp_path / name)
        ours, twin = (lp.read_label_map(tmp_path / each) for each in (name, "m.nii.gz"))
        np.testing.assert_array_equal(ours.array, twin.array)
        np.testing.assert_allclose(ours.affine, twin.affine, atol=1e-4)
        assert json.loads((tmp_path / f"{name.partition('.')[0]}.json").read_text())["output"]["path"] == name
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"holds 3 scans \(volume-0.*--series"):
        lp.predict(trained / "run", trained / "data", tmp_path / "x.nii.gz")
    with pytest.raises(ValueError, match=r"masks are written as \.nii\.gz"):
        lp.predict(trained / "run", scan_of(trained), tmp_path / "x.mgz")
    with pytest.raises(ValueError, match="leave one of them out"):
        lp.predict(trained / "run", scan_of(trained), tmp_path / "x.nrrd", overrides={"format": "mha"})
    assert sorted(tmp_path.iterdir()) == before


def test_no_mask_replaces_its_scan_whatever_way_it_is_named(trained: Path, tmp_path: Path) -> None:
    scan, link = tmp_path / "scan.nii.gz", tmp_path / "link.nii.gz"
    shutil.copy(scan_of(trained), scan)
    link.symlink_to(scan)
    before = scan.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "only.nii.gz").symlink_to(scan)
    for source, mask in ((scan, scan), (scan, link), (link, scan), (tmp_path / "folder", scan)):
        with pytest.raises(ValueError, match="is what is read, and would be replaced"):
            lp.predict(trained / "run", source, mask, overrides={"overwrite": True})
        assert scan.read_bytes() == before and link.is_symlink()
    with pytest.raises(ValueError, match="masks are written as"):
        lp.predict(trained / "run", scan, tmp_path / "MASK.NII.GZ")


def test_every_kind_of_scan_gives_the_same_labels(trained: Path, segment: Any) -> None:
    path = scan_of(trained)
    image = nib.load(path)
    wanted = segment(path).label_map
    sources = {
        "path as text": str(path), "scan": lp.read_scan(path), "nibabel": image,
        "SimpleITK": SimpleITK.ReadImage(str(path)), "itk": itk.imread(str(path)),
    }  # fmt: skip
    for kind, source in sources.items():
        np.testing.assert_array_equal(segment(source).label_map, wanted, err_msg=kind)
    array = np.asarray(image.dataobj)
    np.testing.assert_array_equal(segment(array, affine=image.affine).label_map, wanted)


@pytest.mark.parametrize("turn", ORIENTATIONS[::11])
def test_labels_lie_on_the_inputs_own_grid_however_its_axes_run(
    trained: Path, segment: Any, turn: tuple[tuple[int, ...], ...]
) -> None:
    image = nib.load(scan_of(trained))
    ornt = np.stack(turn, axis=1).astype(float)
    turned = image.as_reoriented(ornt)
    result = segment(turned)
    straight = nib.orientations.apply_orientation(segment(image).label_map, ornt)
    np.testing.assert_array_equal(result.label_map, straight)


def test_calls_from_several_threads_queue_and_give_what_single_calls_give(trained: Path, segment: Any) -> None:
    paths = sorted((trained / "data").glob("volume-*.nii.gz"))
    single = [segment(path).label_map for path in paths]
    with ThreadPoolExecutor(3) as pool:
        for alone, together in zip(single, pool.map(segment, paths), strict=True):
            np.testing.assert_array_equal(alone, together.label_map)


def test_probabilities_come_on_request_and_bad_input_has_its_code(trained: Path, segment: Any, tmp_path: Path) -> None:
    assert segment(scan_of(trained)).probabilities is None
    asked = lp.load_segmenter(trained / "run", device="cpu", probabilities=True)(scan_of(trained))
    assert asked.probabilities is not None
    assert asked.probabilities.shape == (*asked.label_map.shape, 2) and asked.probabilities.max() <= 1.0
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    with pytest.raises(lp.IntakeError) as caught:
        segment(tmp_path / "empty.nii.gz")
    assert caught.value.code == "EMPTY_FILE"
    with pytest.raises(lp.IntakeError) as caught:
        segment(np.full((8, 8, 8), np.nan), affine=np.eye(4))
    assert caught.value.code == "NON_FINITE"
    with pytest.raises(TypeError, match="affine="):
        segment(np.zeros((4, 4, 4)))
    with pytest.raises(TypeError, match="cannot segment a dict"):
        segment({})
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        lp.load_segmenter(tmp_path / "nothing")


class Hidden:
    """A post-processing of one's own that keeps its setting to itself."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def __call__(self, data: Any) -> Any:
        return data


def test_a_changed_setting_of_any_class_runs_again_and_where_things_lie_does_not(trained: Path, tmp_path: Path) -> None:
    step = {"_target_": f"{__name__}.Hidden", "threshold": 0.5}
    values = {"postprocessing::transforms": [step]}
    scans, masks = trained / "data", tmp_path / "masks"
    assert lp.predict(trained / "run", scans, masks, overrides=values).done == 3
    assert (
        lp.predict(trained / "run", scans, masks, overrides={**values, "max_failures": 9, "describe": True}).done == 0
    )
    record = json.loads((masks / "volume-0.json").read_text())["config"]["settings"]
    assert record["overrides"] == values
    values["postprocessing::transforms"] = [{**step, "threshold": 0.7}]
    assert lp.predict(trained / "run", scans, masks, overrides=values).done == 3
    plain = lp.load_segmenter(trained / "run").runner
    same = lp.load_segmenter(
        trained / "run", device="cpu", tta=[], ckpt_path=str(trained / "run/models/model.pt")
    ).runner
    assert plain.config_sha256 == same.config_sha256  # the same values as in the run


@pytest.mark.parametrize("name", ["mask.dcm", "mask.TIF", "mask.npz", "mask.nii.gzip"])
def test_a_mask_named_as_a_file_of_another_kind_makes_no_folder_of_that_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="masks are written as"):
        lp.predict("default", tmp_path, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_done_is_raised_by_its_own_type(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this machine has \d+ such devices"):  # MONAI would wrap it in a RuntimeError
        lp.load_segmenter(trained / "run", device="cuda:9")
    with pytest.raises(lp.IntakeError) as refused:
        lp.predict(trained / "run", tmp_path / "nowhere", tmp_path / "masks")
    assert refused.value.code == "NOT_FOUND"
