"""What a DICOM series says its planes are: those of a CT in HU, of its size, or maps and projections made of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from liver_pipeline.io.checks import THICK_MM
from liver_pipeline.io.dicom_checks import named, positions_along
from liver_pipeline.io.dicom_headers import Slice
from liver_pipeline.io.findings import Finding, error, warning

HOUNSFIELD = frozenset(("", "HU", "HUMOD", "US", "UNSPECIFIED", "HOUNSFIELD", "HOUNSFIELDUNITS"))  # of RescaleType
UNITS_OF_HU = frozenset(("", "1", "HU", "hnsf'U", "[hnsf'U]"))  # UCUM; 1 says nothing
# What ImageType calls them: PS3.3 C.8.2.1.1.1, C.8.16.1.4, and vendors' words. HU of other tissue than lies there are
# errors, HU of the same tissue by another scanner's measure warnings.
PROJECTIONS = frozenset(
    ("MIP", "MINIP", "MNIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "PROJECTION IMAGE", "VOLUME_RENDER")
)
SUBTRACTIONS = frozenset(("SUBTRACTION", "SUB"))
MAPS = frozenset(
    ("MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "QUANTITY", "DIVISION",
     "STD_DEVIATION", "IODINE", "ZEFF", "CBF", "CBV", "MTT", "TTP", "TMAX")
)  # fmt: skip
CHANGED = frozenset(("MAT_REMOVED", "MAT_MODIFIED", "VNC"))
# Words of a SeriesDescription, which are free text: warnings.
DESCRIBED = MAPS | {"MIP", "MINIP", "MNIP", "SUBTRACTION", "VNC", "VUE"}
CONE_BEAM = frozenset(("CBCT",))
ITSELF = "ORIGINAL\\PRIMARY"
NO_VOLUME = frozenset(("SAMPLED", "DISTORTED"))  # PS3.3 C.8.16.2.1.2
KEV = re.compile(r"(\d+)[ _]?KEV")
FIELD_OFF = 0.2  # by which a field of view may differ from the diameter that was reconstructed
USUAL_KEV = (55.0, 85.0)  # images of one energy between look as those of a tube at 100 to 120 kV


def kind_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Return DERIVED_IMAGE where a CT says that it is none as networks know it, and THICK_SLICE for slabs that overlap.

    Error: projections (MIP), subtractions, maps. Warning: contrast taken out, an energy far from usual, a cone beam;
    and whatever the description alone says of images that do not call themselves original.
    """
    if slices[0].modality != "CT":
        return []
    kinds = (_kind(*told) for told in dict.fromkeys(_told(one) for one in slices))
    found = [finding for finding in kinds if finding is not None][:1]
    along = positions_along(slices)
    gap = float(np.median(np.diff(np.sort(along)))) if along is not None and len(along) > 1 else np.inf
    thickness = [mm[0] for one in slices if (mm := one.numbers("SliceThickness", 1)) is not None]
    if (thick := max(thickness, default=0.0)) > THICK_MM["ct"] >= gap:
        detail = (
            f"slices are {thick:.4g} mm thick, one each {gap:.4g} mm: slabs that overlap; small lesions may be missed"
        )
        found.append(warning("THICK_SLICE", detail))
    return found


def field_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Return SPACING_RANGE where pixels of a square CT make another field of view than was reconstructed.

    What was resampled or cropped since need not say so; series that call themselves original do.
    """
    first = slices[0]
    diameter, spacing, (columns, rows) = first.numbers("ReconstructionDiameter", 1), first.pixel_spacing, first.size
    itself = first.modality == "CT" and first.text("ImageType").upper().startswith(ITSELF)
    if diameter is None or diameter[0] <= 0 or spacing is None or columns != rows or not itself:
        return []
    field = columns * float(spacing[1])
    if abs(field / diameter[0] - 1.0) <= FIELD_OFF:
        return []
    detail = f"PixelSpacing makes a field of {field:.4g} mm, ReconstructionDiameter is {diameter[0]:.4g} mm"
    return [warning("SPACING_RANGE", f"{detail}; which is right? Volumes depend on it")]


def is_derived(slices: Sequence[Slice]) -> bool:
    """Tell whether a CT is a projection, subtraction, map or the like, or its values no HU, by its first plane."""
    first = slices[0]
    return first.modality == "CT" and (_kind(*_told(first)) is not None or bool(rescale_findings([first])))


def rescale_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Return why the values of a CT need not be HU: RESCALE_MISSING, or HU_SCALE where they are another quantity."""
    if slices[0].modality != "CT":
        return []
    said_by: tuple[tuple[str, Callable[[str], str], frozenset[str]], ...] = (
        ("RescaleType", lambda said: re.sub("[^A-Z0-9/]", "", said.upper()), HOUNSFIELD),
        ("MeasurementUnits", str, UNITS_OF_HU),
    )
    for tag, plain, of_hu in said_by:
        if other := [one for one in slices if plain(one.text(tag)) not in of_hu]:
            kinds = ", ".join(sorted({one.text(tag) for one in other}))
            detail = f"{tag} is {kinds} in {len(other)} of {len(slices)} slices ({named(other, 3)}), not HU"
            return [error("HU_SCALE", f"{detail}; give the CT itself, not a map made of it")]
    if slices[0].rescale is not None:
        return []
    detail = f"no slice has RescaleSlope and RescaleIntercept ({named(slices, 3)}): stored values need not be HU"
    return [error("RESCALE_MISSING", f"{detail}; export the series again")]


def _told(one: Slice) -> tuple[str, str, str, float]:
    """Return what a plane says of its kind, and of its energy in keV (0: nothing); planes of a series say the same."""
    kind, description, volumetric = (
        one.text(tag).upper() for tag in ("ImageType", "SeriesDescription", "VolumetricProperties")
    )
    energy, described = one.numbers("MonoenergeticEnergyEquivalent", 1), KEV.search(description)
    return kind, description, volumetric, float(energy[0] if energy is not None else described[1] if described else 0)


def _kind(image_type: str, description: str, volumetric: str, kev: float) -> Finding | None:
    coded, free = {*image_type.split("\\"), *_words(image_type)}, _words(description)
    for names, what in ((PROJECTIONS, "a projection"), (SUBTRACTIONS, "a subtraction"), (MAPS, "a map")):
        if said := sorted(coded & names):
            return error("DERIVED_IMAGE", f"ImageType says {said[0]}: {what} made of a CT; give the CT itself")
    if volumetric in NO_VOLUME:
        return error(
            "DERIVED_IMAGE", f"VolumetricProperties is {volumetric}: a projection, or bent; give the CT itself"
        )
    doubts = [
        (sorted(coded & CHANGED), "ImageType says {}: contrast was taken out by computation; give the CT itself"),
        (
            [f"{kev:g} keV"] if kev and not USUAL_KEV[0] <= kev <= USUAL_KEV[1] else [],
            "{}: HU are others than those of a tube; give the CT itself",
        ),
        (
            [] if image_type.startswith(ITSELF) else sorted(free & DESCRIBED),
            "SeriesDescription says {}: was it made of a CT? Give the CT itself",
        ),
        (sorted((free | coded) & CONE_BEAM), "{}: the values of a cone beam CT are no exact HU"),
    ]
    return next((warning("DERIVED_IMAGE", text.format(said[0])) for said, text in doubts if said), None)


def _words(text: str) -> set[str]:
    return set(re.split(r"[^A-Z0-9]+", text))
