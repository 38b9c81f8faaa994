"""How far passes agree: worked Dice of known label maps, and a mask that does not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from liver_pipeline.inferers.agreement import PassAgreement
from liver_pipeline.inferers.members import Network
from liver_pipeline.inferers.streaming import StreamingInferer
from tests.inferers.test_streaming import on_model_grid, small_net, smooth_volume

SHAPE = (6, 10, 8)


def painting(paint: Callable[[torch.Tensor], None], classes: int = 3) -> Network:
    """A network that gives the same labels whatever it sees."""
    labels = torch.zeros(SHAPE, dtype=torch.long)
    paint(labels)
    logits = 10.0 * torch.nn.functional.one_hot(labels, classes).permute(3, 0, 1, 2).float()
    return lambda windows: logits.expand(windows.shape[0], -1, -1, -1, -1)


def first_rows(count: int, label: int = 1) -> Callable[[torch.Tensor], None]:
    def paint(labels: torch.Tensor) -> None:
        labels[:, :count] = label

    return paint


def agreement_of(networks: Sequence[Network], tta: Sequence[int] = ()) -> dict[str, float]:
    image = MetaTensor(torch.zeros(1, 1, *SHAPE), affine=torch.diag(torch.tensor([2.0, 2.0, 2.5, 1.0])))
    inferer = StreamingInferer(SHAPE, backend="torch", tta=tta, quality=True)
    found: dict[str, float] = inferer(image, list(networks)).meta["inference"]["agreement"]
    return found


def test_one_network_is_compared_with_its_mirror_image() -> None:
    """Rows 0 to 7 of 10, mirrored rows 2 to 9: 6 in common, Dice 2 * 6 / (8 + 8)."""
    assert agreement_of([painting(first_rows(8))]) == {"passes": 2, "most_tumor_ml": 0.0, "liver": 0.75}


def test_disjoint_tumors_have_dice_zero_and_their_volume_is_told() -> None:
    tumor = painting(first_rows(3, label=2))
    # 3 rows of 6 x 8 voxels of 0.01 ml; tumor is part of the liver
    assert agreement_of([tumor]) == {"passes": 2, "most_tumor_ml": 1.44, "liver": 0.0, "tumor": 0.0}


def test_two_empty_masks_are_left_out() -> None:
    assert agreement_of([painting(first_rows(0))]) == {"passes": 2, "most_tumor_ml": 0.0}


def test_members_of_an_ensemble_are_compared_in_pairs_and_not_mirrored() -> None:
    """Rows 8, 4 and 0: pairs 2 * 4 / 12, 0, 0."""
    found = agreement_of([painting(first_rows(count)) for count in (8, 4, 0)])
    assert found == {"passes": 3, "most_tumor_ml": 0.0, "liver": pytest.approx(2 / 9, abs=1e-4)}


def test_passes_of_tta_are_compared_and_their_mean_is_not_one_of_them() -> None:
    """Axis 0 mirrors rows onto themselves: both passes are equal."""
    assert agreement_of([painting(first_rows(8))], tta=(0,)) == {"passes": 2, "most_tumor_ml": 0.0, "liver": 1.0}
    assert agreement_of([painting(first_rows(8))], tta=(0, 1))["passes"] == 4


def test_two_classes_have_no_tumor() -> None:
    assert agreement_of([painting(first_rows(8), classes=2)]) == {"passes": 2, "most_tumor_ml": 0.0, "liver": 0.75}


def test_counts_of_parts_are_those_of_the_whole() -> None:
    sums = torch.randn(12, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    whole, parts = PassAgreement(2), PassAgreement(2)
    whole.add(sums)
    for part in torch.split(sums, 5):
        parts.add(part)
    assert parts.figures(0.1) == whole.figures(0.1)
    assert set(whole.figures(0.1)) == {"passes", "most_tumor_ml", "liver", "tumor"}


def test_without_a_window_nothing_is_known() -> None:
    assert PassAgreement(2).figures(1.0) == {"passes": 2, "most_tumor_ml": 0.0}


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize(("members", "tta"), [(1, ()), (1, (2,)), (2, ())])
def test_the_mask_does_not_change(backend: str, members: int, tta: tuple[int, ...]) -> None:
    image = on_model_grid(smooth_volume((30, 26, 22)), np.diag([-1.0, 1.3, 2.0, 1.0]), (2.0, 2.0, 2.0))
    networks = [small_net(seed=seed) for seed in range(members)]
    results = [
        StreamingInferer((12, 12, 8), 2, 0.5, backend=backend, tta=tta, probabilities=True, quality=quality)(
            image, networks
        )
        for quality in (False, True)
    ]
    off, on = results
    assert torch.equal(off.as_tensor(), on.as_tensor())
    assert torch.equal(off.meta["probabilities"], on.meta["probabilities"])
    assert "agreement" not in off.meta["inference"]
    assert 0 < on.meta["inference"]["agreement"]["liver"] <= 1
