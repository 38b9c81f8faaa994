"""Expressions are read before they are run: names that nothing brings are found, and calls are told."""

from __future__ import annotations

from typing import Any

import pytest

import liver_pipeline as lp
from liver_pipeline.bundle.build import check_evaluated
from liver_pipeline.bundle.expressions import called_names, imported_names, unknown_name
from liver_pipeline.bundle.layers import merge_layers


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        ("$foo(3)", "foo"),
        ("$@usable['train'] + nothere.x", "nothere"),
        ("$[case['image'] for case in @cases]", ""),
        ("$(lambda epoch: 0.9 ** epoch)(@max_epochs)", ""),
        ("$[n := 3, n + 1]", ""),
        ("$torch.float32", ""),
        ("$max(len(str(x)) for x in range(3))", ""),
        ("$import nowhere", ""),
    ],
)
def test_a_name_is_known_that_an_expression_binds_or_python_or_an_import_has(code: str, unknown: str) -> None:
    assert unknown_name(code, {"torch"}) == unknown


def test_imports_are_found_wherever_they_stand() -> None:
    config = {"imports": ["$import math", "$import numpy as np", "$from a.b import c"], "x": {"y": "$import os.path"}}
    assert imported_names(config) == {"math", "np", "c", "os"}
    assert imported_names({"imports": ["$import math"], "broken": "$[1,"}) == {"math"}


def test_calls_are_told_as_they_are_written() -> None:
    assert called_names("$len(@a) + torch.device('cpu').index + 'x'.join(b())") == {
        "len",
        "torch.device",
        "'x'.join",
        "b",
    }


def test_what_needs_data_or_is_of_the_users_own_is_not_run(tmp_path: Any) -> None:
    calls = ["$import tests.bundle.test_expressions as mine", "$mine.never_called()", "$len(@usable['train'])"]
    config = merge_layers({})["train"]
    check_evaluated({**config, "imports": [*config["imports"], *calls]})
    lp.compose(tmp_path / "run", {}, overrides={"train::dataloader::batch_size": "$len(@usable['train'])"})


def never_called() -> None:
    raise AssertionError
