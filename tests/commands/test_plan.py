"""From a fingerprint to an experiment file: rules with known answers, counted memory, a training that runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from monai.bundle import ConfigParser
from torch import nn

from liver_pipeline.bundle.entry import parse_overrides
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.names import layer_file, layer_names
from liver_pipeline.cli import main
from liver_pipeline.commands.plan import plan
from liver_pipeline.data.phantoms import make_phantom_dataset, save_phantom
from liver_pipeline.networks.shapes import roi_multiple
from liver_pipeline.planning.rules import batch_size, memory_budget, patch_size, target_spacing, tumor_ratio
from liver_pipeline.planning.training_memory import TrainingMemory, training_memory

TINY_NETWORK = "network_def::channels=[4,8]"


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom_dataset(tmp_path_factory.mktemp("data"), 4, shape=(40, 32, 20), spacing=(10.0, 10.0, 16.0))


# --- rules ---------------------------------------------------------------------------------------------------------


def test_the_target_spacing_is_the_median() -> None:
    spacings = [[0.7, 0.7, 1.0], [0.8, 0.8, 2.0], [0.9, 0.9, 5.0]]
    assert target_spacing(spacings, [[512, 512, 300]] * 3).value == [0.8, 0.8, 2.0]


def test_a_coarse_axis_gets_the_tenth_percentile() -> None:
    coarse = np.linspace(3.0, 7.0, 11)  # the 10th percentile is 3.4
    spacings = [[0.8, 0.8, z] for z in coarse]
    assert target_spacing(spacings, [[512, 512, 60]] * 11).value == [0.8, 0.8, 3.4]
    assert target_spacing(spacings, [[512, 512, 200]] * 11).value == [0.8, 0.8, 5.0]  # long: not coarse in voxels
    turned = [[z, 0.8, 0.8] for z in coarse]
    assert target_spacing(turned, [[60, 512, 512]] * 11).value == [3.4, 0.8, 0.8]


def test_a_coarse_axis_never_gets_finer_than_the_others() -> None:
    spacings = [[1.0, 1.0, z] for z in (0.5, 5.0, 5.0, 5.0, 5.0)]
    assert target_spacing(spacings, [[400, 400, 50]] * 5).value[2] >= 1.0


def per_voxel(n_bytes: float, roi: tuple[int, int, int] = (64, 64, 64)) -> TrainingMemory:
    return TrainingMemory(fixed=1e9, per_window=n_bytes * float(np.prod(roi)), roi_size=roi)


def test_a_patch_covers_a_median_case_that_fits_rounded_up_to_the_multiple() -> None:
    sides = patch_size((100, 90, 33), (2.0, 2.0, 4.0), per_voxel(1), multiple=16, windows=2, budget=1e12)
    assert sides == [112, 96, 48]


def test_a_patch_that_does_not_fit_shrinks_where_it_covers_most_of_the_case() -> None:
    memory, budget = per_voxel(1000), 1e9 + 2 * 1000 * 128**3
    sides = patch_size((512, 512, 128), (0.8, 0.8, 2.5), memory, multiple=16, windows=2, budget=budget)
    assert memory.windows(budget, sides) >= 2
    assert all(side % 16 == 0 for side in sides)
    cover = np.array(sides) / (512, 512, 128)
    assert cover.max() - cover.min() <= 16 / 128  # the same share of every axis, up to one step
    larger = [side + 16 for side in sides]
    assert memory.windows(budget, larger) < 2  # no room was given away


def test_a_network_of_slices_keeps_one_slice() -> None:
    memory = per_voxel(100, (256, 256, 1))
    sides = patch_size((512, 512, 100), (0.8, 0.8, 5.0), memory, multiple=32, windows=8, budget=1e12)
    assert sides == [512, 512, 1]


def test_too_little_memory_is_said() -> None:
    with pytest.raises(ValueError, match="choose a smaller network"):
        patch_size((512, 512, 128), (0.8, 0.8, 2.5), per_voxel(1000), multiple=16, windows=2, budget=1e9)


def test_a_batch_fills_the_memory_but_takes_at_most_five_percent_of_the_data() -> None:
    size, sides = (256, 256, 128), (128, 128, 64)  # an eighth of a case
    assert batch_size(sides, size, 200, crops_per_case=2, windows=7) == 3
    assert batch_size(sides, size, 20, crops_per_case=2, windows=100) == 4  # 5 % of 20 cases: 8 eighths
    assert batch_size(sides, size, 1, crops_per_case=2, windows=100) == 1


@pytest.mark.parametrize(("n_cases", "with_tumor"), [(10, 10), (10, 8), (10, 6)])
def test_a_third_of_all_windows_is_centred_on_tumor(n_cases: int, with_tumor: int) -> None:
    ratio = tumor_ratio(n_cases, with_tumor)
    assert with_tumor / n_cases * ratio / (ratio + 2) == pytest.approx(1 / 3, abs=0.02)


def test_rare_tumors_get_at_most_two_thirds_of_a_cases_windows() -> None:
    assert tumor_ratio(100, 1) == tumor_ratio(3, 1) == 4.0


# --- memory --------------------------------------------------------------------------------------------------------


def built(network: str, *overrides: str) -> tuple[nn.Module, list[int]]:
    values = {"dataset_dir": ".", "encoder_weights": None, **parse_overrides(overrides)}
    parser = ConfigParser(merge_layers({"network": network}, overrides=values)["train"])
    return parser.get_parsed_content("network_def"), parser.get_parsed_content("roi_size")


QUICK = ("unet3d", "dynunet", "resnet34_unet", "unet2d")
NETWORKS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in layer_names("network")
    if "multiples of" in layer_file("network", name).read_text()
]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_multiple_found_is_the_one_that_the_networks_file_names(network: str) -> None:
    text = layer_file("network", network).read_text()
    named = re.search(r"roi_size: .*multiples of (\d+)", text)
    assert named is not None
    assert roi_multiple(*built(network), 1) == int(named[1])


def test_memory_of_one_convolution_is_counted_by_hand() -> None:
    network = nn.Conv3d(1, 3, kernel_size=1)  # keeps its input; 6 parameters
    memory = training_memory(network, (10, 10, 10), 1, device="cpu", amp=False)
    kept, loss = 4 * 1000, 4 * 4 * 3000  # input in float32; four tensors like the logits
    assert memory.per_window == kept + 2 * kept + loss
    assert memory.fixed == 16 * 6


def test_mixed_precision_halves_what_convolutions_keep_and_changes_no_setting() -> None:
    network, roi = built("unet3d")
    half, full = (training_memory(network, roi, 1, amp=amp).per_window for amp in (True, False))
    assert 0.5 < half / full < 0.65  # the loss stays in float32
    assert network.training and next(network.parameters()).device.type == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize(("network", "windows"), [("unet3d", 1), ("unet3d", 2), ("dynunet", 1)])
def test_memory_is_what_a_training_step_takes_on_the_cpu(network: str, windows: int) -> None:
    side = 64
    script = f"""
