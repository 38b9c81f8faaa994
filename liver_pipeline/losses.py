"""Losses that MONAI does not have, built from those it has.

Shapes and options are MONAI's: logits (B, K, X, Y, Z), and as target labels (B, 1, X, Y, Z) with ``to_onehot_y``, or
else (B, K, X, Y, Z). Everything is computed in float32 (float64 stays), also under autocast: float16 ends at 65504,
which a sum over the voxels of one patch exceeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from monai.losses import DeepSupervisionLoss, DiceLoss, TverskyLoss
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.loss import _Loss

from liver_pipeline.labels import LIVER, LIVER_OR_TUMOR, TUMOR

IMPOSSIBLE: Final = -1e4  # a logit whose probability is 0 in any precision, and which times 0 is 0
TINY: Final = 1e-7  # below it 1 - TI counts as 0: x ** gamma has an infinite slope at 0 where gamma < 1
_PARTS: Final = ("dice", "cross_entropy", "focal_tversky")


class FocalTverskyLoss(_Loss):
    """Multi-class Focal Tversky loss: the mean over classes of (1 - TI) ** gamma.

    TI = (TP + smooth_nr) / (TP + alpha * FP + beta * FN + smooth_dr) is the Tversky index of a class, of soft counts.

    Conventions differ. Here ``alpha`` weighs false positives and ``beta`` false negatives, as in Salehi et al. 2017 and
    in :class:`monai.losses.TverskyLoss`, and ``gamma`` is the exponent itself. Abraham & Khan ("A novel focal Tversky
    loss function with improved attention U-Net for lesion segmentation", ISBI 2019, arXiv:1810.07842) write
    (1 - TI) ** (1 / gamma), sum over classes, and let their alpha weigh false negatives: their alpha 0.7, beta 0.3,
    gamma 4/3 are the defaults here, alpha 0.3, beta 0.7, gamma 0.75. An exponent below 1 has its steepest slope where
    TI is already high; with one above 1 the poorly segmented classes dominate.

    Where a class is absent from the target of a sample, TI is smooth_nr / (alpha * FP + smooth_dr): the loss is 0
    for a prediction without that class and close to 1 for more than a few voxels of it, with a gradient that is
    small but not 0. ``batch: true`` counts over the batch and makes such classes rare.

    Args:
        include_background: Whether channel 0 counts as a class.
        to_onehot_y: Whether the target holds labels, (B, 1, X, Y, Z), to be converted to K channels.
        sigmoid: Whether to apply a sigmoid to the input.
        softmax: Whether to apply a softmax over the channels of the input.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: Exponent; 1 gives the Tversky loss, and with alpha = beta = 0.5 the Dice loss.
        reduction: ``mean`` or ``sum`` over samples and classes, or ``none`` for (B, K).
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Whether to sum the counts over the batch; ``reduction: none`` then gives (K,).

    Raises:
        ValueError: If alpha or beta is negative, gamma is not positive, both activations are asked for, or
            ``reduction`` is unknown.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        if alpha < 0 or beta < 0 or gamma <= 0:
            raise ValueError(f"alpha and beta must be 0 or more and gamma above 0, got {alpha}, {beta} and {gamma}")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
        self.gamma = gamma
        self.tversky = TverskyLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            alpha=alpha,
            beta=beta,
            reduction="none",
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``input``, (B, K, X, Y, Z); ValueError for a softmax of one channel."""
        _check_channels(input, self.tversky.softmax)
        with torch.autocast(input.device.type, enabled=False):
            missed: Tensor = self.tversky(_full_precision(input), target)  # 1 - TI, (B, K) or (K,)
            loss = missed.clamp(min=TINY).pow(self.gamma)
            if self.reduction == "none":
                return loss
            return loss.mean() if self.reduction == "mean" else loss.sum()


class DeepSupervision(DeepSupervisionLoss):
    """MONAI's DeepSupervisionLoss, equal to the bit, whose sum does not begin with a number from the host.

    That number would make the processor wait for a GPU in each step.
    """

    def forward(self, input: Tensor | list[Tensor] | None, target: Tensor) -> Tensor:
        """Return the loss of one output (B, K, X, Y, Z), or the weighted sum over several, full resolution first."""
        if not isinstance(input, (list, tuple)):
            return super().forward(input, target)
        weights = self.get_weights(levels=len(input))
        parts = [w * self.get_loss(part.float(), target) for w, part in zip(weights, input, strict=False)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class MarginalLoss(_Loss):
    """A loss that learns from references which outline livers without their tumors: marginal loss.

    A window whose target holds ``LIVER_OR_TUMOR`` is one of two classes: the loss sees p(liver) + p(tumor) against the
    liver with its tumors, and a tumor with probability 0 that the target does not have. So it says nothing about what
    in a liver is tumor: its gradient has no part that moves probability from liver to tumor, beyond what their sum
    asks of both in proportion. Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", Medical Image Analysis 70 (2021) 101979. Other windows go to the loss as they are.

    Args:
        loss: Any of logits (B, K, X, Y, Z) and labels (B, 1, X, Y, Z) that applies a softmax; of a sigmoid's channels
            the odds of liver and tumor are added.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits and labels; 0 background, 1 liver, 2 tumor, 3 liver or tumor."""
        merged = (target == LIVER_OR_TUMOR).flatten(1).any(1).view(-1, *[1] * (target.ndim - 1))
        logits = _full_precision(input)
        liver = logits[:, LIVER:].logsumexp(1, keepdim=True)  # of p(liver) + p(tumor), up to what softmax takes off
        whole = torch.cat([logits[:, :LIVER], liver, torch.full_like(logits[:, TUMOR:], IMPOSSIBLE)], 1)
        logits = torch.where(merged, whole, logits)
        loss: Tensor = self.loss(logits, torch.where(merged, target.clamp(max=LIVER), target))
        return loss


class ComboLoss(_Loss):
    """Weighted sum of Dice, cross-entropy and Focal Tversky loss.

    ``weights: {dice: 0.3, cross_entropy: 0.3, focal_tversky: 0.4}`` is Srivastava & Pandey's AdvancedComboLoss (2025).
    Their binary cross-entropy is what ``sigmoid: true`` gives; softmax cross-entropy of two classes is the binary
    cross-entropy of the difference of the two logits.

    The parts are :class:`monai.losses.DiceLoss`, torch's ``cross_entropy`` (``softmax``) or
    ``binary_cross_entropy_with_logits`` (``sigmoid``), and :class:`FocalTverskyLoss`. As in MONAI's DiceCELoss, softmax
    cross-entropy always counts the background; the sigmoid one obeys ``include_background``. A class absent from the
    target gives a Dice and Focal Tversky part as described there, and a cross-entropy like any other.

    Args:
        weights: Weight of each part by name: ``dice``, ``cross_entropy``, ``focal_tversky``; what is left out is 0.
        include_background: This and what follows: see :class:`FocalTverskyLoss`.
        to_onehot_y: See there.
        sigmoid: See there; exactly one of sigmoid and softmax must be true.
        softmax: See there.
        alpha: Of the Focal Tversky part.
        beta: Of the Focal Tversky part.
        gamma: Of the Focal Tversky part.
        reduction: ``mean`` or ``sum``, of each part.
        batch: Of the Dice and Focal Tversky parts.

    Raises:
        ValueError: If a weight is unknown or negative, or not exactly one of ``sigmoid`` and ``softmax`` is true, or
            ``reduction`` is unknown.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        reduction: str = "mean",
        batch: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        if not weights or not set(weights) <= set(_PARTS) or min(weights.values()) < 0:
            raise ValueError(
                f"weights must give some of {', '.join(_PARTS)} a number of 0 or more, got {dict(weights)}"
            )
        if sigmoid == softmax:
            raise ValueError(f"exactly one of sigmoid and softmax must be true, got {sigmoid} and {softmax}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be mean or sum, got {reduction!r}; the parts differ in shape without it")
        self.weights = dict(weights)
        self.softmax = softmax
        overlap: dict[str, Any] = {
            "include_background": include_background,
            "to_onehot_y": to_onehot_y,
            "sigmoid": sigmoid,
            "softmax": softmax,
            "reduction": reduction,
            "batch": batch,
        }
        parts: dict[str, _Loss] = {
            "dice": DiceLoss(**overlap),
            "cross_entropy": _CrossEntropy(include_background, to_onehot_y, softmax, reduction),
            "focal_tversky": FocalTverskyLoss(**overlap, alpha=alpha, beta=beta, gamma=gamma),
        }
        self.parts = nn.ModuleDict({name: parts[name] for name in self.weights})

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``input``, (B, K, X, Y, Z); ValueError for a softmax of one channel."""
        _check_channels(input, self.softmax)
        with torch.autocast(input.device.type, enabled=False):
            logits = _full_precision(input)
            parts = [self.weights[name] * part(logits, target) for name, part in self.parts.items()]
            return torch.stack(parts).sum()


class _CrossEntropy(_Loss):
    """Cross-entropy with MONAI's options: softmax over the channels, or binary for each of them."""

    def __init__(self, include_background: bool, to_onehot_y: bool, softmax: bool, reduction: str) -> None:
        super().__init__(reduction=reduction)
        self.first_class = 0 if include_background else 1
        self.to_onehot_y = to_onehot_y
        self.softmax = softmax

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of logits (B, K, X, Y, Z) against labels or K channels."""
        if self.softmax and self.to_onehot_y:
            return functional.cross_entropy(input, target[:, 0].long(), reduction=self.reduction)
        if self.softmax:
            return functional.cross_entropy(input, target.to(input.dtype), reduction=self.reduction)
        if input.shape[1] > 1:  # MONAI's losses ignore to_onehot_y and include_background for one channel
            target = one_hot(target, num_classes=input.shape[1]) if self.to_onehot_y else target
            input, target = input[:, self.first_class :], target[:, self.first_class :]
        return functional.binary_cross_entropy_with_logits(input, target.to(input.dtype), reduction=self.reduction)


def _full_precision(input: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, and wider types unchanged."""
    return input.to(torch.promote_types(input.dtype, torch.float32))


def _check_channels(input: Tensor, softmax: bool) -> None:
    """Raise ValueError for a softmax of one channel, which is always 1; MONAI warns and takes logits as they are."""
    if softmax and input.shape[1] == 1:
        raise ValueError(f"softmax needs 2 channels or more, got input of shape {tuple(input.shape)}; use sigmoid")


class LiverTumorLoss(_Loss):
    """Cross-entropy with more weight on tumor, plus Dice of the liver with its tumors, plus Dice of the tumor.

    The liver's Dice is a mean over samples; the tumor's counts over the batch, since many samples have none. Both are
    soft, with a constant that lets an absent class found absent count as right.

    Args:
        tumor_weight: Of a tumor voxel in the cross-entropy; others weigh 1.
        tumor_dice_weight: Of the tumor's Dice; the other two parts weigh 1.
    """

    class_weights: Tensor

    def __init__(self, tumor_weight: float = 2.5, tumor_dice_weight: float = 0.7) -> None:
        super().__init__()
        self.tumor_dice_weight = tumor_dice_weight
        self.register_buffer("class_weights", torch.tensor([1.0, 1.0, tumor_weight]), persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, 3, X, Y, Z) and labels (B, 1, X, Y, Z): 0 background, 1 liver, 2 tumor."""
        with torch.autocast(input.device.type, enabled=False):
            logits, labels = _full_precision(input), target[:, 0].long()
            cross_entropy = functional.cross_entropy(logits, labels, self.class_weights.to(logits))
            shares = logits.softmax(1)
            liver = _missed_overlap(1 - shares[:, 0], labels >= LIVER, (1, 2, 3), 100.0).mean()
            tumor = _missed_overlap(shares[:, TUMOR], labels == TUMOR, (0, 1, 2, 3), 50.0)
            return cross_entropy + liver + self.tumor_dice_weight * tumor


def _missed_overlap(share: Tensor, mask: Tensor, axes: tuple[int, ...], constant: float) -> Tensor:
    """Return 1 - soft Dice over ``axes``; ``constant`` voxels count as found."""
    common = (share * mask).sum(axes)
    return 1 - (2 * common + constant) / (share.sum(axes) + mask.sum(axes) + constant)
