"""What is set below a key is checked as well: by what it replaces, by the signature of its class, and by using it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.bundle.arguments import check_arguments
from liver_pipeline.bundle.build import check_build
from liver_pipeline.bundle.entry import parse_overrides
from liver_pipeline.bundle.layers import merge_layers

SCHEDULE = "torch.optim.lr_scheduler.CosineAnnealingLR"


def answer(word: str, **layers: str) -> str:
    with pytest.raises(ValueError) as refused:
        check_build(merge_layers(layers, overrides=parse_overrides([word]))["train"])
    return str(refused.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr_scheduler::T_max=x", "lr_scheduler::T_max is 'x'; expected"),
        ("lr_scheduler::T_max=0", "lr_scheduler::T_max is 0; torch.optim.lr_scheduler.CosineAnnealingLR cannot be"),
        ("optimizer::lr=x", "optimizer::lr is 'x'; expected a number above 0, at most 100, as 'learning_rate' is"),
        ("optimizer::lr=-1", "optimizer::lr is -1; expected"),
        ("loss::softmax=maybe", "loss::softmax is 'maybe'; expected true or false"),
        ("augmentation::0::prob=x", "augmentation::0::prob is 'x'; expected a number, for RandFlipd"),
        ("augmentation::0::prob=7", "augmentation::0::prob is 7; expected a number from 0 to 1"),
        ("augmentation::0::prob=nan", "augmentation::0::prob is "),
        ("augmentation::0::spatial_axis=9", "augmentation::0 (RandFlipd) does not take a window: "),
        ("augmentation::2::mode=[x,nearest]", "augmentation"),
        ("validate::inferer::overlap=2", "validate::inferer::overlap is 2; expected a number from 0, below 1"),
        ("train::dataloader::batch_size=many", "train::dataloader::batch_size is 'many'; expected a whole number"),
        ("train::trainer::optimizer=x", "train::trainer::optimizer is 'x'; expected what 'optimizer' is"),
        ("network_def::dropout=x", "network_def"),
        ("cache::folder=[]", "cache::folder is []; expected a path"),
    ],
)
def test_a_value_below_a_key_is_answered_by_its_name(word: str, said: str) -> None:
    assert answer(word).startswith(said)


def test_what_means_something_below_a_key_is_taken() -> None:
    words = ["validate::inferer::overlap=0.25", "train::contact_sheet=null", "optimizer::lr=$@learning_rate / 2",
             "augmentation::0::prob=1", "lr_scheduler::T_max=50", "train::trainer::amp=false"]  # fmt: skip
    check_build(merge_layers({}, overrides=parse_overrides(words))["train"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("T_mx: 5, T_max: 5", "has 'T_mx', which .* does not take; did you mean 'T_max'"),
        ("eta_min: 0.1", "has no 'T_max', which .* needs"),
        ("T_max: 2.5", r"lr_scheduler::T_max is 2\.5; expected a whole number, for"),
    ],
)
def test_a_component_of_a_users_file_is_checked_alike(tmp_path: Path, arguments: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"lr_scheduler: {{_target_: {SCHEDULE}, optimizer: '@optimizer', {arguments}}}")
    with pytest.raises(ValueError, match=said):
        check_build(merge_layers({}, experiment=str(tmp_path / "mine.yaml"))["train"])


class Untyped:
    """Says nothing of what it takes."""

    def __init__(self, anything, *, other=None, **more) -> None:  # type: ignore[no-untyped-def]
        """Take all."""


@pytest.mark.parametrize("value", ["text", 5, None, [1, "a"], float("nan"), "@a", {"a": 1}])
def test_a_class_that_says_no_types_takes_any_value(value: Any) -> None:
    check_arguments({"mine": {"_target_": f"{__name__}.Untyped", "anything": value, "own": value}})
