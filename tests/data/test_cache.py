"""The cache gives what preprocessing gives, to the documented rounding, whatever happens to its files."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.names import layer_names
from liver_pipeline.data import cache as cache_module
from liver_pipeline.data.cache import CachedCases, CaseCache
from liver_pipeline.data.cache_key import recipe_digest
from liver_pipeline.data.cache_room import CacheError
from liver_pipeline.data.loaders import BatchLoader
from liver_pipeline.data.phantoms import make_phantom_dataset
from liver_pipeline.data.prepare import usable_cases
from liver_pipeline.io.files import temporary_name
from tests.counting import counted
from tests.waiting import PATIENCE_S

ROUNDING = 2.0**-11  # of a value, in float16
Case = dict[str, str]


class Build:
    """Stands for preprocessing: a volume that depends on what the image file says; notes each time it is called."""

    def __init__(self, shape: tuple[int, ...], notes: Path, wait_s: float = 0.0) -> None:
        self.shape, self.notes, self.wait_s = shape, str(notes), wait_s

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        number = int(Path(item["image"]).read_text())
        with Path(self.notes).open("a") as file:
            file.write(f"{item['case']}\n")
        time.sleep(self.wait_s)
        volume = torch.arange(int(np.prod(self.shape))).reshape(1, *self.shape).float() % 1000 / 1000 + number
        return {**item, "image": MetaTensor(volume, affine=torch.eye(4), meta={"kept": "text"})}


def make_cases(folder: Path, count: int = 1) -> list[Case]:
    cases = []
    for number in range(count):
        (folder / f"scan_{number}").write_text(str(number))
        cases.append({"case": f"c{number}", "image": str(folder / f"scan_{number}")})
    return cases


def make_cache(
    tmp_path: Path, *, max_gb: float = 1.0, shape: tuple[int, ...] = (8, 8, 8), wait_s: float = 0.0
) -> CaseCache:
    return CaseCache(tmp_path / "cache", [Build(shape, tmp_path / "notes", wait_s)], max_gb=max_gb, window=(4, 4, 4))


def builds(tmp_path: Path) -> list[str]:
    return (tmp_path / "notes").read_text().split()


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.pt"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), 3, shape=(32, 26, 16), spacing=(12.0, 12.0, 19.0), noise_hu=5.0
    )


@pytest.mark.parametrize("roi_size", [[16, 16, 16], [48, 16, 1]], ids=["cube", "wider_than_the_volume"])
@pytest.mark.parametrize("modality", layer_names("modality"))
def test_the_first_epoch_is_that_of_transforms_in_memory(
    modality: str, roi_size: list[int], tmp_path: Path, phantoms: Path
) -> None:
    settings = {"spacing": [12.0, 12.0, 12.0], "roi_size": roi_size, "dataset_dir": str(phantoms), "num_workers": 2}
    config = merge_layers({"modality": modality, "augmentation": "geometric"}, overrides=settings)["train"]
    parser = ConfigParser({**config, "bundle_root": str(tmp_path), "split_file": str(tmp_path / "split.json")})
    loader: BatchLoader = parser.get_parsed_content("train::dataloader")
    parts = ["reading", "gridding", "intensity", "train::window_centres", "train::sampling", "augmentation"]
    reference = Compose([transform for part in parts for transform in parser.get_parsed_content(part)])
    stock = CacheDataset(loader.items.dataset.data, reference, progress=False)
    for batches in (loader, expected := BatchLoader(stock, batch_size=2, seed=0)):
        batches.set_epoch(1)
    for batch, wanted in zip(loader, expected, strict=True):
        assert batch["case"] == wanted["case"]
        assert batch["image"].dtype == torch.float32
        assert batch["image"].shape[2:] == tuple(roi_size)
        torch.testing.assert_close(batch["label"], torch.as_tensor(wanted["label"]), rtol=0, atol=0)
        scale = float(wanted["image"].abs().max())
        torch.testing.assert_close(
            batch["image"], torch.as_tensor(wanted["image"]), rtol=ROUNDING, atol=ROUNDING * max(scale, 1.0)
        )
        assert len(batch["image"].unique()) > 10  # no empty comparison


def test_validation_sees_the_whole_volume(tmp_path: Path, phantoms: Path) -> None:
    settings = {"spacing": [12.0, 12.0, 12.0], "roi_size": [16, 16, 16], "dataset_dir": str(phantoms)}
    config = merge_layers({}, overrides=settings)["train"]
    parser = ConfigParser({**config, "bundle_root": str(tmp_path), "split_file": str(tmp_path / "split.json")})
    (batch,) = list(parser.get_parsed_content("validate::dataloader"))
    (case,) = parser.get_parsed_content("usable")["val"]
    wanted = parser.get_parsed_content("preprocessing")(case)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.uint8
    torch.testing.assert_close(batch["image"][0].as_tensor(), wanted["image"].as_tensor(), rtol=ROUNDING, atol=1e-7)
    torch.testing.assert_close(batch["label"][0].as_tensor(), wanted["label"].as_tensor(), rtol=0, atol=0)
    np.testing.assert_array_equal(batch["image"].affine[0], wanted["image"].affine)


def test_a_case_is_built_once_and_again_when_its_file_or_a_setting_changes(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    make_cache(tmp_path).prepare(case)
    make_cache(tmp_path).prepare(case)
    assert builds(tmp_path) == ["c0"]
    os.utime(case["image"])  # touched, the same content
    make_cache(tmp_path).prepare(case)
    assert builds(tmp_path) == ["c0"]
    Path(case["image"]).write_text("7")
    cache = make_cache(tmp_path)
    cache.prepare(case)
    assert float(cache.load(case)["image"].min()) == 7
    make_cache(tmp_path, shape=(8, 8, 4)).prepare(case)
    assert len(builds(tmp_path)) == len(files(tmp_path)) == 3


def test_a_moved_data_set_is_not_built_again(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    make_cache(tmp_path).prepare(case)
    Path(case["image"]).rename(tmp_path / "elsewhere")
    make_cache(tmp_path).prepare({**case, "image": str(tmp_path / "elsewhere")})
    assert builds(tmp_path) == ["c0"]


def test_the_recipe_is_settings_and_code(tmp_path: Path) -> None:
    gridding = [
        ConfigParser(merge_layers({}, overrides=changes)["train"]).get_parsed_content("gridding")
        for changes in ({}, {}, {"spacing": [1.5, 1.5, 2.5]}, {"num_classes": 2})
    ]
    same, again, coarser, two_classes = (recipe_digest(transforms) for transforms in gridding)
    assert same == again
    assert len({same, coarser, two_classes}) == 3
    assert recipe_digest(gridding[0][::-1]) != same
    with pytest.raises(ValueError, match="lambda"):
        recipe_digest([lambda item: item])


def test_the_code_of_a_transform_and_of_what_it_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("def help(item): return item\n")
    (package / "steps.py").write_text("from own_package.helper import help\ndef step(item): return help(item)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = recipe_digest([importlib.import_module("own_package.steps").step])
    (package / "helper.py").write_text("def help(item): return {**item}\n")
    try:
        assert recipe_digest([sys.modules["own_package.steps"].step]) != before
    finally:
        for name in [name for name in sys.modules if name.startswith("own_package")]:
            del sys.modules[name]


def with_centres(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "label_cls_indices": [torch.arange(3), torch.arange(2)]}


def test_a_case_is_opened_once_before_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, opened = make_cases(tmp_path, 3), list[Path]()
    steps: list[Any] = [Build((8, 8, 8), tmp_path / "notes"), with_centres]
    CaseCache(tmp_path / "cache", steps, max_gb=1.0, window=(4, 4, 4)).prepare(cases[0])  # one is there, two are built
    read = cache_module.read_entry

    def noted(path: Path) -> Any:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(cache_module, "read_entry", noted)
    cache = CaseCache(tmp_path / "cache", steps, max_gb=1.0, window=(4, 4, 4))
    split: Any = {"train": cases[:2], "val": cases[2:], "test": []}
    told = {name: getattr(cache, name) for name in ("held_classes", "unnamed_labels", "scan_digest")}
    usable_cases(split, cache.prepare, on_bad_case="fail", skipped_file=tmp_path / "s.json", **told)
    assert sorted(opened) == files(tmp_path)


@pytest.mark.parametrize("damage", ["cut short", "one bit", "emptied"])
def test_a_damaged_file_is_noticed_and_built_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (case,) = make_cases(tmp_path)
    make_cache(tmp_path).prepare(case)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(torch.tensor([0.25], dtype=torch.float16).numpy().tobytes())] ^= 1
    path.write_bytes({"cut short": whole[:-100], "one bit": bytes(flipped), "emptied": b""}[damage])
    cache = make_cache(tmp_path)
    cache.prepare(case)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("is damaged") == 1
    assert path.read_bytes() == whole
    assert builds(tmp_path) == ["c0", "c0"]


def test_a_file_removed_while_a_run_uses_it_is_built_again(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    cache = make_cache(tmp_path)
    cache.prepare(case)
    before = cache.load(case)["image"]
    files(tmp_path)[0].unlink()
    torch.testing.assert_close(cache.load(case)["image"], before)


def test_writing_to_an_item_does_not_change_the_file(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    cache = make_cache(tmp_path)
    cache.load(case)["image"].add_(100)
    assert float(cache.load(case)["image"].max()) < 1.1


def _prepare_all(tmp_path: Path, cases: list[Case]) -> None:
    cache = make_cache(tmp_path, wait_s=0.2)
    for case in cases:
        cache.prepare(case)


def test_processes_that_share_a_cache_build_each_case_once(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 3)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare_all, args=(tmp_path, cases)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(builds(tmp_path)) == ["c0", "c1", "c2"]
    cache = make_cache(tmp_path, wait_s=0.2)
    for number, case in enumerate(cases):
        assert float(cache.load(case)["image"].min()) == number
    assert list((tmp_path / "cache").glob("*.lock")) == []


ENTRY_GB = 6e-6  # (12, 12, 12) float16 is 3.5 kB, and two thirds more for the rest of the file


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 3)

    def run(*numbers: int) -> list[str]:
        cache = make_cache(tmp_path, max_gb=2 * ENTRY_GB, shape=(12, 12, 12))
        for number in numbers:
            time.sleep(0.02)
            cache.prepare(cases[number])
        return builds(tmp_path)

    run(0)
    run(1)
    run(0)  # used again
    assert run(2) == ["c0", "c1", "c2"]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2 * ENTRY_GB * 1e9
    assert run(0) == ["c0", "c1", "c2"]  # still there; 1 had to go
    assert run(1) == ["c0", "c1", "c2", "c1"]


def test_the_room_is_not_measured_anew_for_each_case(tmp_path: Path) -> None:
    cases, cache = make_cases(tmp_path, 12), make_cache(tmp_path)
    with counted(tmp_path / "cache") as counts:
        for case in cases:
            cache.prepare(case)
    assert counts[str(tmp_path / "cache")] <= 2 + len(cases), "each file is synced in its folder; a list asks for all"
    assert len(files(tmp_path)) == len(cases)


def test_weights_that_lie_in_the_cache_s_folder_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    weights = tmp_path / "cache" / "model.pt"
    names = tmp_path / "cache" / "in_use" / "patients.names"
    for mine in (weights, names):
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_bytes(b"mine" * 10_000)
        os.utime(mine, (0, 0))  # unused for longest
    cases = make_cases(tmp_path, 2)
    for case in cases:
        make_cache(tmp_path, max_gb=ENTRY_GB, shape=(12, 12, 12)).prepare(case)
    assert [path.name for path in files(tmp_path) if path != weights] == [
        make_cache(tmp_path, shape=(12, 12, 12)).path(cases[1]).name
    ]
    assert weights.read_bytes() == names.read_bytes() == b"mine" * 10_000


def test_what_a_killed_run_left_half_written_goes_after_a_day(tmp_path: Path) -> None:
    old, fresh, remembered = (tmp_path / "cache" / folder / temporary_name() for folder in ("", "", "sources"))
    for path, hours in ((old, 25), (fresh, 1), (remembered, 25)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    make_cache(tmp_path).prepare(*make_cases(tmp_path))
    assert [path.exists() for path in (old, fresh, remembered)] == [False, True, False]


def test_what_a_live_run_needs_is_never_removed(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 3)
    live = make_cache(tmp_path, max_gb=2 * ENTRY_GB, shape=(12, 12, 12))
    live.prepare(cases[0])
    make_cache(tmp_path, max_gb=2 * ENTRY_GB, shape=(12, 12, 12)).prepare(cases[1])  # a run that ends at once
    other = make_cache(tmp_path, max_gb=2 * ENTRY_GB, shape=(12, 12, 12))
    other.prepare(cases[2])
    assert live.path(cases[0]) in files(tmp_path)
    assert live.path(cases[1]) not in files(tmp_path)
    with pytest.raises(CacheError, match="raise cache_gb"):
        other.prepare(cases[1])
    assert len(list((tmp_path / "cache" / "in_use").glob("*.names"))) == 2  # of the two that live


def test_a_full_disk_stops_with_what_to_do_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    first, second = make_cases(tmp_path, 2)
    cache = make_cache(tmp_path, shape=(32, 32, 32))
    cache.prepare(first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CacheError, match=r"no space left.*make room"):
            cache.prepare(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == [cache.path(first)]
    assert [path for path in (tmp_path / "cache").rglob(".*") if path.is_file()] == []
    cache.prepare(second)


@pytest.mark.parametrize("trouble", ["no room for what remembers a file", "no room for the claim", "no such folder"])
def test_trouble_with_the_cache_is_never_booked_as_a_bad_case(tmp_path: Path, trouble: str) -> None:
    cases = make_cases(tmp_path, 3)
    split = {"train": cases, "val": [], "test": []}
    cache = make_cache(tmp_path)
    if trouble == "no such folder":
        (tmp_path / "cache").write_text("a file where the folder should be")
    if trouble == "no room for the claim":
        (tmp_path / "cache" / "sources").mkdir(parents=True)
        for case in cases:
            cache.path(case)  # remembered
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(CacheError, match="name another cache_dir") as caught:
            usable_cases(split, cache.prepare, on_bad_case="skip", skipped_file=tmp_path / "skipped.json")
        assert ("is a file" in str(caught.value)) == (trouble == "no such folder")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "skipped.json").exists()


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (ZeroDivisionError("odd"), False),
        (RuntimeError("applying transform"), False),
        (PermissionError(13, "Permission denied"), False),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
    ],
)
def test_what_a_case_raises_is_its_own_unless_memory_or_the_device_is_to_blame(
    tmp_path: Path, error: Exception, ends: bool
) -> None:
    def prepare(case: Any) -> None:
        if case["case"] == "c1":
            raise error

    split = {"train": make_cases(tmp_path, 3), "val": [], "test": []}
    options: dict[str, Any] = {"on_bad_case": "skip", "skipped_file": tmp_path / "skipped.json"}
    if ends:
        with pytest.raises(type(error)):
            usable_cases(split, prepare, **options)
    else:
        assert [case["case"] for case in usable_cases(split, prepare, **options)["train"]] == ["c0", "c2"]


def _resident_bytes(path: Path) -> int:
    """Return how much of a file this process has mapped into memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    found = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    assert found
    return sum(int(line.split()[1]) * 1024 for i in found for line in lines[i + 1 : i + 6] if line.startswith("Rss"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
@pytest.mark.parametrize(("window", "share"), [((32, 32, 32), 0.4), ((256, 256, 1), 0.05)])
def test_a_window_reads_its_part_of_the_volume_only(window: tuple[int, int, int], share: float, tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    cache = CaseCache(tmp_path / "cache", [Build((256, 256, 64), tmp_path / "notes")], max_gb=1, window=window)
    cache.prepare(case)
    path = cache.path(case)
    image = cache.load(case)["image"]
    part = image[:, : window[0], : window[1], : window[2]].float()
    assert _resident_bytes(path) < share * path.stat().st_size
    assert float(part.max()) < 1.1
    assert float(image.float().max()) < 1.1
    assert _resident_bytes(path) > 0.9 * path.stat().st_size  # the measure does measure


def test_values_beyond_float16_stay_as_they_are(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path)
    Path(case["image"]).write_text("100000")
    image = make_cache(tmp_path).load(case)["image"]
    assert image.dtype == torch.float32
    assert float(image.max()) == pytest.approx(100000.511)


def test_a_dataset_gives_what_its_transform_makes_of_a_cached_case(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 2)
    dataset = CachedCases(cases, lambda item: (item["case"], float(item["image"].min())), make_cache(tmp_path))
    assert [dataset[i] for i in range(2)] == [("c0", 0.0), ("c1", 1.0)]
