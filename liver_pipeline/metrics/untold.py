"""What the figures of a case say where its reference does not tell tumors from liver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REASON = "the reference does not tell tumors from liver"


def without_tumors(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a case, in which tumor counted as liver, with None for all that depends on tumors.

    Args:
        figures: Of :func:`liver_pipeline.metrics.cases.case_figures`.

    Returns:
        The same keys but ``lits_groups``; ``confusion`` has background and liver alone, (2, 2).
    """
    told = dict(figures)
    for region in ("tumor", "parenchyma"):
        told[region] = {**dict.fromkeys(told[region]), "reason": REASON}
    told["tumor_burden"] = dict.fromkeys(told["tumor_burden"])
    told["confusion"] = [row[:2] for row in told["confusion"][:2]]
    told["lesions"] = {**told["lesions"], "n_predicted": None, "n_reference": None}
    if "lits" in told:
        told["lits"] = {**told["lits"], "lesion_dice_per_case": None, "tumor_burden_diff": None}
    told.pop("lits_groups", None)
    if "probabilities" in told:
        told["probabilities"] = {region: one for region, one in told["probabilities"].items() if region != "tumor"}
    return told
