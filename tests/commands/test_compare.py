"""compare end to end on phantoms: runs that continue, one that fails, a page that says all of it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from liver_pipeline.cli import main
from liver_pipeline.commands import compare
from liver_pipeline.comparison.results import RunResult
from liver_pipeline.comparison.tables import Comparison, FailedRun
from liver_pipeline.data.splits import held_out_fold
from liver_pipeline.reports import comparison_tables
from liver_pipeline.reports.charts import interval_bars, line_chart
from liver_pipeline.reports.comparison_charts import sizes
from liver_pipeline.reports.html import shown_number
from liver_pipeline.reports.paired_differences import paired_differences
from tests.small import make_phantoms
from tests.waiting import wait_for

COMMON: dict[str, Any] = {
    "spacing": [12.0, 12.0, 19.0],
    "roi_size": [16, 16, 16],
    "network_def::channels": [4, 8],
    "learning_rate": 1.0e-2,
}
SECTIONS = (
    "failed", "results", "bars", "tests", "curves", "roc", "confusion", "pictures", "cost", "tumors", "cases", "about",
)  # fmt: skip


def command(folder: Path, shares: str = "[0.34, 0.33, 0.33]") -> Result:
    experiments = ",".join(str(folder / f"{name}.yaml") for name in ("both", "liver", "broken"))
    words = ["compare", str(folder / "out"), "--experiments", experiments, "--data", "phantom", "--seeds", "2"]
    keys = ["n_phantoms=6", "max_epochs=1", "crops_per_case=1", "num_workers=0", "inferer::backend=torch"]
    keys += [f"dataset_dir={folder / 'phantoms'}", f"split_fractions={shares}"]
    return CliRunner().invoke(main, [*words, *keys])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two small networks, one of liver alone, and one that cannot work."""
    folder = tmp_path_factory.mktemp("compare")
    make_phantoms(folder / "phantoms", 6)
    for name, changes in (("both", {}), ("liver", {"num_classes": 2}), ("broken", {"initial_weights": "nowhere.pt"})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"layers": {"network": "unet3d"}, **COMMON, **changes}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "_alone", compare._attempt)
        result = command(folder)
    assert result.exit_code == 3, result.output
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_bundle_with_the_shared_split(folder: Path) -> None:
    shared = json.loads((folder / "out/split.json").read_text())["cases"]
    assert [len(shared[part]) for part in ("train", "val", "test")] == [2, 2, 2]
    for run in ("both/seed0", "both/seed1", "liver/seed0", "liver/seed1"):
        assert json.loads((folder / "out" / run / "split.json").read_text())["cases"] == shared
        config = yaml.safe_load((folder / "out" / run / "configs/train.yaml").read_text())
        assert config["seed"] == int(run[-1])
        assert (folder / "out" / run / "models/model.pt").is_file()


def test_rows_hold_every_run_and_case_and_leave_undefined_figures_blank(folder: Path) -> None:
    rows = read_csv(folder / "out/compare.csv")
    assert sorted({(row["experiment"], row["run"]) for row in rows}) == [
        ("both", "seed0"), ("both", "seed1"), ("liver", "seed0"), ("liver", "seed1")
    ]  # fmt: skip
    assert len(rows) == 8
    for row in rows:
        assert 0 <= float(row["liver_dice"]) <= 1 and 0 <= float(row["liver_auc_roc"]) <= 1
        assert float(row["seconds"]) > 0 and int(row["slices"]) == 16 and float(row["parameters"]) > 100
        assert row["tumor_dice"] == "" or row["experiment"] == "both"


def test_the_run_that_failed_is_named_with_its_reason(folder: Path) -> None:
    page = (folder / "out/compare.html").read_text()
    markdown = (folder / "out/compare.md").read_text()
    for seed in (0, 1):
        assert f"broken/seed{seed}" in page
        assert re.search(rf"\| broken/seed{seed} \| training \| \S+", markdown)
    assert "nowhere.pt" in page.split('id="failed"')[1].split("</section>")[0]


