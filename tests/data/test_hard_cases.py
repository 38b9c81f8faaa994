"""Hard cases come more often, by as much as is said; windows are centred on classes in the ratio that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents

import liver_pipeline as lp
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.data.hard_cases import EASIEST, HardCases, window_dice
from liver_pipeline.data.loaders import EpochSampler
from liver_pipeline.data.phantoms import make_phantom_dataset
from liver_pipeline.io.checkpoints import LAST, load_checkpoint

CASES = [{"case": f"c{i}"} for i in range(10)]


def dealt(share: float, difficulty: list[float], epochs: int) -> np.ndarray[Any, Any]:
    """Return how often each case came."""
    hard = HardCases(CASES, share)
    hard.load_state_dict({"difficulty": {f"c{i}": value for i, value in enumerate(difficulty)}})
    sampler = EpochSampler(len(CASES), seed=1, redraw=hard.redraw)
    counts = np.zeros(len(CASES), dtype=int)
    for sampler.epoch in range(epochs):
        drawn = [case for _, case in sampler]
        assert len(drawn) == len(CASES)
        np.add.at(counts, drawn, 1)
    return counts


def test_cases_come_in_proportion_to_their_difficulty_beside_the_dealt_share() -> None:
    epochs, share = 2000, 0.4
    difficulty = np.array([1.0] * 5 + [0.25] * 5)
    expected = epochs * ((1 - share) + share * len(CASES) * difficulty / difficulty.sum())
    counts = dealt(share, difficulty.tolist(), epochs)
    # A count is a sum of independent epochs with a variance below that of ten draws: five sigma is no accident.
    sigma = np.sqrt(epochs * len(CASES) * 0.1)
    assert np.abs(counts - expected).max() < 5 * sigma
    assert counts[:5].min() > counts[5:].max() + 5 * sigma
    assert counts.sum() == epochs * len(CASES)


def test_switched_off_every_case_comes_once_an_epoch() -> None:
    assert dealt(0.0, [1.0] * 5 + [0.01] * 5, 20).tolist() == [20] * 10
    plain, off = (EpochSampler(10, 3, redraw=redraw) for redraw in (None, HardCases(CASES, 0.0).redraw))
    assert list(plain) == list(off)
    with pytest.raises(ValueError, match="between 0"):
        HardCases(CASES, 1.5)


def test_the_dice_of_a_window_is_the_mean_over_classes_that_are_there() -> None:
    label = torch.zeros(4, 1, 4, 1, 1)
    label[0, 0, :2] = 1  # liver half found: 2 * 1 / (2 + 1)
    label[1, 0, 0], label[1, 0, 1] = 1, 2  # liver found, tumor missed
    label[2, 0, :] = 0  # a false alarm
    found = torch.zeros(4, 4, dtype=torch.long)
    found[0, 0], found[1, 0], found[2, 0] = 1, 1, 2
    logits = torch.nn.functional.one_hot(found, 3).permute(0, 2, 1)[..., None, None].float()
    dice = window_dice(MetaTensor(logits), MetaTensor(label)).tolist()
    assert dice[:3] == pytest.approx([2 / 3, 0.5, 0.0])
    assert np.isnan(dice[3])  # nothing there, nothing found: says nothing about the case


def test_difficulty_follows_the_latest_epochs() -> None:
    hard = HardCases(CASES[:3], 0.5)
    engine = Engine(lambda *_: None)
    engine.register_events(*IterationEvents)
    hard.attach(engine)
    right, wrong = torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2)
    right[:, 1], wrong[:, 0] = 1, 1
    output = {"pred": [torch.cat([right, wrong, wrong])], "label": torch.ones(3, 1, 2, 2, 2)}
    engine.state.output, engine.state.batch = output, {"case": ["c0", "c0", "c1"]}
    for event in (IterationEvents.LOSS_COMPLETED, Events.EPOCH_COMPLETED) * 2:
        engine.fire_event(event)
    assert hard.difficulty.tolist() == pytest.approx([0.25 * 1 + 0.75 * 0.5, 1.0, 1.0])  # c2 was not seen
    again = HardCases(CASES[:2], 0.5)
    again.load_state_dict(hard.state_dict())
    assert again.difficulty.tolist() == hard.difficulty[:2].tolist()


def test_no_case_becomes_so_easy_that_it_never_comes() -> None:
    hard = HardCases(CASES[:1], 0.5)
    for _ in range(20):
        hard._seen.append((["c0"], torch.ones(1)))
        hard._take_stock(Engine(lambda *_: None))
    assert hard.difficulty.tolist() == [EASIEST]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), 4, shape=(48, 40, 28), spacing=(8.0, 8.0, 11.0), noise_hu=5.0
    )


def test_windows_are_centred_on_classes_in_the_ratio_asked_for(tmp_path: Path, phantoms: Path) -> None:
    ratios = [1, 2, 5]
    settings = {"spacing": [8.0, 8.0, 8.0], "roi_size": [4, 4, 4], "crops_per_case": 300, "class_ratios": ratios}
    overrides = {**settings, "dataset_dir": str(phantoms), "split_fractions": [0.5, 0.25, 0.25]}
    config = merge_layers({"augmentation": "none"}, overrides=overrides)["train"]
    parser = ConfigParser({**config, "bundle_root": str(tmp_path), "split_file": str(tmp_path / "split.json")})
    dataset = parser.get_parsed_content("train::dataset")
    dataset.transform.set_random_state(seed=0)
    centres: list[int] = []
    for i in range(len(dataset)):
        label = dataset.cache.load(dataset.data[i])["label"]
        centres += [int(label[(0, *window["label"].meta["crop_center"])]) for window in dataset[i]]
    shares = np.bincount(centres, minlength=3) / len(centres)
    expected = np.array(ratios) / sum(ratios)
    # Windows at the border are moved inside, which turns a few background centres; liver and tumor lie far from it.
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / len(centres))


def test_hard_cases_are_continued_with_the_training(tmp_path: Path, phantoms: Path) -> None:
    settings = {
        "spacing": [16.0, 16.0, 16.0],
        "roi_size": [16, 16, 8],
        "network_def::channels": [4, 8],
        "hard_case_share": 0.5,
        "max_epochs": 2,
        "num_workers": 0,
        "crops_per_case": 1,
        "split_fractions": [0.5, 0.25, 0.25],
        "dataset_dir": str(phantoms),
        "device": "$torch.device('cpu')",
    }
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    lp.train(whole, {}, overrides=settings)
    lp.train(parted, {}, overrides={**settings, "max_epochs": 1})
    lp.train(parted, {}, overrides={"max_epochs": 2})
    states = [load_checkpoint(run / "models" / LAST)["hard_cases"] for run in (whole, parted)]
    assert states[0] == states[1]
    assert all(EASIEST <= value <= 1 for value in states[0]["difficulty"].values())
    assert len(states[0]["difficulty"]) == 2
