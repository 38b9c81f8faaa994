"""Can these values be Hounsfield units?"""

from __future__ import annotations

import numpy as np

from liver_pipeline.io.findings import Finding, error, warning


def value_findings(low: float, high: float, modality: str) -> list[Finding]:
    """Check the range of values (HU for ct, after slope and intercept)."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return [error("NON_FINITE", "voxels are nan or infinite; fill them (air is -1024 HU) or export again")]
    if low == high:
        return [error("CONSTANT", f"every voxel is {low:g}; nothing to segment")]
    if modality != "ct":
        return []
    span = f"values {low:g} to {high:g}"
    if low >= 0:
        return [error("HU_SCALE", f"{span}: no HU below 0; was the intercept (-1024) lost, or the scan rescaled?")]
    if high - low < 200:
        return [error("HU_SCALE", f"{span}: range too small for HU; was the scan normalised?")]
    if low < -33000 or high > 66000:
        return [error("HU_SCALE", f"{span}: beyond what HU can be; look at scl_slope and scl_inter")]
    if low > -200:
        return [warning("HU_SCALE", f"{span}: no air (-1000 HU); was the scan windowed or cropped?")]
    return []


def modality_findings(said: str, asked: str) -> list[Finding]:
    """Return a warning where the file says that it is of another modality than the one it is read as."""
    if said and asked in ("ct", "mr") and said.lower() != asked:
        return [warning("MODALITY", f"the file says {said}, and is read as {asked.upper()}; is this the right run?")]
    return []
