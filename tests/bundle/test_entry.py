"""YAML files and key=value words are read strictly and alike; paths and text stay what was meant."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.entry import absolute, entered, literal, meant, parse_overrides, read_config


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return read_config(path)


@pytest.mark.parametrize("text", ["2017", "no", "0777", "1e5", "null", "[a]", "$x", "@x", "%x", "a#b", "1:2"])
def test_a_path_is_text_whatever_it_looks_like(text: str) -> None:
    (value,) = parse_overrides([f"dataset_dir={text}"]).values()
    assert value == str(Path.cwd() / text)


def test_a_home_and_a_relative_path_are_absolute_on_the_command_line_and_in_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert parse_overrides(["cache_dir=~/scratch"])["cache_dir"] == f"{tmp_path}/scratch"
    assert entered("cache_dir", read(tmp_path, "cache_dir: ~/scratch")["cache_dir"]) == f"{tmp_path}/scratch"
    assert entered("liver_cache_dir", "scratch") == f"{tmp_path}/scratch"
    assert entered("ensemble", ["a", "~/b"]) == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert entered("cache_dir", "$@bundle_root + '/cache'") == "$@bundle_root + '/cache'"  # code
    assert entered("images_folder", "images") == "images"  # text, but no path


def test_an_empty_path_and_an_unknown_home_are_refused() -> None:
    for call in (
        lambda: lp.train("", {}),
        lambda: lp.compose("", {}),
        lambda: lp.predict("run", "", "masks"),
        lambda: lp.predict("run", "scans", ""),
    ):
        with pytest.raises(ValueError, match="is empty; expected a path"):
            call()
    with pytest.raises(ValueError, match="dataset_dir is empty"):
        parse_overrides(["dataset_dir="])
    with pytest.raises(ValueError, match=r"cache_dir is '~nobody_here/x'; there is no such user"):
        absolute("cache_dir", "~nobody_here/x")


@pytest.mark.parametrize(("text", "expected"), [("2017", "2017"), ("no", "no"), ("0777", "0777"), ("1e5", "1e5")])
def test_text_in_yaml_is_text_as_on_the_command_line(text: str, expected: str, tmp_path: Path) -> None:
    for key in ("dataset_dir", "images_folder", "liver_cache_dir"):
        assert read(tmp_path, f"{key}: {text}")[key] == expected
    assert parse_overrides([f"images_folder={text}"]) == {"images_folder": expected}


def test_null_is_null_only_where_a_key_takes_it(tmp_path: Path) -> None:
    assert read(tmp_path, "converted_dir: null\ndataset_dir: null") == {"converted_dir": None, "dataset_dir": "null"}
    assert parse_overrides(["patient_pattern=null", "images_folder=null"]) == {
        "patient_pattern": None,
        "images_folder": "null",
    }


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    text = "learning_rate: 1e-3\nweight_decay: 1E5\nloss: {_target_: X, a: -2e+1, b: 1e, c: '1e5', d: 2020-01-01}"
    config = read(tmp_path, text)
    assert config == {
        "learning_rate": 0.001,
        "weight_decay": 100000.0,
        "loss": {"_target_": "X", "a": -20.0, "b": "1e", "c": "1e5", "d": "2020-01-01"},
    }


@given(st.floats(allow_nan=False) | st.integers(-(10**12), 10**12))
def test_a_number_that_yaml_writes_is_read_as_it_was(value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read(Path(folder), yaml.safe_dump({"seed": value})) == {"seed": value}


def test_a_number_of_base_8_or_60_is_text_so_that_nobody_gets_another_one(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 010\nb: 1:30\nc: 0x10\nd: 1_000\ne: .5\nf: 0") == {
        "a": "010", "b": "1:30", "c": 16, "d": 1000, "e": 0.5, "f": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "sets 'a' twice, in lines 1 and 3"),
        ("a:\n- {x: 1,\n   y: 1, x: 2}\n", "sets 'x' twice, in lines 2 and 3"),
        ("a::b: 1\na#b: 2\n", "sets 'a::b' twice, in lines 1 and 2"),
        ("- a\n", "holds no keys"),
        ("5: 1\n", "has the key 5; keys are text"),
        ("? [a, b]\n: 1\n", "line 1, has the key of several values; keys are text"),
        ("seed: 1\n~: 1\n", "line 2, has the key ~; keys are text"),
        ("a: &a {b: *a}\n", "line 1: more than 50 lists and blocks in each other"),
        ("a:\n\tb: 1\n", "line 2, column 1: .*indent with blanks, not tabs"),
        ("a: 1\nb: \0\n", r"line 2, column 4: '.x00' is no text"),
        ("a: [1\n", r"not valid YAML(?s:.)*line 2"),
    ],
)
def test_yaml_that_does_not_say_one_thing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"some\.yaml(?s:.)*{message}"):
        read(tmp_path, text)


def test_a_word_twice_or_without_equals_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed' is given twice"):
        parse_overrides(["seed=1", "seed=2"])
    with pytest.raises(ValueError, match="'loss::a' is given twice"):
        parse_overrides(["loss::a=1", "loss#a=2"])
    for twice in ("{1: 1, 1: 2}", "[{a: 1, a: 2}]"):
        with pytest.raises(ValueError, match=r"label_map sets '[1a]' twice"):
            parse_overrides([f"label_map={twice}"])
    with pytest.raises(ValueError, match="expected key=value, got 'lr'"):
        parse_overrides(["lr"])


@given(st.text())
def test_any_text_passes_through_monais_config_language(text: str) -> None:
    plain = text.lstrip("$@%")  # what begins so is code
    config = {"a": literal(plain), "b": "@a", "c": {"_target_": "builtins.dict", "x": "@a", "y": [literal(plain)]}}
    parser = ConfigParser(config)
    assert parser.get_parsed_content("b") == plain
    assert parser.get_parsed_content("c") == {"x": plain, "y": [plain]}
    assert meant(literal(plain)) == plain


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_any_path_given_on_the_command_line_is_that_path(name: str) -> None:
    values = parse_overrides([f"dataset_dir=/{name}"])
    parsed = ConfigParser({key: entered(key, value) for key, value in values.items()}).get_parsed_content("dataset_dir")
    assert Path(parsed) == Path(f"/{name}")
