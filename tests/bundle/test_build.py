"""What a run is built of is looked at before it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import liver_pipeline as lp
from liver_pipeline.bundle.build import check_build, check_builds
from liver_pipeline.bundle.layers import apply_to_all, merge_layers
from liver_pipeline.bundle.names import layer_names
from liver_pipeline.networks.shapes import window_fault
from tests.small import NETWORKS

OWN = "tests.bundle.test_build"


class OneConvolution(nn.Module):
    """A network of one's own that takes any window."""

    def __init__(self, classes: int, down: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, classes, down, stride=down)
        self.up = nn.ConvTranspose3d(classes, classes, down, stride=down)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small: torch.Tensor = self.up(self.down(image))
        return small + 0 * image


class NeedsValues(OneConvolution):
    """A network that cannot run without values."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * (2.0 if image.mean().item() > 0 else 1.0)


class WantsMore:
    """A component of one's own that can be built, and takes no stand-in for what it will be given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("fails"):
            raise ValueError("it cannot be built")

    def __call__(self, data: Any, *others: Any) -> Any:
        return data["probabilities"] + data["distance"]


class Impatient(torch.optim.SGD):
    """An optimizer of one's own that steps with a closure alone."""

    def step(self, closure: Any = None) -> Any:
        return closure()


def built(**overrides: Any) -> None:
    layers = {"network": overrides.pop("network")} if "network" in overrides else {}
    check_build(merge_layers(layers, overrides=overrides)["train"])


