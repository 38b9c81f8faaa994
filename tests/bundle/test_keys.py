"""The table of keys holds each key of the YAML files, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.keys import KEYS, ROWS, keys_with, root_of, row_of
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.names import layer_names
from liver_pipeline.bundle.roles import MEANING, Role
from liver_pipeline.bundle.stages import merge_stages

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
WRITTEN = {"checked"}  # by the merge


def roots(path: Path) -> set[str]:
    return {root_of(key) for key in read_config(path)}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_each_key_of_a_yaml_file_has_a_row(path: Path) -> None:
    assert [key for key in roots(path) if row_of(key) is None] == []


def test_each_row_is_a_key_of_a_yaml_file() -> None:
    used = {row.name for path in YAMLS for key in roots(path) if (row := row_of(key))}
    assert set(KEYS) - used == WRITTEN


def test_a_key_has_one_row_and_a_row_says_what_it_is() -> None:
    assert len(KEYS) == len(ROWS)
    for row in ROWS:
        assert 8 <= len(row.what) <= 120 and not row.what.endswith("."), row.name
        assert row.kind.says


def test_each_role_is_explained_and_held() -> None:
    assert set(MEANING) == set(Role) - {Role.NONE}
    assert all(keys_with(role) for role in MEANING)


def test_a_key_of_a_stage_has_the_row_of_its_key() -> None:
    assert row_of("liver_spacing") is row_of("tumor_spacing") is row_of("spacing") is not None
    assert row_of("liver_only") is not row_of("only")  # a key of its own
    assert row_of("nonesuch") is row_of("liver_nonesuch") is None


def test_every_key_of_the_merged_configs_has_a_row() -> None:
    for network in ("unet3d", "cascade"):
        for configs in merge_stages({"network": network}).values():
            for config in configs.values():
                assert [key for key in config if row_of(key) is None] == []


@pytest.mark.parametrize("workflow", ["train", "evaluate", "inference"])
def test_a_workflow_checks_its_paths_and_plain_values_also_under_stock_monai(workflow: str) -> None:
    config = merge_layers({})[workflow]
    rows = {key: KEYS[key] for key in config if not KEYS[key].kind.is_built}
    expected = {k for k, row in rows.items() if Role.PATH in row.roles or not str(config[k]).startswith(("$", "@"))}
    assert expected == set(config["checked"]) - {"_target_"}
    assert "@checked" in config["initialize"]


@pytest.mark.parametrize("kind", ["data", "modality", "network", "augmentation", "recipe"])
def test_the_defaults_of_every_layer_are_accepted(kind: str) -> None:
    for name in layer_names(kind):
        merge_stages({kind: name})
