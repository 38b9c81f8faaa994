"""Losses against values worked out by hand, their gradients, and MONAI's losses where those agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss, TverskyLoss
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from liver_pipeline.labels import LIVER_OR_TUMOR
from liver_pipeline.losses import ComboLoss, DeepSupervision, FocalTverskyLoss, LiverTumorLoss, MarginalLoss

ALL_PARTS = {"dice": 0.3, "cross_entropy": 0.3, "focal_tversky": 0.4}  # Srivastava & Pandey 2025
EXACT: dict[str, Any] = {"smooth_nr": 0.0, "smooth_dr": 0.0}


def channels(*probabilities: list[float]) -> Tensor:
    """Return (1, K, 1, 1, V) from one list of voxel values for each channel."""
    return torch.tensor(probabilities, dtype=torch.float64)[None, :, None, None, :]


def labels(*values: int) -> Tensor:
    """Return labels (1, 1, 1, 1, V)."""
    return torch.tensor(values, dtype=torch.uint8)[None, None, None, None, :]


def random_case(seed: int = 0, classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return logits (B, K, 4, 5, 3) and labels (B, 1, 4, 5, 3)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, 4, 5, 3, generator=generator)
    return logits, torch.randint(0, classes, (batch, 1, 4, 5, 3), generator=generator)


def few_voxels() -> tuple[Tensor, Tensor]:
    """Return logits (2, 3, 2, 1, 3) and labels: a numerical gradient costs two runs for each number."""
    logits, target = random_case()
    return logits[:, :, :2, :1], target[:, :, :2, :1]


def option(activation: str) -> dict[str, Any]:
    """Return the argument that asks for ``softmax`` or ``sigmoid``."""
    return {activation: True}


# Four voxels; per class TP, FP and FN by hand:
#   background  p = .5 .5  1  0   g = 1 1 0 0   TP 1    FP 1    FN 1
#   liver       p = .5  0  0  1   g = 0 0 1 1   TP 1    FP 0.5  FN 1
#   tumor       p = 0  .5  0  0   g = 0 0 0 0   TP 0    FP 0.5  FN 0
WORKED = channels([0.5, 0.5, 1.0, 0.0], [0.5, 0.0, 0.0, 1.0], [0.0, 0.5, 0.0, 0.0])
WORKED_LABELS = labels(0, 0, 1, 1)


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(0.3, 0.7, 0.75), (0.7, 0.3, 2.0), (0.5, 0.5, 1.0)])
def test_focal_tversky_of_each_class_equals_the_worked_value(alpha: float, beta: float, gamma: float) -> None:
    loss = FocalTverskyLoss(to_onehot_y=True, alpha=alpha, beta=beta, gamma=gamma, reduction="none", **EXACT)
    background = 1 - 1 / (1 + alpha * 1 + beta * 1)
    liver = 1 - 1 / (1 + alpha * 0.5 + beta * 1)
    expected = [[background**gamma, liver**gamma, 1.0]]  # tumor: nothing hit, so 1
    torch.testing.assert_close(loss(WORKED, WORKED_LABELS), torch.tensor(expected, dtype=torch.float64))


def test_one_value_worked_to_the_last_digit() -> None:
    # TP 1, FP 1, FN 1 with 0.3 and 0.7: TI = 1 / 2, so (1 / 2) ** 0.75 = 0.5946035575
    loss = FocalTverskyLoss(to_onehot_y=True, reduction="none", **EXACT)
    assert loss(WORKED, WORKED_LABELS)[0, 0].item() == pytest.approx(0.5946035575, abs=1e-10)


def test_defaults_are_abraham_and_khans_in_our_convention() -> None:
    # Theirs: alpha 0.7 for FN, beta 0.3 for FP, exponent 1 / (4/3).
    true_positives, false_positives, false_negatives = 1.0, 0.5, 1.0
    index = true_positives / (true_positives + 0.7 * false_negatives + 0.3 * false_positives)
    ours = FocalTverskyLoss(to_onehot_y=True, reduction="none", **EXACT)(WORKED, WORKED_LABELS)[0, 1]
    assert ours.item() == pytest.approx((1 - index) ** (1 / (4 / 3)))


def test_beta_makes_a_missed_tumor_dearer_than_an_invented_one() -> None:
    loss = FocalTverskyLoss(include_background=False, to_onehot_y=True, alpha=0.3, beta=0.7)
    truth = labels(1, 1, 0, 0)
    missed, invented = channels([0, 1, 1, 1], [1, 0, 0, 0]), channels([0, 0, 0, 1], [1, 1, 1, 0])
    assert loss(missed, truth) > loss(invented, truth)


def test_reductions_and_background() -> None:
    logits, target = random_case()
    options: dict[str, Any] = {"to_onehot_y": True, "softmax": True}
    each = FocalTverskyLoss(**options, reduction="none")(logits, target)
    assert each.shape == (2, 3)
    torch.testing.assert_close(FocalTverskyLoss(**options)(logits, target), each.mean())
    torch.testing.assert_close(FocalTverskyLoss(**options, reduction="sum")(logits, target), each.sum())
    torch.testing.assert_close(
        FocalTverskyLoss(**options, include_background=False)(logits, target), each[:, 1:].mean()
    )


def test_batch_counts_over_all_samples() -> None:
    logits, target = random_case()
    options: dict[str, Any] = {"to_onehot_y": True, "softmax": True, "reduction": "none"}
    as_one = torch.cat(list(logits), dim=1)[None], torch.cat(list(target), dim=1)[None]  # joined along X
    pooled = FocalTverskyLoss(**options, batch=True)(logits, target)
    torch.testing.assert_close(pooled, FocalTverskyLoss(**options)(*as_one)[0])


def test_exponent_one_is_monais_tversky_and_even_weights_make_it_dice() -> None:
    logits, target = random_case()
    options: dict[str, Any] = {"to_onehot_y": True, "softmax": True}
    ours = FocalTverskyLoss(**options, alpha=0.2, beta=0.8, gamma=1.0)(logits, target)
    torch.testing.assert_close(ours, TverskyLoss(**options, alpha=0.2, beta=0.8)(logits, target))
    even = FocalTverskyLoss(**options, alpha=0.5, beta=0.5, gamma=1.0, **EXACT)(logits, target)
    torch.testing.assert_close(even, DiceLoss(**options, **EXACT)(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 0.75, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients_of_focal_tversky(gamma: float, activation: str) -> None:
    logits, target = few_voxels()
    loss = FocalTverskyLoss(to_onehot_y=True, gamma=gamma, **option(activation))
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.double().requires_grad_())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients_of_combo(activation: str) -> None:
    logits, target = few_voxels()
    loss = ComboLoss(ALL_PARTS, include_background=False, to_onehot_y=True, **option(activation))
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.double().requires_grad_())


def test_tumor_channel_gets_a_gradient() -> None:
    logits, target = random_case()
    logits.requires_grad_()
    FocalTverskyLoss(include_background=False, to_onehot_y=True, sigmoid=True)(logits, target).backward()
    assert logits.grad is not None
    assert logits.grad[:, 2].abs().min() > 0


@pytest.mark.parametrize("gamma", [0.5, 0.75, 1.0, 2.0])
def test_perfect_prediction_costs_nothing_and_its_gradient_is_finite(gamma: float) -> None:
    _, target = random_case()
    perfect = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float().requires_grad_()
    loss = FocalTverskyLoss(to_onehot_y=True, gamma=gamma)(perfect, target)
    loss.backward()
    assert loss.item() < 1e-3
    assert perfect.grad is not None
    assert torch.isfinite(perfect.grad).all()


def test_absent_class_costs_nothing_when_not_predicted_and_one_when_predicted() -> None:
    loss = FocalTverskyLoss(to_onehot_y=True, reduction="none")
    truth = labels(0, 0, 1, 1)
    right = channels([1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0])
    assert loss(right, truth)[0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-4)
    wrong = channels([1, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]).requires_grad_()
    cost = loss(wrong, truth)[0, 2]
    # TI = 1e-5 / (0.3 + 1e-5)
    assert cost.item() == pytest.approx((1 - 1e-5 / (0.3 + 1e-5)) ** 0.75)
    cost.backward()
    assert wrong.grad is not None
    assert (wrong.grad[0, 2] > 0).all()  # small, but it still says: fewer tumor voxels


def test_absent_class_in_one_sample_is_forgiven_when_counted_over_the_batch() -> None:
    truth = torch.cat([labels(0, 0, 1, 1), labels(0, 0, 0, 0)])
    prediction = torch.cat([channels([1, 1, 0, 0], [0, 0, 1, 1]), channels([1, 1, 1, 0.9], [0, 0, 0, 0.1])])
    options: dict[str, Any] = {"include_background": False, "to_onehot_y": True}
    assert FocalTverskyLoss(**options)(prediction, truth) > 0.49  # half the samples cost 1
    assert FocalTverskyLoss(**options, batch=True)(prediction, truth) < 0.06


# --- combo ---


def test_combo_equals_the_worked_value() -> None:
    # Two voxels, logits (0, ln 3) and (ln 3, 0): the right class has p = 3/4 in both.
    third = math.log(3.0)
    logits, truth = channels([0.0, third], [third, 0.0]), labels(1, 0)
    cross_entropy = -math.log(0.75)
    dice = 1 - 2 * 0.75 / (1 + 1)  # TP 3/4, sum of p 1, sum of g 1, for both classes
    tversky = 1 - 0.75 / (0.75 + 0.3 * 0.25 + 0.7 * 0.25)  # FP = FN = 1/4
    loss = ComboLoss(ALL_PARTS, to_onehot_y=True, softmax=True)(logits, truth)
    assert loss.item() == pytest.approx(0.3 * dice + 0.3 * cross_entropy + 0.4 * tversky**0.75, abs=1e-5)


def test_combo_of_one_sigmoid_channel_equals_the_worked_value() -> None:
    logits, truth = channels([math.log(3.0), -math.log(3.0)]), channels([1.0, 0.0])  # p = 3/4 and 1/4
    tversky = 1 - 0.75 / (0.75 + 0.3 * 0.25 + 0.7 * 0.25)
    loss = ComboLoss(ALL_PARTS, sigmoid=True)(logits, truth)
    assert loss.item() == pytest.approx(0.3 * 0.25 + 0.3 * -math.log(0.75) + 0.4 * tversky**0.75, abs=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("include_background", [True, False])
def test_dice_and_cross_entropy_equal_monais(reduction: str, include_background: bool) -> None:
    logits, target = random_case()
    options: dict[str, Any] = {
        "to_onehot_y": True,
        "softmax": True,
        "include_background": include_background,
        "reduction": reduction,
    }
    ours = ComboLoss({"dice": 0.6, "cross_entropy": 0.4}, **options)(logits, target)
    torch.testing.assert_close(ours, DiceCELoss(lambda_dice=0.6, lambda_ce=0.4, **options)(logits, target))


def test_weights_name_the_parts_that_are_computed() -> None:
    logits, target = random_case()
    options: dict[str, Any] = {"to_onehot_y": True, "sigmoid": True}
    single = {name: ComboLoss({name: 1.0}, **options)(logits, target) for name in ALL_PARTS}
    together = sum(weight * single[name] for name, weight in ALL_PARTS.items())
    torch.testing.assert_close(ComboLoss(ALL_PARTS, **options)(logits, target), together)
    assert list(ComboLoss({"dice": 1.0}, **options).parts) == ["dice"]


def test_binary_cross_entropy_obeys_include_background() -> None:
    logits, target = random_case()
    foreground = (target == torch.arange(1, 3).reshape(1, 2, 1, 1, 1)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1:], foreground)
    loss = ComboLoss({"cross_entropy": 1.0}, include_background=False, to_onehot_y=True, sigmoid=True)
    torch.testing.assert_close(loss(logits, target), expected)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 4), st.sampled_from(["softmax", "sigmoid"]))
def test_losses_are_finite_positive_and_the_same_for_one_hot_targets(seed: int, classes: int, activation: str) -> None:
    logits, target = random_case(seed, classes)
    onehot = torch.nn.functional.one_hot(target[:, 0], classes).movedim(-1, 1)
    options: dict[str, Any] = {activation: True}
    for with_labels, with_channels in [
        (FocalTverskyLoss(to_onehot_y=True, **options), FocalTverskyLoss(**options)),
        (ComboLoss(ALL_PARTS, to_onehot_y=True, **options), ComboLoss(ALL_PARTS, **options)),
    ]:
        value = with_labels(100 * logits, target)
        assert torch.isfinite(value)
        assert value >= 0
        torch.testing.assert_close(with_channels(100 * logits, onehot), value)


# --- where they are used ---

both_losses = pytest.mark.parametrize(
    "loss",
    [FocalTverskyLoss(to_onehot_y=True, softmax=True), ComboLoss(ALL_PARTS, to_onehot_y=True, softmax=True)],
    ids=["focal_tversky", "combo"],
)


@both_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(loss: _Loss, dtype: torch.dtype) -> None:
    logits, target = random_case()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(logits.to(dtype), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.to(dtype).float(), target))


@both_losses
def test_more_voxels_than_float16_can_count(loss: _Loss) -> None:
    logits = torch.zeros(1, 2, 64, 64, 64, dtype=torch.float16)  # 262144 voxels; float16 ends at 65504
    target = torch.zeros(1, 1, 64, 64, 64)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(loss(logits, target))


def test_deep_supervision_equals_monais_to_the_bit() -> None:
    torch.manual_seed(0)
    outputs = [torch.randn(2, 3, n, n, n, requires_grad=True) for n in (8, 4, 2)]
    target = torch.randint(0, 3, (2, 1, 8, 8, 8)).float()
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    for some in (outputs, outputs[0], outputs[:1]):
        assert torch.equal(DeepSupervision(loss)(some, target), DeepSupervisionLoss(loss)(some, target))
    gradients = [
        torch.autograd.grad(kind(loss)(outputs, target), outputs) for kind in (DeepSupervision, DeepSupervisionLoss)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@both_losses
def test_deep_supervision_wraps_the_loss(loss: _Loss) -> None:
    logits, target = torch.randn(1, 3, 8, 8, 8), torch.randint(0, 3, (1, 1, 8, 8, 8)).float()
    heads = [logits, logits[..., ::2, ::2, ::2]]
    coarse = target[..., 1::2, 1::2, 1::2]  # nearest-exact: of the two middle voxels the later one
    expected = loss(heads[0], target) + 0.5 * loss(heads[1], coarse)
    torch.testing.assert_close(DeepSupervisionLoss(loss)(heads, target), expected)


@both_losses
def test_meta_tensors_and_two_dimensional_patches_work(loss: _Loss) -> None:
    logits, target = random_case()
    torch.testing.assert_close(
        torch.as_tensor(loss(MetaTensor(logits), MetaTensor(target))), loss(logits, target), check_dtype=False
    )
    assert torch.isfinite(loss(logits[..., 0], target[..., 0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@both_losses
def test_same_value_on_gpu_under_autocast(loss: _Loss) -> None:
    logits, target = random_case()
    with torch.autocast("cuda"):
        on_gpu = loss(logits.cuda().half(), target.cuda())
    torch.testing.assert_close(on_gpu.cpu(), loss(logits.half().float(), target))


def test_yaml_names_the_losses() -> None:
    config = {
        "loss": {
            "_target_": "liver_pipeline.losses.ComboLoss",
            "weights": ALL_PARTS,
            "to_onehot_y": True,
            "softmax": True,
            "include_background": False,
            "gamma": 0.75,
        }
    }
    loss = ConfigParser(config).get_parsed_content("loss")
    assert isinstance(loss, ComboLoss)
    assert torch.isfinite(loss(*random_case()))


def test_softmax_of_one_channel_is_refused() -> None:
    one_channel, target = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    for loss in (FocalTverskyLoss(softmax=True), ComboLoss(ALL_PARTS, softmax=True)):
        with pytest.raises(ValueError, match="use sigmoid"):
            loss(one_channel, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"bce": 1.0}, "softmax": True}, "cross_entropy"),
        ({"weights": {}, "softmax": True}, "weights"),
        ({"weights": {"dice": -1.0}, "softmax": True}, "0 or more"),
        ({"weights": {"dice": 1.0}}, "exactly one"),
        ({"weights": {"dice": 1.0}, "softmax": True, "sigmoid": True}, "exactly one"),
        ({"weights": {"dice": 1.0}, "softmax": True, "reduction": "none"}, "reduction"),
    ],
)
def test_combo_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComboLoss(**arguments)


@pytest.mark.parametrize("arguments", [{"alpha": -0.1}, {"beta": -1.0}, {"gamma": 0.0}, {"reduction": "median"}])
def test_focal_tversky_refuses_what_makes_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FocalTverskyLoss(**arguments)


def test_liver_tumor_loss_equals_the_worked_value() -> None:
    """Each voxel is said to be background by 0.5, liver by 0.3, tumor by 0.2; the second sample is background alone."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1, 1).expand(2, 3, 2, 2, 2)
    target = torch.zeros(2, 1, 2, 2, 2)
    target[0, 0, 0] = torch.tensor([[1, 1], [2, 2]])
    cross_entropy = -(12 * math.log(0.5) + 2 * math.log(0.3) + 5 * math.log(0.2)) / (12 + 2 + 5)  # tumor weighs 2.5
    liver = (1 - (2 * 4 * 0.5 + 100) / (8 * 0.5 + 4 + 100) + 1 - 100 / (8 * 0.5 + 100)) / 2
    tumor = 1 - (2 * 2 * 0.2 + 50) / (16 * 0.2 + 2 + 50)  # over both samples
    assert float(LiverTumorLoss()(logits, target)) == pytest.approx(cross_entropy + liver + 0.7 * tumor)