import resource
import torch
from monai.bundle import ConfigParser
from liver_pipeline.bundle.layers import merge_layers
config = merge_layers({{"network": "{network}"}}, overrides={{"dataset_dir": "."}})["train"]
parser = ConfigParser(config)
network, loss = (parser.get_parsed_content(key) for key in ("network_def", "train::loss"))
with open("/proc/self/statm") as file:
    before = 4096 * int(file.read().split()[1]) - 4 * sum(p.numel() for p in network.parameters())
optimizer = torch.optim.AdamW(network.train().parameters())
image, label = torch.rand({windows}, 1, *[{side}] * 3), torch.randint(0, 3, ({windows}, 1, *[{side}] * 3)).float()
for _ in range(2):
    optimizer.zero_grad()
    loss(network(image), label).backward()
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    measured = float(done.stdout.split()[-1])
    module, _ = built(network)
    counted = training_memory(module, [side] * 3, 1, device="cpu", amp=False).bytes(windows, [side] * 3)
    assert counted == pytest.approx(measured, rel=0.15)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_experiment_composes_and_trains_as_it_is(phantoms: Path, tmp_path: Path) -> None:
    result = call("plan", tmp_path / "plan", "--modality", "ct_zscore", f"dataset_dir={phantoms}", TINY_NETWORK)
    assert result.exit_code == 0, result.output
    experiment = tmp_path / "plan" / "experiment.yaml"
    values = yaml.safe_load(experiment.read_text())
    assert values["layers"] == {"data": "lits", "modality": "ct_zscore", "network": "unet3d"}
    assert values["spacing"] == [10.0, 10.0, 16.0]
    assert values["roi_size"] == [40, 32, 20]  # the whole median case; two levels need multiples of 2
    assert values["network_def::channels"] == [4, 8]
    assert values["class_ratios"] == [1, 1, tumor_ratio(4, 3)]
    liver = json.loads((tmp_path / "plan" / "fingerprint.json").read_text())["summary"]["intensity"]["foreground"]
    assert values["hu_window"] == [liver["p0.5"], liver["p99.5"]]
    assert values["hu_mean"] == round(liver["mean"], 1)
    assert all("#" in line for line in experiment.read_text().splitlines()[2:])  # a reason for each
    run = tmp_path / "run"
    short = ["max_epochs=1", "num_workers=0", "split_fractions=[0.5,0.25,0.25]"]
    trained = call("train", run, "--experiment", experiment, f"dataset_dir={phantoms}", *short)
    assert trained.exit_code == 0, trained.output
    assert (run / "models" / "model.pt").exists()
    assert yaml.safe_load((run / "configs" / "train.yaml").read_text())["hu_window"] == values["hu_window"]


