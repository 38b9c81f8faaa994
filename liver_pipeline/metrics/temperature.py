"""One temperature that makes probabilities say how often they are right; the largest class stays the largest.

With a temperature T the probabilities p of the classes become p^(1/T), divided by their sum: what softmax gives of
logits divided by T. T above 1 takes confidence away, T below 1 gives more. It is the one that makes the reference of
validation cases most likely (least negative log-likelihood over voxels), which is convex in 1/T. Source: Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017.

Probabilities are kept in eight bits (:mod:`liver_pipeline.io.probabilities`), so a table of how often each pair of
levels met each class is all that a fit needs, however many voxels there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.labels import FloatArray

Levels = npt.NDArray[np.uint8]
LevelCounts = npt.NDArray[np.int64]
HIDDEN = 0.25  # of a level: a probability below half a level is kept as 0, and lies in the middle of that
TEMPERATURES = (0.05, 20.0)  # least and largest; there a network is as good as always, or never, sure


def level_counts(levels: Levels, truth: Levels) -> LevelCounts:
    """Count how often levels and classes meet.

    Args:
        levels: round(255 p) of the foreground classes, shape (N, 1) for liver or (N, 2) for liver and tumor.
        truth: Class of each, shape (N,): 0 background, 1 liver, 2 tumor.

    Returns:
        Shape (256, 1, 2) or (256, 256, 3): level of liver, of tumor, class.
    """
    pairs = levels.shape[1] == 2
    shape = (LEVELS + 1, LEVELS + 1, 3) if pairs else (LEVELS + 1, 1, 2)
    tumor = levels[:, 1] if pairs else np.zeros_like(levels[:, 0])
    place = np.ravel_multi_index((levels[:, 0], tumor, truth), shape)
    return np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)


def fit_temperature(counts: LevelCounts) -> float:
    """Return the temperature that makes the classes most likely; 1 where nothing was counted.

    Args:
        counts: Sum of :func:`level_counts`.
    """
    from scipy.optimize import minimize_scalar  # here: segmenting a scan fits nothing, and need not import it

    filled = counts.any(axis=-1)
    logs, met = _log_probabilities(counts.shape)[filled], counts[filled].astype(np.float64)
    if not met.size:
        return 1.0
    total = met.sum()

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        return float((met.sum(-1) * np.logaddexp.reduce(scaled, axis=-1) - (met * scaled).sum(-1)).sum() / total)

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def calibrated_levels(temperature: float, classes: int) -> Levels:
    """Return what becomes of each pair of levels, as levels.

    Args:
        temperature: Above 0.
        classes: 2 or 3.

    Returns:
        Shape (256, 1, 1) for two classes, (256, 256, 2) for three: level of liver, of tumor, new levels of these. Pairs
        that add up to more than 1 do not occur; they are as if background were 0.
    """
    shape = (LEVELS + 1, 1, 2) if classes == 2 else (LEVELS + 1, LEVELS + 1, 3)
    scaled = _log_probabilities(shape) / temperature
    powers: FloatArray = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    shares = powers[..., 1:] / powers.sum(axis=-1, keepdims=True)
    levels: Levels = np.rint(LEVELS * shares).astype(np.uint8)
    return levels


def _log_probabilities(shape: tuple[int, ...]) -> FloatArray:
    """Return the logarithm of background, liver and tumor for each pair of levels; not quite adding up to 1."""
    liver, tumor = np.ogrid[: shape[0], : shape[1]]
    background = np.maximum(LEVELS - liver - tumor, 0)
    parts = np.broadcast_arrays(background, liver, tumor)[: shape[2]]
    logs: FloatArray = np.log(np.maximum(np.stack(parts, axis=-1), HIDDEN) / LEVELS)
    return logs