@pytest.mark.parametrize(("side", "multiple"), [(30, 8), (95, 8)])
def test_a_window_that_does_not_suit_the_strides_is_answered_with_one_that_does(side: int, multiple: int) -> None:
    message = rf"roi_size is \[{side}, {side}, {side}\] .* takes multiples of {multiple}, such as \[(32|96), "
    with pytest.raises(ValueError, match=message):
        built(roi_size=[side] * 3)
    built(roi_size=[-(-side // multiple) * multiple] * 3)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "cascade"])
def test_every_network_suits_its_own_window(name: str) -> None:
    built(network=name, **NETWORKS[name])


def test_a_window_that_vanishes_at_the_bottom_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes multiples of \d+, such as \[\d+, \d+, \d+\]"):
        built(network="dynunet", **{**NETWORKS["dynunet"], "roi_size": [8, 8, 8]})


def test_a_network_of_ones_own_needs_only_its_definition(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"network_def: {{_target_: {OWN}.OneConvolution, classes: '@num_classes', down: 4}}\n")
    run = lp.compose(tmp_path / "run", {"network": str(file)})
    assert "roi_size: [96, 96, 96]" in (run / "configs/train.yaml").read_text()
    with pytest.raises(ValueError, match=r"takes multiples of 4, such as \[32, 32, 32\]"):
        lp.compose(tmp_path / "other", {"network": str(file)}, overrides={"roi_size": [30, 30, 30]})
    assert not (tmp_path / "other").exists()


def test_a_network_that_forgets_the_classes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"network_def: {{_target_: {OWN}.OneConvolution, classes: 5}}\n")
    with pytest.raises(ValueError, match=r"num_classes 3.*maps two windows to shape \(2, 5, 96, 96, 96\), not \(2, 3"):
        lp.compose(tmp_path / "run", {"network": str(file)})


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("{_target_: nowhere.MyNet}", r"network_def is 'nowhere\.MyNet'; there is no class or function"),
        ("{_target_: UNett}", "network_def is 'UNett'; there is no class or function"),
        ("{_target_: UNet, spatial_dims: 3}", "network_def has no 'in_channels', which UNet needs"),
        ("5", "network_def is 5; expected a component"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(definition: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"network_def: {definition}\n")
    with pytest.raises(ValueError, match=message):
        lp.compose(tmp_path / "run", {"network": str(file)})


def test_a_network_that_cannot_be_looked_at_without_values_is_not_refused() -> None:
    assert window_fault(NeedsValues(3), [8, 8, 8], 1, 3) == ""


def test_deep_supervision_has_a_weight_for_each_output() -> None:
    small = NETWORKS["resenc_unet"]
    built(network="resenc_unet", **small, deep_supervision_weights=[1.0, 0.5])
    with pytest.raises(ValueError, match=r"deep_supervision_weights is \[1.0\]; expected 2, one for each output"):
        built(network="resenc_unet", **small, deep_supervision_weights=[1.0])


def test_a_batch_normalization_of_one_voxel_is_refused() -> None:
    one = {"roi_size": [16, 16, 1], "batch_size": 1, "crops_per_case": 1}  # halved four times
    with pytest.raises(ValueError, match=r"^roi_size is .16, 16, 1., batch_size is 1 and crops_per_case is 1; a"):
        built(network="unet2d", **one)
    for more in ({"roi_size": [32, 16, 1]}, {"batch_size": 2}, {"crops_per_case": 2}):
        built(network="unet2d", **{**one, **more})


STOCK = """\
preprocessing:
  _target_: Compose
  transforms:
  - {_target_: LoadImaged, keys: [image, label], ensure_channel_first: true}
  - {_target_: Spacingd, keys: [image, label], pixdim: '@spacing', mode: [bilinear, nearest]}
"""
PARTS = """\
gridding:
- {_target_: Spacingd, keys: [image, label], pixdim: '@spacing', mode: [bilinear, nearest]}
"""


@pytest.mark.parametrize(("text", "lacking"), [(STOCK, "LoadScand"), (PARTS, "ToModelGridd")])
def test_a_preprocessing_from_which_no_mask_finds_back_is_refused(text: str, lacking: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"network_def: {{_target_: {OWN}.OneConvolution, classes: '@num_classes'}}\n{text}")
    with pytest.raises(ValueError, match=rf"Spacingd.* has no liver_pipeline\.transforms\.{lacking}.*ct_intensity"):
        lp.compose(tmp_path / "run", {"network": str(file)})


def test_a_mistyped_key_of_a_layer_is_refused_and_a_key_of_ones_own_is_not(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("network_def: {_target_: UNet3d, channels: '@widths'}\nroi_sizes: [8, 8, 8]\nwidths: [4, 8]\n")
    with pytest.raises(ValueError, match=r"mine\.yaml sets 'roi_sizes', which nothing uses; did you mean 'roi_size'\?"):
        merge_layers({"network": str(file)})
    file.write_text(file.read_text().replace("roi_sizes", "roi_size"))
    assert merge_layers({"network": str(file)})["train"]["widths"] == [4, 8]


def test_intensities_that_give_other_channels_than_the_network_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"in_channels is 2, and the intensities give 1 channels"):
        built(in_channels=2)
    check_build(merge_layers({"modality": "ct_three_windows", "network": "segresnet"})["train"])


@pytest.mark.parametrize(
    "step",
    [
        {"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": [8, 8, 8]},
        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [5.0, 5.0, 5.0]},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
    ],
    ids=lambda step: step["_target_"],
)
def test_intensities_that_move_voxels_are_refused(step: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the intensities .* may change values alone"):
        built(ct_intensity=[step])


def test_a_window_given_to_predict_or_plan_is_looked_at_too(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {}, overrides=NETWORKS["unet3d"])
    with pytest.raises(ValueError, match=r"roi_size is \[15, 15, 15\] .* takes multiples of 2"):
        lp.predict(run, "scans", tmp_path / "masks", overrides={"roi_size": [15, 15, 15]})
    with pytest.raises(ValueError, match=r"roi_size is \[15, 15, 15\]"):
        lp.plan(tmp_path / "plan", {}, overrides={"dataset_dir": "x", "roi_size": [15, 15, 15]})
    assert not (tmp_path / "masks").exists() and not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("recipe", "key", "value", "message"),
    [
        ("default", "lr_scheduler::T_max", "x", "is 'x'; expected what 'schedule_length' is, a number$"),
        ("default", "lr_scheduler::T_max", 0, "is 0; .*CosineAnnealingLR"),
        ("one_cycle", "lr_scheduler::pct_start", 3, "is 3; .*OneCycleLR .*between 0 and 1"),
        ("budget", "lr_scheduler::final_share", float("nan"), "is nan; expected a number"),
        ("budget", "optimizer::betas", 3, "is 3; .*AdamW"),
        ("budget", "network_def::dropout", 2, "is 2; .*UNet3d"),
        ("default", "loss::lambda_ce", -1, "is -1; DiceCELoss"),
        ("default", "postprocessing::transforms::0::keys", "prediction", "is 'prediction'; .*KeepLargestLiverd"),
        ("default", "inferer::grid", "x", "is 'x'; .*StreamingInferer"),
        ("default", "validate::inferer::mode", "x", "is 'x'; .*StreamingInferer"),
        ("default", "inferer::padding_mode", "x", "is 'x'; .*StreamingInferer"),
        ("default", "train::handlers::0", 5, r"is 5; expected a component"),
        ("default", "train::handlers", 5, r"is 5; expected a list of components"),
        ("default", "validate::handlers::1", None, r"is null; expected a component"),  # a reference
        ("default", "train::trainer::max_epochs", "$1/0", r"is '\$1/0'; it cannot be evaluated .* division by zero"),
        ("default", "train::trainer::max_epochs", "$@max_epochs / nothere", "is .*; it knows no 'nothere'"),
        ("default", "train::trainer::max_epochs", "$int('x')", r"is .*int\('x'\).*; it cannot be evaluated .*: 'x'"),
        ("default", "optimizer::lr", "$float('x')", r"is .*float\('x'\).*; it cannot be evaluated .*: 'x'"),
        ("default", "inferer::overlap", "$float('x')", r"is .*float\('x'\).*; it cannot be evaluated .*: 'x'"),
        ("default", "postprocessing::transforms::0::keys", "$foo(3)", r"is '\$foo\(3\)'; it knows no 'foo'"),
        ("default", "train::handlers", "$foo(@usable)", r"is '\$foo\(@usable\)'; it knows no 'foo'"),
        ("default", "evaluator::format", "$foo(3)", r"is '\$foo\(3\)'; it knows no 'foo'"),
        ("default", "run", "$[foo(3)]", r"is '\$\[foo\(3\)\]'; it knows no 'foo'"),
    ],
)
def test_an_argument_that_a_component_refuses_is_named_by_its_path(
    recipe: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{key} {message}") as refused:
        lp.compose(tmp_path / "run", {"recipe": recipe}, overrides={**NETWORKS["unet3d"], key: value})
    assert "operand" not in str(refused.value) and "object" not in str(refused.value)  # Python's words
    assert not (tmp_path / "run").exists()


OWN_STEP = {"_target_": f"{OWN}.WantsMore"}
BY_EXPRESSION = "$mypkg.Step()"
AFTER_OWN = {"_target_": "ScaleIntensityd", "keys": ["image", "distance"]}


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("postprocessing::transforms", [OWN_STEP, {"_target_": "FillHolesd", "keys": ["pred", "filled"]}]),
        ("augmentation", [OWN_STEP, AFTER_OWN]),
        ("loss", OWN_STEP),
        ("optimizer", {"_target_": f"{OWN}.Impatient", "params": "$@network.parameters()", "lr": 0.1}),
    ],
)
def test_a_component_of_ones_own_is_built_and_not_used(key: str, own: Any) -> None:
    given = {**NETWORKS["unet3d"], "optimizer::fused": False}
    check_builds(merge_layers({}, overrides={**given, key: own}))
    if own is OWN_STEP:
        with pytest.raises(ValueError, match="it cannot be built"):
            check_builds(merge_layers({}, overrides={**given, key: {**own, "fails": True}}))


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("augmentation", [BY_EXPRESSION, AFTER_OWN]),
        ("augmentation", ["@my_step", AFTER_OWN]),
        ("augmentation", ["$@my_steps[0]", AFTER_OWN]),
        ("train::sampling", ["@my_step"]),
        (
            "postprocessing::transforms",
            [BY_EXPRESSION, {"_target_": "FillHolesd", "keys": ["pred", "mine"]}],
        ),
        ("loss", "@my_step"),
    ],
)
def test_what_an_expression_or_a_reference_brings_of_ones_own_is_not_used(
    key: str, own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mypkg.py").write_text(f"from {OWN} import WantsMore as Step\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"my_step": OWN_STEP, "my_steps": [BY_EXPRESSION]}
    configs = merge_layers({}, overrides=NETWORKS["unet3d"])
    for config in configs.values():
        config |= {**mine, "imports": [*config.get("imports", []), "$import mypkg"]}
    apply_to_all(configs, {key: own})
    check_builds(configs)


