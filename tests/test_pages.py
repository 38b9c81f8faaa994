"""The documentation works: each block of commands runs on phantoms or says why not; the site stands alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import liver_pipeline
from liver_pipeline.app.cases import ENDED, CaseFolder
from liver_pipeline.bundle.compose import compose
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.shipped import run_folder
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cli import main
from tests.dicom_files import ct
from tests.pages import NOT_RUN, REPO, blocks_of, write_clients
from tests.small import COARSE, NETWORKS, make_phantoms
from tests.waiting import wait_for

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs" / "how-to").glob("*.md"))]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages find beside them: phantoms in several layouts, a DICOM series, and runs with random weights."""
    folder = tmp_path_factory.mktemp("material")
    lits = make_phantoms(folder / "LiTS", 4)
    for number, patient in enumerate("abcd"):
        scan, label = lits / f"volume-{number}.nii.gz", lits / f"segmentation-{number}.nii.gz"
        copies = {scan: [f"mine/images/{patient}", f"ours/images/{patient}", f"patients/{patient}/ct"]}
        copies[label] = [f"mine/labels/{patient}", f"ours/labels/{patient}", f"patients/{patient}/seg"]
        if number < 2:
            copies[scan].append(f"scans/{patient}")
            for name in ("reference", "labels", "masks"):
                copies[label].append(f"{name}/{patient}")
        if number == 0:
            copies[scan].append("scan")
            copies[label] += ["mask", "labels", "reference"]
        for source, names in copies.items():
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / f"{name}.nii.gz")
        if number < 2:
            save_label(folder / f"organs/{patient}.nii.gz", label, {1: 6, 2: 7})
        save_label(folder / f"multi_organ/labels/{patient}.nii.gz", label, {1: 6, 2: 7})
        save_label(folder / f"collections/livers/labels/{patient}.nii.gz", label, {1: 1, 2: 1})
        for name in ("multi_organ", "collections/livers"):
            (folder / name / "images").mkdir(exist_ok=True)
            shutil.copyfile(scan, folder / name / "images" / f"{patient}.nii.gz")
    shutil.copytree(lits, folder / "collections" / "LiTS")
    for name in ("dicom_folder", "study", "series"):
        ct(folder / name)
    _accepted_cases(folder / "liver_pipeline_app", folder / "mine")
    _with_weights(folder / "weights" / "default-1", "cascade")
    (folder / "weights" / "default_segments-1").symlink_to(run_folder("default_segments"))  # small already
    _with_weights(folder / "runs" / "r34", "resnet34_unet")
    return folder


def save_label(path: Path, source: Path, values: dict[int, int]) -> None:
    """Write a label map with other values."""
    image = nib.load(source)
    table = np.array([0, *(values[label] for label in (1, 2))], dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(table[np.asarray(image.dataobj)], image.affine, image.header), path)


def _accepted_cases(work: Path, data: Path) -> None:
    """Write the folder of an app whose cases are done, and accepted."""
    cases = CaseFolder(work)
    for scan in (data / "images").iterdir():
        case = cases.create(scan.name, "default")
        shutil.copyfile(scan, cases.folder(case, "scan") / "scan-00001.nii.gz")
        shutil.copyfile(data / "labels" / scan.name, cases.result(case, ".nii.gz"))
        cases.amend(case, state=ENDED, verdict="accept")


def _with_weights(run: Path, network: str) -> None:
    compose(run, {"network": network}, overrides={**COARSE, **NETWORKS[network], "encoder_weights": None})
    parser = ConfigParser(load_config(run, "inference", {"device": "cpu"}))
    for stage, key in {"": "network", "liver": "liver_network"}.items() if network == "cascade" else [("", "network")]:
        torch.save({"model": parser.get_parsed_content(key).state_dict()}, run / stage / WEIGHTS)


@pytest.fixture(scope="module")
def commands(material: Path) -> Iterator[str]:
    """A PATH on which ``liver-pipeline`` and ``python`` are clients of a process that has imported everything."""
    address = material / "s"
    write_clients(material / "bin", str(address))
    server = subprocess.Popen([sys.executable, "-m", "tests.pages", str(address), str(material / "weights")], cwd=REPO)
    wait_for(lambda: address.exists() or server.poll() is not None)
    yield f"{material / 'bin'}{os.pathsep}{os.environ['PATH']}"
    server.terminate()
    server.wait()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_commands_runs_or_says_why_not(
    page: Path, tmp_path: Path, material: Path, commands: str
) -> None:
    blocks = blocks_of(page)
    _lay_out(page.read_text(encoding="utf-8"), material, tmp_path)
    for block in blocks:
        if block.file:
            (tmp_path / block.file).write_text(block.text + "\n")
            continue
        if block.reason or block.kind == "yaml":
            continue
        script = tmp_path / ("block.py" if block.kind == "python" else "block.sh")
        script.write_text(block.text + "\n")
        words = ["python", script.name] if block.kind == "python" else ["bash", "-euo", "pipefail", script.name]
        env = {**os.environ, "PATH": commands, "HOME": str(tmp_path / "home")}
        done = subprocess.run(
            words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, f"{page.name}:\n{block.text}\n---\n{done.stdout[-3000:]}"


def _lay_out(text: str, material: Path, folder: Path) -> None:
    """Put beside a page what it speaks of and does not make itself."""
    for source in material.iterdir():
        name = source.name.removesuffix(".nii.gz")
        made = re.search(rf"predict \S+ \S+ {re.escape(source.name)}/?\s", text)
        if source.name in ("weights", "bin", "runs", "s") or made:
            continue
        if re.search(rf"\b{re.escape(name)}\b", text):
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / source.name)
    for run in (material / "runs").iterdir():
        if f"runs/{run.name}" in text and not re.search(rf"(train|compose) runs/{run.name}\b", text):
            shutil.copytree(run, folder / "runs" / run.name)


def test_a_mark_has_a_reason() -> None:
    for page in (*PAGES, *(REPO / "docs").rglob("*.md")):
        for mark in re.findall(r"^<!-- not run.*", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert NOT_RUN.fullmatch(mark), f"{page}: {mark}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link to nowhere, or a name that the Python page lists and is not there, fails."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(r"""<(script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|url\(["']?(https?:)?//|@import""")
    styles = re.compile(r"""<link[^>]*rel=["']?(stylesheet|preconnect|preload|icon)[^>]*href=["']?(https?:)?//""")
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not loading.search(text), path
        assert not styles.search(text), path


def test_every_page_of_the_documentation_is_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in (REPO / "docs").rglob("*.md"):
        assert f'href="{page.relative_to(REPO / "docs").with_suffix(".html").as_posix()}"' in menu, page


def test_the_reference_names_every_command_and_every_public_name(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for command in main.commands:
        assert f'id="liver-pipeline-{command}"' in commands, command
    listed = (REPO / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    for name in set(dir(liver_pipeline)) - {"__version__"}:
        assert re.search(rf"^::: liver_pipeline\.[\w.]+\.{name}$", listed, re.MULTILINE), name
