"""Split conformal intervals of volumes: how far the true volume may lie from that of a mask.

On cases with a reference, which the network was not trained on, the score of each says how far mask and reference are
apart. Of n scores the ceil((n + 1) level)-th smallest bounds the score of one more case of the same kind with
probability ``level`` at least, whatever the network and however scores are distributed; with more than 1 / (n + 1)
above it only where scores are equal. Sources: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005;
Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018; Angelopoulos, Bates, "Conformal
Prediction: A Gentle Introduction", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SMALL_ML = 1.0  # volumes far below it are compared by difference, those far above by ratio


def volume_score(volume_ml: float, reference_ml: float) -> float:
    """Return how far two volumes are apart: the logarithm of their ratio, each with 1 ml added, without its sign.

    Errors of volumes grow with the volume, so ratios of large and of small ones are of one kind; the millilitre keeps
    the score finite where one of them is 0, and 0 where both are.

    Example:
        >>> volume_score(199.0, 99.0) == volume_score(99.0, 199.0) == math.log(2)
        True
    """
    return abs(math.log((reference_ml + SMALL_ML) / (volume_ml + SMALL_ML)))


def conformal_bound(scores: Sequence[float], level: float) -> float | None:
    """Return the score that one more case stays within with probability ``level``; None with too few scores to say.

    Args:
        scores: Of cases that are exchangeable with those to come; at least ``level / (1 - level)`` of them.
        level: Above 0 and below 1.

    Example:
        >>> conformal_bound([0.1 * k for k in range(1, 20)], 0.9)  # the 18th of 19: ceil(20 * 0.9)
        1.8
    """
    rank = math.ceil((len(scores) + 1) * level - 1e-9)  # 0.9 of 20 is 18, not 19
    return sorted(scores)[rank - 1] if rank <= len(scores) else None


def volume_interval(volume_ml: float, bound: float) -> tuple[float, float]:
    """Return the least and the largest true volume whose score against ``volume_ml`` is at most ``bound``, in ml.

    Example:
        >>> volume_interval(99.0, math.log(2))
        (49.0, 199.0)
    """
    factor = math.exp(bound)
    return max(0.0, (volume_ml + SMALL_ML) / factor - SMALL_ML), (volume_ml + SMALL_ML) * factor - SMALL_ML