# --- references that outline livers without their tumors ---

EVERY_LOSS: dict[str, Callable[[], nn.Module]] = {
    "dice_ce": lambda: DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True),
    "combo": lambda: ComboLoss(ALL_PARTS, to_onehot_y=True, softmax=True, include_background=False),
    "focal_tversky": lambda: FocalTverskyLoss(to_onehot_y=True, softmax=True, include_background=False, batch=True),
    "cross_entropy": lambda: ComboLoss({"cross_entropy": 1.0}, to_onehot_y=True, softmax=True),
    "liver_tumor": LiverTumorLoss,
}


def liver_alone() -> tuple[Tensor, Tensor]:
    """Return logits (2, 3, 4, 5, 3), float64, and labels; of the second window nothing is known of tumors."""
    logits, target = random_case(seed=3)
    target[1] = torch.where(target[1] > 0, LIVER_OR_TUMOR, 0)
    return logits.double().requires_grad_(), target


def test_the_marginal_cross_entropy_is_that_of_the_sum_of_both_probabilities() -> None:
    probabilities = channels([0.2, 0.5], [0.5, 0.1], [0.3, 0.4])
    loss = MarginalLoss(ComboLoss({"cross_entropy": 1.0}, to_onehot_y=True, softmax=True))
    value = loss(probabilities.log(), labels(LIVER_OR_TUMOR, 0))
    assert float(value) == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_a_window_without_tumors_outlined_teaches_nothing_of_liver_against_tumor(name: str) -> None:
    logits, target = liver_alone()
    MarginalLoss(EVERY_LOSS[name]())(logits, target).backward()
    assert logits.grad is not None
    grads, shares = logits.grad, logits.detach()[:, 1:].softmax(1)
    # along (share of tumor, -share of liver) the sum of both probabilities stays as it is, and so must the loss
    slope = grads[:, 1] * shares[:, 1] - grads[:, 2] * shares[:, 0]
    torch.testing.assert_close(slope[1], torch.zeros_like(slope[1]), atol=1e-12, rtol=0)
    assert slope[0].abs().max() > 1e-6  # where they were outlined it teaches that
    assert grads[1].abs().max() > 1e-6  # and of liver against background always


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_the_marginal_loss_of_whole_references_is_the_loss_itself(name: str) -> None:
    logits, target = random_case(seed=5)
    plain, marginal = (logits.clone().requires_grad_() for _ in range(2))
    loss = EVERY_LOSS[name]()
    first, second = loss(plain, target), MarginalLoss(loss)(marginal, target)
    first.backward()
    second.backward()
    torch.testing.assert_close(second, first, atol=0, rtol=0)
    torch.testing.assert_close(marginal.grad, plain.grad, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_the_marginal_loss_is_finite_in_any_precision_and_for_two_classes(name: str, dtype: torch.dtype) -> None:
    logits, target = (one.detach() for one in liver_alone())
    scaled = (50 * logits).to(dtype).requires_grad_()
    MarginalLoss(EVERY_LOSS[name]())(scaled, target).backward()
    assert scaled.grad is not None
    assert torch.isfinite(scaled.grad).all()
    two = ComboLoss(ALL_PARTS, to_onehot_y=True, softmax=True)
    value = MarginalLoss(two)(logits[:, :2], (target > 0).to(target))
    torch.testing.assert_close(value, two(logits[:, :2], (target > 0).to(target)))