def test_page_has_every_section_and_loads_nothing(folder: Path) -> None:
    text = (folder / "out/compare.html").read_text()
    assert tuple(re.findall(r'<section id="(\w+)">', text)) == SECTIONS
    assert text.count("<section") == text.count("</section>")
    assert not re.search(r"url\(|@import|https?://|<link|<iframe", text)
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', text)
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "Without a tumor class: liver" in text
    assert "cannot give a p below" in text  # two patients


def test_the_same_command_trains_nothing_and_redoes_only_what_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_alone", compare._attempt)
    kept = [*(folder / "out").glob("*/seed*/models/model.pt"), *(folder / "out").glob("*/seed*/evaluation/m*/*.nii.gz")]
    kept += [*(folder / "out").glob("*/seed*/log.csv")]
    scores = sorted((folder / "out").glob("*/seed*/evaluation/metrics.json"))
    assert len(kept) == 4 + 4 * 4 + 4 and len(scores) == 4
    for path in scores:
        os.utime(path, (4e9, 4e9))  # written while the clock was wrong
    lost = next(path for path in kept if "both/seed1" in str(path) and path.name.startswith("volume"))
    content = lost.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in [*kept, *scores]}
    lost.unlink()
    assert command(folder).exit_code == 3
    assert lost.read_bytes() == content
    case = lost.name.split(".")[0]
    changed = [path for path in before if path.stat().st_mtime_ns != before[path]]
    assert {path.name.split(".")[0] for path in changed} == {case, "metrics"}
    assert {path.relative_to(folder / "out").parts[1] for path in changed} == {"seed1"}
    assert len([path for path in changed if path in scores]) == 1


def test_a_reference_that_was_corrected_is_scored_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_alone", compare._attempt)
    (name, *_) = json.loads((folder / "out/split.json").read_text())["cases"]["test"]
    label = folder / "phantoms" / f"{name.replace('volume', 'segmentation')}.nii.gz"
    content, page = label.read_bytes(), (folder / "out/compare.csv").read_bytes()
    image = nib.load(label)
    voxels = np.asarray(image.dataobj).copy()
    voxels[voxels.shape[0] // 2 :] = 0
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), label)
    masks = sorted((folder / "out").glob("*/seed*/evaluation/masks/ledger.jsonl"))
    before = [path.read_bytes() for path in masks]
    assert command(folder).exit_code == 3
    assert (folder / "out/compare.csv").read_bytes() != page
    assert [path.read_bytes() for path in masks] == before  # nothing was segmented again
    label.write_bytes(content)
    assert command(folder).exit_code == 3
    assert (folder / "out/compare.csv").read_bytes() == page


