"""What can be wrong with the values of a scan, and a table of what is told: ``python -m tests.damage FOLDER_OF_SCANS``.

Changes take HU (X, Y, Z) with slices along Z and return as many, or fewer, slices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.io.findings import Finding, Severity
from liver_pipeline.io.hu import value_findings
from liver_pipeline.io.noise import noise_findings
from liver_pipeline.io.screen import say
from liver_pipeline.io.slices import slice_findings
from liver_pipeline.io.volumes import read_scan

Change = Callable[[Any], Any]
InSlice = Callable[[Any, Any, int], Any]  # the slice, the whole, the number of the slice

REAL = {
    "ircadb": "3dircadb1_01/PATIENT_DICOM.zip",
    "tcia": "tcia_pancreas_ct_cb_001/dicom.zip",
    "totalsegmentator dicom": "totalsegmentator_examples/example_ct_dicom",
    "totalsegmentator": "totalsegmentator_examples/example_ct.nii.gz",
    "totalsegmentator slab": "totalsegmentator_examples/example_ct_sm.nii.gz",
    "dcmqi": "dcmqi_liver_3slice/ct-3slice",
    "gstt": "gstt_msd_liver14_3slices/ct-test-data.nii.gz",
}
LENIENT = ("FEW_SLICES", "THICK_SLICE")


def crops(
    volume: npt.NDArray[Any], rng: np.random.Generator, *, least: int, count: int = 25
) -> Iterator[tuple[npt.NDArray[Any], tuple[slice, ...]]]:
    """Yield crops of a quarter to three fifths of a volume along each axis, of at least so many voxels, and where."""
    for _ in range(count):
        size = [max(least, int(n * rng.uniform(0.25, 0.6))) for n in volume.shape]
        start = [rng.integers(0, n - s + 1) for n, s in zip(volume.shape, size, strict=True)]
        where = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        yield volume[where], where


def stored(hu: Any) -> Any:
    """Return what a scanner stores with an intercept of -1024."""
    return np.maximum(hu, -1024) + 1024


def window(hu: Any, low: float = -160, high: float = 240) -> Any:
    """Return HU as 0 to 1."""
    return (np.clip(hu, low, high) - low) / (high - low)


def below(top: float) -> Change:
    """Return a change that clips what is above."""
    return lambda hu: np.minimum(hu, top)


def times(factor: float, about: float = 0.0, above: float = -np.inf) -> Change:
    """Return a change that scales HU about one of them, where they are higher than ``above``."""
    return lambda hu: np.where(hu > above, factor * (hu - about) + about, hu)


def read_as(hu: Any, kind: str, swap: bool = False) -> Any:
    """Return HU, as 16 bits, read as another type."""
    bits = np.rint(hu).astype(np.int64).astype(np.int16)
    return (bits.byteswap() if swap else bits).view(kind).astype(np.float64)


def salted(hu: Any, low: float, high: float, share: float = 0.01) -> Any:
    """Return HU with a share of voxels at either of two values."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(hu.shape) < share, rng.choice([low, high], hu.shape), hu)