def test_values_that_were_given_win_and_are_written(phantoms: Path, tmp_path: Path) -> None:
    words = ["spacing=[12,12,16]", "roi_size=[16,16,16]", TINY_NETWORK]
    assert call("plan", tmp_path, f"dataset_dir={phantoms}", *words).exit_code == 0
    values = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert (values["spacing"], values["roi_size"]) == ([12, 12, 16], [16, 16, 16])
    assert "dataset_dir" not in values and "hu_mean" not in values  # the layer ct knows no hu_mean


@pytest.mark.parametrize(
    ("name", "filled"),
    [("jhilik2025_resnet50_unet", {"hu_window", "hu_mean", "hu_std"}), ("srivastava2025_unet3d", set())],
)
def test_an_experiment_is_filled_in_with_the_intensities_of_the_data_set(
    phantoms: Path, tmp_path: Path, name: str, filled: set[str]
) -> None:
    assert call("plan", tmp_path, "--experiment", name, f"dataset_dir={phantoms}", "batch_size=3").exit_code == 0
    own = yaml.safe_load(layer_file("experiment", name).read_text())
    values = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    found = json.loads((tmp_path / "fingerprint.json").read_text())["summary"]["intensity"]["foreground"]
    measured = {"hu_window": [found["p0.5"], found["p99.5"]], "hu_mean": found["mean"], "hu_std": found["sd"]}
    layers = {"data": "lits", "modality": "ct", **own.pop("layers")}
    assert values.pop("layers") == layers
    expected = {**own, "batch_size": 3, **{key: pytest.approx(measured[key], abs=0.05) for key in filled}}
    assert values == expected
    written = merge_layers({}, experiment=str(tmp_path / "experiment.yaml"))["train"]
    assert all(written[key] == values[key] for key in filled)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["spacing=[0.05,0.05,0.05]"],
            r"volume-0: spacing .* makes \d{4} x \d{4} x \d{4} voxels .* more than this job",
        ),
        (
            ["spacing=null", "grid_size=[4096,4096,4096]"],
            "volume-0: grid_size .* makes 4096 x 4096 x 4096 voxels .* 275 GB",
        ),
        (
            ["roi_size=[4096,4096,4096]"],
            r"roi_size is \[4096, 4096, 4096\] .* a window takes 550 GB, more than this job",
        ),
    ],
)
def test_a_grid_or_a_window_that_no_memory_holds_is_refused_as_a_training_would(
    words: list[str], message: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("bundle.build", "transforms.spatial"):
        monkeypatch.setattr(f"liver_pipeline.{module}.total_bytes", lambda: 16 << 30)
    refused = call("plan", tmp_path / "plan", f"dataset_dir={phantoms}", TINY_NETWORK, *words)
    assert refused.exit_code == 2
    assert re.search(message, refused.stderr), refused.stderr
    assert not (tmp_path / "plan" / "experiment.yaml").exists()


def test_a_grid_of_a_given_size_and_values_that_are_code_are_planned_for(phantoms: Path, tmp_path: Path) -> None:
    words = ["plan", tmp_path, f"dataset_dir={phantoms}", TINY_NETWORK]
    assert call(*words, "spacing=null", "grid_size=[24,24,-1]").exit_code == 0
    values = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert (values["spacing"], values["grid_size"], values["roi_size"]) == (None, [24, 24, -1], [24, 24, 20])
    assert call(*words, "spacing=$[20.0] * 3", "roi_size=$[16] * 3").exit_code == 0
    values = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert (values["spacing"], values["roi_size"]) == ("$[20.0] * 3", "$[16] * 3")
    merge_layers({}, experiment=str(tmp_path / "experiment.yaml"))


def test_no_spacing_is_proposed_that_the_key_does_not_take() -> None:
    assert target_spacing([[0.01, 0.02, 1.0]], [[512, 512, 300]]).value == [0.05, 0.05, 1.0]


def test_an_edited_experiment_is_not_replaced(phantoms: Path, tmp_path: Path) -> None:
    words = ["plan", tmp_path, f"dataset_dir={phantoms}", TINY_NETWORK]
    assert call(*words).exit_code == 0
    experiment = tmp_path / "experiment.yaml"
    planned = experiment.read_text()
    assert call(*words, "--gpu-memory-gb", "8").exit_code == 0  # as planned: replaced
    assert "for a GPU of 8 GB" in experiment.read_text()
    experiment.write_text(planned.replace("[40, 32, 20]", "[32, 32, 16]"))
    refused = call(*words)
    assert refused.exit_code == 2 and "was edited" in refused.stderr
    assert "[32, 32, 16]" in experiment.read_text()
    assert call(*words, "--overwrite").exit_code == 0
    assert experiment.read_text() == planned
    assert "[32, 32, 16]" in (tmp_path / "earlier/1/experiment.yaml").read_text()


def test_bad_cases_are_named_and_the_rest_is_planned(phantoms: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_phantom_dataset(data, 3, shape=(40, 32, 20), spacing=(10.0, 10.0, 16.0))
    scan = data / "volume-1.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-50])
    result = call("plan", tmp_path / "plan", f"dataset_dir={data}", TINY_NETWORK)
    assert result.exit_code == 3
    assert "volume-1: image: TRUNCATED" in result.stderr
    assert "2 of 3 cases can be used" in result.output
    page = (tmp_path / "plan" / "fingerprint.html").read_text()
    assert page.index("volume-1") < page.index("volume-0")  # faults come first
    for number in (0, 2):
        (data / f"segmentation-{number}.nii.gz").write_bytes(b"")
    assert call("plan", tmp_path / "plan", f"dataset_dir={data}", TINY_NETWORK).exit_code == 4
    assert not (tmp_path / "plan" / "experiment.yaml").exists()
    assert "nothing is proposed" in (tmp_path / "plan" / "fingerprint.html").read_text()


def test_a_data_set_without_tumor_is_planned_for_two_classes(tmp_path: Path) -> None:
    save_phantom(tmp_path / "data", 0, n_tumors=0, shape=(40, 32, 20), spacing=(10.0, 10.0, 16.0))
    assert call("plan", tmp_path, f"dataset_dir={tmp_path / 'data'}", TINY_NETWORK).exit_code == 0
    values = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert values["num_classes"] == 2 and "class_ratios" not in values


def test_label_maps_that_hold_nothing_are_counted_and_without_any_other_nothing_is_planned(
    phantoms: Path, tmp_path: Path
) -> None:
    data, words = tmp_path / "data", [f"dataset_dir={tmp_path / 'data'}", TINY_NETWORK]
    shutil.copytree(phantoms, data)
    references = sorted(data.glob("segmentation-*"))
    for done, path in enumerate(references, 1):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine, image.header), path)
        if done == 1:
            result = call("plan", tmp_path / "plan", *words)
            assert result.exit_code == 0
            assert "1 label maps hold neither liver (1) nor tumor (2)." in result.stderr
    result = call("plan", tmp_path / "plan", *words)
    assert result.exit_code == 4
    assert "There is nothing to learn: are these the label maps?" in result.stderr
    assert not (tmp_path / "plan/experiment.yaml").exists()