def test_keys_that_transforms_add_before_the_augmentation_are_known_to_it() -> None:
    config = merge_layers({}, overrides=NETWORKS["unet3d"])["train"]
    copied = {"_target_": "CopyItemsd", "keys": "image", "names": "raw"}
    turned = {"_target_": "RandFlipd", "keys": ["image", "label", "raw"], "spatial_axis": 0, "prob": 0.5}
    wanted = {**NETWORKS["unet3d"], "augmentation": [turned]}
    check_builds(merge_layers({}, overrides={**wanted, "train::sampling": [*config["train"]["sampling"], copied]}))
    with pytest.raises(ValueError, match=r"augmentation::0 .*raw"):
        check_builds(merge_layers({}, overrides=wanted))


def test_of_several_arguments_the_one_to_blame_is_named() -> None:
    optimizer = {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": 0.1, "eps": -1.0}
    with pytest.raises(ValueError, match=r"^optimizer::eps is -1\.0; torch\.optim\.AdamW"):
        built(**NETWORKS["unet3d"], optimizer=optimizer)


@pytest.mark.parametrize("recipe", layer_names("recipe"))
def test_what_every_recipe_builds_can_be_used(recipe: str) -> None:
    check_build(merge_layers({"recipe": recipe}, overrides=NETWORKS["unet3d"])["train"])


@pytest.mark.parametrize(
    ("key", "code", "message"),
    [
        ("learning_rate", "@nothere", "learning_rate has '@nothere'; there is no key 'nothere' to refer to"),
        ("roi_size", "%nothere", "roi_size has '%nothere'; there is no key 'nothere'"),
        ("loss::x", "$@nothere + 1", "no such item"),
        ("batch_size", "$1/0", r"batch_size is '\$1/0'; it cannot be evaluated or built: division by zero"),
        ("roi_size", "$foo(3)", r"roi_size is '\$foo\(3\)'; it cannot be evaluated or built: name 'foo'"),
        (
            "learning_rate",
            '$float("x")',
            r"learning_rate is .*float\(\"x\"\).*; it cannot be evaluated or built: .*'x'",
        ),
        ("batch_size", "$[1,", r"batch_size has '\$\[1,'; it is no expression of Python"),
        ("train::log::path", "$a b", r"train has '\$a b'; it is no expression of Python"),
        ("batch_size", "$1/2", r"batch_size is 0\.5; expected a whole number"),
        ("modality", "$'pet'", "modality is 'pet'; expected ct or mr"),
        ("device", "$torch.device('meta')", "device is 'meta'; expected cpu"),
    ],
)
def test_code_is_evaluated_and_checked_before_a_run_is_written(
    key: str, code: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        lp.compose(tmp_path / "run", {}, overrides={**NETWORKS["unet3d"], key: code})
    assert not (tmp_path / "run").exists()


def test_what_is_looked_at_stays_as_it_is() -> None:
    configs = merge_layers({"network": "unet3d"})
    before = json.dumps(configs)
    check_builds(configs)
    assert json.dumps(configs) == before