def test_another_split_is_refused(folder: Path) -> None:
    result = command(folder, "[0.5, 0.25, 0.25]")
    assert (result.exit_code, "choose another OUT_DIR" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("experiments", "keys", "message"),
    [
        (["smoke"], {}, "needs two"),
        (["smoke", "smoke"], {}, "named twice"),
        (["smoke", "smok"], {}, "did you mean 'smoke'"),
        (["smoke", "flagship_2core"], {"seed": 3}, "--seeds"),
        (["smoke", "flagship_2core"], {"max_epoch": 3}, "did you mean 'max_epochs'"),
        (["smoke", "flagship_2core"], {"roi_size": [15, 15, 15]}, r"roi_size is \[15, 15, 15\]"),
        (["smoke", "flagship_2core"], {"optimizer::betas": 3}, "^optimizer::betas is 3"),
        (["smoke", "flagship_2core"], {"optimizer::rate": 3}, "optimizer::rate|'rate'"),
        (["smoke", "flagship_2core"], {"optimizer::lr": "$1/0"}, "^optimizer::lr is '.1/0'"),
        (["smoke", "flagship_2core"], {"train::handlers::0": 5}, "^train::handlers::0 is 5"),
        (["smoke", "flagship_2core"], {"split_fractions::1": 0.9}, "give it whole"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_written(
    experiments: list[str], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        compare.compare(tmp_path / "out", experiments, overrides=keys)
    assert not (tmp_path / "out").exists()


def test_what_cannot_take_part_is_told_before_the_others_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(*_: object) -> RunResult:
        assert "odd takes no part: roi_size is [15, 15, 15]" in capsys.readouterr().out
        raise KeyboardInterrupt

    (tmp_path / "odd.yaml").write_text("layers: {network: unet3d}\nroi_size: [15, 15, 15]\n")
    make_phantoms(tmp_path / "phantoms", 6)
    monkeypatch.setattr(compare, "_run", trained)
    keys = {"dataset_dir": str(tmp_path / "phantoms"), "split_fractions": "$[0.5, 0.3, 0.2]"}
    with pytest.raises(KeyboardInterrupt):
        compare.compare(tmp_path / "out", [str(tmp_path / "odd.yaml"), "smoke"], overrides=keys)
    settings = json.loads((tmp_path / "out" / "split.json").read_text())["settings"]
    assert settings == {"fractions": [0.5, 0.3, 0.2]}


def test_in_folds_each_patient_is_tested_once_and_never_chosen_on() -> None:
    cases = [{"case": f"c{i}", "patient": f"p{i // 2}", "image": f"{i}.nii", "label": f"l{i}.nii"} for i in range(14)]
    tested: list[str] = []
    for fold in range(4):
        split = held_out_fold(cases, folds=4, fold=fold)
        sides = {part: {case["patient"] for case in split[part]} for part in split}
        assert sides["train"] | sides["val"] | sides["test"] == {f"p{i}" for i in range(7)}
        assert sum(len(side) for side in sides.values()) == 7
        tested += sides["test"]
    assert sorted(tested) == [f"p{i}" for i in range(7)]


def live() -> None:
    pass


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def complain() -> None:
    try:
        raise ValueError("as planned")
    except ValueError as error:
        raise RuntimeError("as MONAI wraps it") from error


@pytest.mark.slow
def test_a_run_has_a_process_of_its_own_whose_death_is_survived() -> None:
    assert compare._alone(live) is None
    assert compare._alone(die) == "the process died, most likely for want of memory"
    assert compare._alone(complain) == "ValueError: as planned"


def wait_in_a_process(pid_file: Path) -> None:
    compare._alone(wait, pid_file)


def wait(pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.slow
def test_a_run_ends_with_the_command_that_started_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = get_context("spawn").Process(target=wait_in_a_process, args=(pid_file,))
    command.start()
    wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()))
    command.kill()
    wait_for(lambda: not Path(f"/proc/{pid_file.read_text()}").exists())


# --- the page, from planted results ---


def planted(experiment: str, shift: float, *, classes: int = 3, cases: int = 8) -> RunResult:
    """A run whose Dice is ``shift`` above that of the others in every case."""
    from liver_pipeline.metrics.comparisons import FIGURES

    rows = []
    for i in range(cases):
        figures: dict[str, Any] = dict.fromkeys(FIGURES)
        figures |= {"liver_dice": 0.6 + 0.02 * i + shift + 0.001 * (i % 3), "liver_hd95_mm": 20 - 50 * shift + 0.1 * i}
        row = {"experiment": experiment, "run": "seed0", "seed": 0, "fold": None, "case": f"c{i}", "patient": f"p{i}"}
        cost = {"seconds": 2.0, "seconds_network": 1.5, "slices": 100, "peak_mb": 900.0, "parameters": 10}
        rows.append({**row, "failure": None, **figures, **cost, "predicted_tumor_ml": 0.0, "predicted_tumor_burden": 0})
    log: list[dict[str, float | None]] = [{"epoch": 1.0, "train_loss": 1.0, "val_dice_liver": 0.5, "seconds": 60.0}]
    confusion, sizes = [[9, 1, 0], [0, 5, 0], [0, 0, 0]], {"<10mm": 8, "10-20mm": 0, ">20mm": 2}
    return RunResult(experiment, 0, None, Path("seed0"), classes, rows, confusion, {}, log, [], sizes)


def test_the_page_calls_the_planted_better_model_better() -> None:
    split = {"train": ["a"], "val": ["b"], "test": ["c"]}
    comparison = Comparison([planted("poor", 0.0), planted("good", 0.1)], [], [split], {})
    text = paired_differences(comparison)
    assert text.count("good better") == 2  # higher Dice, shorter distance
    assert "poor better" not in text
    (dice,) = (pair for pair in comparison.statistics["pairs"] if pair["figure"] == "liver_dice")
    assert dice["ci_high"] < 0 and dice["p_holm"] == pytest.approx(2 / 2**8)
    assert comparison_tables.remarks(comparison) == []
    cost = comparison.cost("good")
    assert (cost["seconds_slice"], cost["training"], cost["peak_gb"]) == (0.02, 60.0, 0.9)


def test_few_patients_mixed_classes_and_missing_runs_are_said_first() -> None:
    results = [planted("a", 0.0, cases=3), planted("b", 0.1, classes=2, cases=3)]
    more = RunResult(**{**vars(results[0]), "seed": 1})
    comparison = Comparison([*results, more], [FailedRun("b/seed1", "training", "<no>")], [], {})
    text = comparison_tables.comparison_headline(comparison)
    assert "Without a tumor class: b" in text and "below 0.25" in text and "a 2, b 1" in text
    assert comparison.confusion("b") == [[9, 1], [0, 5]]
    assert comparison.in_region("tumor") == ["a"]


def test_lesions_are_counted_by_size_beside_the_reference() -> None:
    lesion = {"volume_ml": 1.0, "mean_confidence": None}
    tumors = [{**lesion, "size_class": size} for size in ("<10mm", "<10mm", "<10mm", "<10mm", ">20mm")]
    first = RunResult(**{**vars(planted("a", 0.0)), "tumors": tumors})
    second = RunResult(**{**vars(first), "seed": 1, "tumors": []})  # so 2, 0 and 0.5 lesions a run, of 8, 0 and 2
    liver = planted("liver only", 0.0, classes=2)
    text = sizes(Comparison([first, second, liver], [], [], {}))
    heights = [float(found) for found in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    assert np.array(heights) / heights[0] == pytest.approx(np.array([8, 2, 0, 0, 2, 0.5]) / 8, abs=0.01)
    assert 'class="bar tone0"' in text and "liver only" not in text
    assert sizes(Comparison([liver], [], [], {})) == ""


def test_training_and_validation_stand_side_by_side_at_the_epoch_that_is_kept() -> None:
    scores = [(0.5, 0.9, 1.1), (0.8, 0.7, 0.95), (0.8, 0.6, 1.3), (None, 0.5, None)]
    log = [
        {"epoch": float(n), "seconds": 1.0, "train_loss": loss, "val_loss": other, "val_mean_dice": dice}
        for n, (dice, loss, other) in enumerate(scores, 1)
    ]
    one = RunResult(**{**vars(planted("a", 0.0)), "log": log})
    kept, every = comparison_tables.training_table(Comparison([one], [], [], {})).split("<details>")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", kept)
    assert cells[:5] == ["a/seed0", "2 of 4", "0.700", "0.950", "0.800"]  # the first of equals
    assert every.count("<tr") == 1 + 1 + 4
    unscored = RunResult(**{**vars(one), "log": log[3:]})
    assert "kept" not in comparison_tables.training_table(Comparison([unscored], [], [], {}))


def test_a_bar_ends_at_its_value_and_its_interval_around_it() -> None:
    text = interval_bars([("x", 0.5, 0.4, 0.7, "n = 3"), ("y", None, None, None, "")], name="Dice", unit_range=True)
    (width,) = (float(found) for found in re.findall(r'class="bar[^>]*width="([\d.]+)"', text))
    axis_end = max(float(found) for found in re.findall(r'class="grid" x1="([\d.]+)"', text))
    assert width == pytest.approx((axis_end - 12) / 2, abs=0.1)
    assert text.count('class="span"') == 1 and "–" in text


def test_a_line_of_one_point_is_a_dot() -> None:
    text = line_chart([(0, [(1, 0.5)], ""), (9, [(0, 0), (1, 1)], "thin")], x_name="epoch", name="loss")
    assert text.count("<circle") == 1 and 'class="trace tone1 thin"' in text
    assert shown_number(0.5) in ("0.500",)
