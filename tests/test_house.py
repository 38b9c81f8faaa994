"""The house: one name means one thing, importing the package loads nothing heavy, every module has a floor."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "liver_pipeline"
EVERYWHERE = {"logger"}  # each module's own, by convention
IMPORTS = (ast.Import, ast.ImportFrom)
OTHERS = {"monai", "scipy", "torch", "numpy"}  # packages whose names docstrings refer to


def public_names(path: Path) -> set[str]:
    """Return the public names that a module defines itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if not name.startswith("_")} - EVERYWHERE


def names_and_members(tree: ast.Module) -> set[str]:
    """Return what a module defines, private names too, and the members of its classes with and without their class."""
    names: set[str] = set()
    for node in tree.body:
        for one in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                names |= {one.name, f"{getattr(node, 'name', '')}.{one.name}"}
            elif isinstance(one, ast.Assign | ast.AnnAssign):
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


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


def test_what_a_docstring_refers_to_is_there() -> None:
    """A name in ``:func:`` and the like is one of the module's own, one that it imports, or whole from the package."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    known = {"liver_pipeline"}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        known |= {module, *(f"{module}.{name}" for name in names_and_members(tree))}
    for stub in PACKAGE.rglob("__init__.pyi"):
        package = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
        known |= {f"{package}.{name}" for name in re.findall(r"import \w+ as (\w+)", stub.read_text())}
    lost = []
    for path, tree in trees.items():
        imported = {
            name.asname or name.name for node in ast.walk(tree) if isinstance(node, IMPORTS) for name in node.names
        }
        own = names_and_members(tree)
        for name in re.findall(r":(?:func|class|mod|data|meth):`~?([\w.]+)`", path.read_text()):
            here = name in known if name.startswith("liver_pipeline") else name in own or name.split(".")[0] in imported
            if not here and name.split(".")[0] not in OTHERS:
                lost.append(f"{path.relative_to(PACKAGE)}: {name}")
    assert lost == []
