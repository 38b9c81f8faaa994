"""A config is looked through in the order in which it is written, each part under its path."""

from __future__ import annotations

from liver_pipeline.bundle.tree import components_in, parts_of, references_in, with_prefix

INNER = {"_target_": "Inner", "x": "@a"}
CONFIG = {"one": {"_target_": "Outer", "steps": [INNER, "$@b + @c::d"]}, "two": (1, "plain @e")}


def test_parts_come_with_their_paths_as_they_are_written_or_what_is_held_first() -> None:
    outer, steps = CONFIG["one"], CONFIG["one"]["steps"]  # type: ignore[index]
    of_inner = [("one::steps::0::_target_", "Inner"), ("one::steps::0::x", "@a")]
    assert list(parts_of(CONFIG["one"], "one")) == [
        ("one", outer), ("one::_target_", "Outer"), ("one::steps", steps), ("one::steps::0", INNER), *of_inner,
        ("one::steps::1", "$@b + @c::d"),
    ]  # fmt: skip
    assert list(parts_of(CONFIG["two"], "two")) == [("two", (1, "plain @e")), ("two::0", 1), ("two::1", "plain @e")]
    assert [path for path, _ in components_in(CONFIG)] == ["one", "one::steps::0"]
    assert [path for path, _ in components_in(CONFIG, inner_first=True)] == ["one::steps::0", "one"]


def test_references_are_those_of_code_alone_and_can_have_a_prefix() -> None:
    assert references_in(CONFIG) == {"a", "b", "c"}
    assert references_in(with_prefix(CONFIG, {"b", "e"}, "liver_")) == {"a", "liver_b", "c"}
    assert "plain @e" in str(with_prefix(CONFIG, {"e"}, "liver_"))