WHOLE: dict[str, Change] = {
    "as it is": lambda hu: hu,
    **{f"clipped at {top}": below(top) for top in (1000, 2000, 3071)},
}
SPOILT: dict[str, Change] = {
    **{f"top clipped at {top}": below(top) for top in (-50, 0, 60, 100, 200, 300, 400)},
    **{f"body x {k}, air in place": times(k, above=-500) for k in (2, 3)},
    "negated and shifted": lambda hu: -hu - 1000,
    **{f"x {k} about -1000": times(k, about=-1000) for k in (0.5, 1.5, 2, 3)},
    **{f"x {k}": times(k) for k in (0.001, 0.5, 1.5, 2, 3)},
    "window to [0, 1]": window,
    "window to [-1, 1]": lambda hu: 2 * window(hu) - 1,
    "window to [0, 255]": lambda hu: np.rint(255 * window(hu)),
    "[-1000, 1000] to [-1, 1]": lambda hu: 2 * window(hu, -1000, 1000) - 1,
    "z-score": lambda hu: (hu - hu.mean()) / hu.std(),
    "noise, uniform": lambda hu: np.random.default_rng(0).uniform(-1000, 400, hu.shape),
    "noise, about 0": lambda hu: np.random.default_rng(0).normal(0, 100, hu.shape),
    "noise, about -1000": lambda hu: np.random.default_rng(0).normal(-1000, 100, hu.shape),
    "voxels in disorder": lambda hu: np.random.default_rng(0).permutation(hu.ravel()).reshape(hu.shape),
    "salt of 1 %, 12 bits": lambda hu: salted(hu, -1024, 3071),
    "salt of 0.1 %, 12 bits": lambda hu: salted(hu, -1024, 3071, share=0.001),
    "salt of 1 %, 16 bits": lambda hu: salted(hu, -32768, 32767),
    "above 32767 wrapped": lambda hu: read_as(40 * hu, "int16"),
    "16 x and wrapped": lambda hu: read_as(16 * stored(hu), "int16"),
    "modulo 4096": lambda hu: np.mod(hu, 4096),
    "modulo 1024": lambda hu: np.mod(hu + 1024, 1024) - 1024,
    "read as unsigned": lambda hu: read_as(hu, "uint16"),
    "read as unsigned, intercept -1024": lambda hu: read_as(hu, "uint16") - 1024,
    "bytes swapped": lambda hu: read_as(hu, "int16", swap=True),
    "bytes swapped, unsigned": lambda hu: read_as(stored(hu), "uint16", swap=True) - 1024,
}


def in_slices(change: InSlice, slices: Callable[[int], Iterable[int]]) -> Change:
    """Return a change of some slices."""

    def changed(hu: Any) -> Any:
        result = hu.copy(order="F")
        for k in slices(hu.shape[2]):
            result[:, :, k] = change(hu[:, :, k], hu, k)
        return result

    return changed


