from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.dicom_results.results import result_paths
from liver_pipeline.io.file_names import (
    DESCRIPTION,
    MASK_SUFFIXES,
    NAME_BYTES,
    PAGE,
    PROBABILITIES,
    RECORD,
    file_beside,
    fitting_name,
)

ENDINGS = (RECORD, DESCRIPTION, PAGE, PROBABILITIES)
stems = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(stem=stems, suffix=st.sampled_from(MASK_SUFFIXES), ending=st.sampled_from(ENDINGS))
def test_what_lies_beside_a_mask_that_a_file_system_holds_can_be_held_too(stem: str, suffix: str, ending: str) -> None:
    mask = Path("masks") / fitting_name(stem, suffix)
    beside = file_beside(mask, ending)
    assert beside.parent == mask.parent and beside.name.endswith(ending)
    assert len(os.fsencode(beside.name)) <= NAME_BYTES


@pytest.mark.parametrize("suffix", MASK_SUFFIXES)
def test_the_results_of_the_longest_mask_name_have_names_of_their_own(tmp_path: Path, suffix: str) -> None:
    mask = tmp_path / f"{'x' * (NAME_BYTES - len(suffix))}{suffix}"
    paths = [*result_paths(mask).values(), *(file_beside(mask, ending) for ending in ENDINGS)]
    for path in paths:
        path.touch()  # "File name too long" else
    assert len(set(paths)) == len(paths)
