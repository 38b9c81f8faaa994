"""The house: one name means one thing, importing the package loads nothing heavy, every module has a floor."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "liver_pipeline"
EVERYWHERE = {"logger"}  # each module's own, by convention


def public_names(path: Path) -> set[str]:
    """Return the public names that a module defines itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - EVERYWHERE


def test_no_public_name_has_two_meanings() -> None:
    defined = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(path):
            defined[name].append(path.relative_to(PACKAGE).as_posix())
    assert {name: where for name, where in defined.items() if len(where) > 1} == {}


def test_importing_the_package_loads_neither_torch_nor_monai() -> None:
    code = "import sys, json, liver_pipeline; print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "monai", "numpy", "nibabel"}.isdisjoint(json.loads(run.stdout))


def test_every_name_of_the_public_api_is_there_and_documented() -> None:
    import liver_pipeline

    verbs = "train predict evaluate describe compare plan check compose load_segmenter read_scan read_label_map"
    assert {*verbs.split(), "write_label_map", "Scan", "IntakeError"} <= set(dir(liver_pipeline))
    for name in set(dir(liver_pipeline)) - {"__version__"}:
        assert getattr(liver_pipeline, name).__doc__, name


def test_a_class_that_yaml_names_is_where_its_package_says() -> None:
    import importlib

    for stub in sorted(PACKAGE.rglob("__init__.pyi")):
        package = importlib.import_module(".".join(("liver_pipeline", *stub.parent.relative_to(PACKAGE).parts)))
        for name in package.__all__:
            assert getattr(package, name).__name__ == name


def test_every_command_has_an_example() -> None:
    from liver_pipeline.cli import main

    for name, command in main.commands.items():
        assert f"liver-pipeline {name}" in (command.help or "").partition("Example: ")[2], (
            f"{name} --help has no Example:"
        )


def test_one_function_removes() -> None:
    """What removes is found at one place, io/files.py, where its callers' promise stands: only what we made."""
    calls = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "io" / "files.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in {"unlink", "rmtree", "rmdir", "removedirs"})
        or (isinstance(node, ast.Attribute) and node.attr == "remove" and getattr(node.value, "id", "") == "os")
    ]
    assert calls == []