def one(depth: int) -> Iterable[int]:
    """Return the middle slice."""
    return [depth // 2]


def five(depth: int) -> Iterable[int]:
    """Return five slices from the middle on."""
    return range(depth // 2, depth // 2 + 5)


def apart(depth: int) -> Iterable[int]:
    """Return three slices far from each other."""
    return [depth // 4, depth // 2, 3 * depth // 4]


def rest(depth: int) -> Iterable[int]:
    """Return the upper half."""
    return range(depth // 2, depth)


def nearly(value: float) -> InSlice:
    """Return a change that sets a slice to ``value`` and noise of 1 HU."""
    return lambda plane, hu, k: value + np.random.default_rng(k).integers(-1, 2, plane.shape)


def linear(slope: float, offset: float = 0.0) -> InSlice:
    """Return a change that rescales a slice."""
    return lambda plane, hu, k: slope * plane + offset


def flipped(axis: int) -> InSlice:
    """Return a change that turns a slice over."""
    return lambda plane, hu, k: np.flip(plane, axis)


def half_lost(value: float) -> InSlice:
    """Return a change that sets the half of a slice to ``value``."""
    return lambda plane, hu, k: np.where(np.arange(plane.shape[1]) >= plane.shape[1] // 2, value, plane)


def plane(axis: int, value: float, width: int) -> Change:
    """Return a change that sets planes across X or Y to ``value``."""

    def changed(hu: Any) -> Any:
        result = hu.copy(order="F")
        np.moveaxis(result, axis, 0)[hu.shape[axis] // 2 :][:width] = value
        return result

    return changed


def two_phases(organ: float, vessel: float) -> Change:
    """Return a change that makes organs and vessels of even slices brighter."""

    def changed(hu: Any) -> Any:
        result = hu.copy(order="F")
        even = hu[:, :, ::2]
        result[:, :, ::2] = even + np.where((even > 30) & (even < 140), organ, 0) + (even >= 140) * vessel
        return result

    return changed


SLICES: dict[str, Change] = {
    **{
        f"{name} slices of {value} and noise of 1 HU": in_slices(nearly(value), which)
        for value in (-1000, 0, 40)
        for name, which in (("1", one), ("5", five), ("3 apart,", apart))
    },
    **{
        f"half of {name} slices lost: {value}": in_slices(half_lost(value), which)
        for value in (-1024, 0)
        for name, which in (("1", one), ("5", five), ("all later", rest))
    },
    **{
        f"{name} slices flipped {how}": in_slices(flipped(axis), which)
        for axis, how in enumerate(("left-right", "upside down"))
        for name, which in (("1", one), ("5", five), ("all later", rest))
    },
    "1 slice doubled": in_slices(lambda s, hu, k: hu[:, :, k - 1], one),
    "3 slices doubled": in_slices(lambda s, hu, k: hu[:, :, k - 1], apart),
    "every other slice doubled": lambda hu: np.repeat(hu[:, :, ::2], 2, axis=2),
    **{f"1 slice x {f}": in_slices(linear(f), one) for f in (0.5, 0.8, 0.9, 1.1, 1.5, 2)},
    **{f"5 slices x {f}": in_slices(linear(f), five) for f in (0.5, 2)},
    **{f"1 slice {v:+d} HU": in_slices(linear(1.0, v), one) for v in (-200, 50, 100, 200)},
    **{f"5 slices {v:+d} HU": in_slices(linear(1.0, v), five) for v in (-200, 50, 100, 200)},
    **{
        f"{width} planes across {'XY'[axis]} lost: {value}": plane(axis, value, width)
        for axis in (0, 1)
        for value in (-1024, 0)
        for width in (1, 4)
    },
}
PHASES: dict[str, Change] = {
    "two phases, organs +40 and vessels +200": two_phases(40, 200),
    "two phases, organs and vessels +40": two_phases(40, 40),
    "two phases, organs +20 and vessels +100": two_phases(20, 100),
}


def on_values(hu: Any) -> list[Finding]:
    """Return what is told of HU as a whole."""
    array = np.asfortranarray(hu, dtype=np.float32)
    found = value_findings(array, 1.0, 0.0, "ct")
    return found + noise_findings(array, 1.0, in_hu=all(f.severity is not Severity.ERROR for f in found))


def on_slices(hu: Any, *, in_hu: bool = True) -> list[Finding]:
    """Return what is told of slices along Z."""
    return slice_findings(np.asfortranarray(hu, dtype=np.float32), 1.0, 0.0, 2, in_hu=in_hu)


def of_another(hu: Any, other: Any, slices: Callable[[int], Iterable[int]]) -> Any:
    """Return ``hu`` with slices of ``other``, cut or padded to its size."""
    result = hu.copy(order="F")
    x, y = (min(n, m) for n, m in zip(hu.shape[:2], other.shape[:2], strict=True))
    for k in slices(hu.shape[2]):
        result[:, :, k] = -1000
        result[:x, :y, k] = other[:x, :y, k * other.shape[2] // hu.shape[2]]
    return result


def _told(found: list[Finding]) -> str:
    return "".join(sorted({f.severity[0] for f in found})) or "-"


def thinned(hu: Any) -> Any:
    """Return about 128 x 128 voxels of each slice."""
    step = max(1, len(hu) // 128)
    return hu[::step, ::step]


def _table(folder: Path) -> None:
    scans = [read_scan(folder / path, accept=LENIENT) for path in REAL.values()]
    volumes = [thinned(scan.array.astype(np.float64) * scan.slope + scan.intercept) for scan in scans]
    mr = read_scan(folder / "totalsegmentator_examples" / "example_mr_sm.nii.gz", modality="mr").array.astype(float)
    say(f"e error, w warning, - nothing: {', '.join([*REAL, 'MR as MR'])}")
    for name, change in (WHOLE | SPOILT).items():
        say(f"{name:44}" + "".join(f"{_told(on_values(change(hu))):4}" for hu in volumes))
    for name, change in (WHOLE | SLICES | PHASES).items():
        told = "".join(f"{_told(on_slices(change(hu))) if hu.shape[2] >= 8 else '':4}" for hu in volumes)
        say(f"{name:44}{told}{_told(on_slices(change(mr), in_hu=False))}")


if __name__ == "__main__":
    _table(Path(sys.argv[1]))
