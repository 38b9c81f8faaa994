"""The sheet of what the network is fed: what it shows, when it is drawn, and what it leaves alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import Dataset, MetaTensor
from PIL import Image

import liver_pipeline as lp
from liver_pipeline.handlers import ContactSheet
from liver_pipeline.handlers.contact_sheet import CASES
from liver_pipeline.labels import LIVER, TUMOR
from liver_pipeline.visualize.colours import CLASS_RGB
from liver_pipeline.visualize.sheet import TILE
from tests.small import UNET3D, make_phantoms


class Cases(Dataset):
    """Five cases, each its own cache; a liver with a tumor on the right of the patient, who is as wide as a tile."""

    def __init__(self, channels: int = 1) -> None:
        label = torch.zeros(1, 24, 20, 4, dtype=torch.uint8)
        label[:, 14:22, 4:16, 1:3] = 1
        label[:, 16:19, 8:11, 2] = 2
        image = torch.linspace(0, 1, 24).reshape(1, 24, 1, 1).expand(channels, 24, 20, 4).clone()
        self.item = {"image": MetaTensor(image), "label": MetaTensor(label)}
        self.cache = self
        super().__init__([{"case": f"case-{n}"} for n in range(5)], self.flipped)

    def load(self, case: dict[str, Any]) -> dict[str, Any]:
        return {**case, **self.item}

    def flipped(self, case: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**case, **{key: torch.flip(value, [1]) for key, value in self.item.items()}}] * 3


def drawn(path: Path, cases: Any, reading: Any) -> list[list[np.ndarray[Any, Any]]]:
    """Return the sheet's tiles without headings and captions: three cases of eight columns."""
    sheet = ContactSheet(path, cases, reading, seed=0)
    engine = Engine(lambda *_: None)
    sheet.attach(engine)
    engine.run([0])
    pixels = np.asarray(Image.open(path))
    pixels = pixels[-CASES * TILE[1] :]
    rows = [pixels[n * TILE[1] : (n + 1) * TILE[1] - 20] for n in range(CASES)]
    return [np.split(row, row.shape[1] // TILE[0], axis=1) for row in rows]


def count(tile: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> int:
    return int((tile == np.array(colour)).all(-1).sum())


def test_each_case_is_shown_as_read_as_preprocessed_and_as_windows_without_and_with_labels(tmp_path: Path) -> None:
    cases = Cases()
    rows = drawn(tmp_path / "logs" / "sheet.png", cases, [cases.load])
    assert [len(row) for row in rows] == [8, 8, 8]
    for plain, outlined in zip(rows[0][::2], rows[0][1::2], strict=True):
        assert count(plain, CLASS_RGB[TUMOR]) == count(plain, CLASS_RGB[LIVER]) == 0
        assert count(outlined, CLASS_RGB[LIVER]) > count(outlined, CLASS_RGB[TUMOR]) > 20
    preprocessed, window = rows[0][3], rows[0][5]
    assert np.array_equal(window, preprocessed[:, ::-1])  # the flip shows, though a flip turns the affine as well
    brightness = preprocessed.mean(axis=(0, 2))
    assert brightness[: TILE[0] // 2].mean() > brightness[TILE[0] // 2 :].mean()  # R is bright, and on the left


def test_three_channels_are_colours(tmp_path: Path) -> None:
    cases = Cases(channels=3)
    cases.item["image"][0] = 1.0
    tile = drawn(tmp_path / "sheet.png", cases, [cases.load])[0][2]
    assert tile[..., 0].mean() > 1.5 * tile[..., 1].mean()


def states() -> list[Any]:
    """States of the global generators."""
    legacy: Any = np.random.get_state()  # noqa: NPY002 (libraries draw from it)
    return [random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()]


def test_the_sheet_draws_nothing_from_the_generators_of_the_training(tmp_path: Path) -> None:
    cases = Cases()
    before = states()
    drawn(tmp_path / "sheet.png", cases, [cases.load])
    assert states() == before


def test_a_training_that_continues_or_has_no_case_draws_none(tmp_path: Path) -> None:
    engine = Engine(lambda *_: None)
    engine.state.iteration = 7
    cases: Any = Cases()
    ContactSheet(tmp_path / "sheet.png", cases, [cases.load], seed=0)(engine)
    engine.state.iteration = 0
    ContactSheet(tmp_path / "sheet.png", None, [], seed=0)(engine)
    assert not (tmp_path / "sheet.png").exists()


def test_train_draws_it_once_and_a_restart_takes_it_along(tmp_path: Path) -> None:
    values = {**UNET3D, "dataset_dir": str(make_phantoms(tmp_path / "data")), "modality": "ct"}
    run, sheet = tmp_path / "run", Path("logs/contact_sheet.png")
    lp.train(run, {}, overrides=values)
    (run / sheet).unlink()
    lp.train(run, {}, overrides={**values, "max_epochs": 2})
    assert not (run / sheet).exists()
    lp.train(run, {}, overrides=values, restart=True)
    lp.train(run, {}, overrides=values, restart=True)
    assert (run / sheet).is_file()
    assert (run / "earlier" / "2" / sheet).is_file()