def test_mr_gets_no_window_and_no_pooled_values(phantoms: Path, tmp_path: Path) -> None:
    words = ["--modality", "mr", f"dataset_dir={phantoms}", TINY_NETWORK]
    assert call("plan", tmp_path, *words).exit_code == 0
    assert "hu_window" not in yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert json.loads((tmp_path / "fingerprint.json").read_text())["summary"]["intensity"] is None
    assert "own peak" not in (tmp_path / "fingerprint.html").read_text()


def test_an_unknown_key_is_refused_before_anything_is_read(phantoms: Path, tmp_path: Path) -> None:
    result = call("plan", tmp_path / "plan", f"dataset_dir={phantoms}", "spacings=[1,1,1]")
    assert result.exit_code == 2
    assert "did you mean 'spacing'?" in result.stderr
    assert not (tmp_path / "plan").exists()


def test_the_page_loads_nothing_and_shows_the_window(phantoms: Path, tmp_path: Path) -> None:
    call("plan", tmp_path, f"dataset_dir={phantoms}", TINY_NETWORK)
    page = (tmp_path / "fingerprint.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    values: dict[str, Any] = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert f"window [{', '.join(str(edge) for edge in values['hu_window'])}]" in page


def test_more_memory_never_gives_a_smaller_window() -> None:
    memory = per_voxel(2000)
    sizes = [
        np.prod(patch_size((512, 512, 130), (0.8, 0.8, 2.0), memory, multiple=16, windows=2, budget=memory_budget(gb)))
        for gb in (6, 12, 24, 48)
    ]
    assert sizes == sorted(sizes)


def test_plan_is_one_function_too(phantoms: Path, tmp_path: Path) -> None:
    overrides = {"dataset_dir": str(phantoms), "network_def::channels": [4, 8]}
    planned = plan(tmp_path, {}, overrides=overrides, gpu_memory_gb=8)
    assert planned.experiment == tmp_path / "experiment.yaml"
    assert planned.summary["n_usable"] == 4
