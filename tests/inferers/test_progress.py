"""Who listens hears of every batch of windows, and of two networks as parts of one whole."""

from __future__ import annotations

import pytest
import torch

from liver_pipeline.inferers import StreamingInferer
from liver_pipeline.inferers.progress import progress_part, progress_to, tell_progress


def test_each_batch_of_windows_is_told() -> None:
    infer = StreamingInferer([8, 8, 8], sw_batch_size=2, overlap=0.0, backend="torch", skip_air=False)
    heard: list[float] = []
    with progress_to(heard.append):
        infer(torch.zeros(1, 1, 24, 8, 8), torch.nn.Conv3d(1, 2, 1))
    assert heard == pytest.approx([2 / 3, 1.0])  # three windows, two at a time


def test_parts_are_told_as_shares_of_the_whole_and_nobody_has_to_listen() -> None:
    heard: list[float] = []
    with progress_to(heard.append):
        with progress_part(0.0, 0.25):
            tell_progress(1.0)
        with progress_part(0.25, 1.0):
            tell_progress(0.0)
            tell_progress(1.0)
    tell_progress(0.5)
    assert heard == pytest.approx([0.25, 0.25, 1.0])
