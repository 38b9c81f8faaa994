"""One scan in memory or on disk, its label map back: no folder, no ledger, no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.bundle import ConfigParser

from liver_pipeline.bundle.ensembles import ensemble_of
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.causes import as_raised
from liver_pipeline.geometry.affines import Affine
from liver_pipeline.io.file_names import case_name
from liver_pipeline.io.memory import scan_in_memory
from liver_pipeline.io.paths import real_path
from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap
from liver_pipeline.prediction.case import RunningCase
from liver_pipeline.prediction.case_runner import CaseRunner


@dataclass(frozen=True)
class Segmentation:
    """A segmented scan.

    Attributes:
        label_map: uint8 (X, Y, Z) on the input's own grid: 0 background, 1 liver, 2 tumor.
        affine: Voxel index to RAS mm, float64 (4, 4).
        record: Where it comes from: what ``predict`` writes beside a mask.
        probabilities: float32 (X, Y, Z, classes without background), in steps of 1/255; None unless asked for.
        scan: The input without its voxels: what :func:`liver_pipeline.write_label_map` needs.
    """

    label_map: LabelMap
    affine: Affine
    record: dict[str, Any]
    probabilities: npt.NDArray[np.float32] | None
    scan: Scan


class Segmenter:
    """Callable on one scan after the other; the network is loaded once. Safe to call from several threads: they queue.

    Args:
        runner: What a run folder's config builds.
    """

    def __init__(self, runner: CaseRunner) -> None:
        self.runner = runner
        self._lock = Lock()
        runner.load()

    def __call__(
        self, source: Any, affine: npt.ArrayLike | None = None, *, series: str | None = None, why: str = ""
    ) -> Segmentation:
        """Segment one scan.

        Args:
            source: A path (NIfTI file, DICOM folder, zip of a series), a :class:`~liver_pipeline.io.volumes.Scan`, a
                nibabel, SimpleITK or itk image, or an array (X, Y, Z) of HU.
            affine: Of an array: voxel index to RAS mm.
            series: Of a path with several DICOM series: "thinnest", "contrast", or the UID of one.
            why: The reason for the record, where that series was chosen.

        Returns:
            The label map on the input's grid; background everywhere where nothing was found.

        Raises:
            IntakeError: With the code of what is wrong with the input.
            TypeError: If ``source`` is none of these.
        """
        case = self._case(source, affine)
        case.series, case.why = series, why
        self.runner.prepare(case)
        with self._lock:
            self.runner.infer(case)
        self.runner.clean(case)
        assert case.scan is not None and case.label_map is not None
        levels = None if case.levels is None else case.levels.astype(np.float32) / np.float32(LEVELS)
        return Segmentation(case.label_map, case.scan.affine, self.runner.record(case), levels, case.scan)

    def _case(self, source: Any, affine: npt.ArrayLike | None) -> RunningCase:
        if isinstance(source, str | Path):
            path = Path(source)
            name = real_path(path).name
            return RunningCase(case_name(name, path.is_dir()), path, name)
        scan = source if isinstance(source, Scan) else scan_in_memory(source, affine, reader=self.runner.reader)
        return RunningCase(case_name(scan.path.name), scan)


def load_segmenter(
    run: str | Path, *, device: str | None = None, probabilities: bool = False, **overrides: Any
) -> Segmenter:
    """Load a trained run, ready to segment scans in memory.

    Args:
        run: A run folder, the folder of a cross-validation (the mean of its folds), or the name of weights that come
            with the package, such as "default".
        device: "cpu", "cuda", "cuda:1"; by default the GPU where there is one.
        probabilities: Keep them in the result.
        overrides: Keys of its ``configs/inference.yaml``, such as ``tta=[0]``.

    Returns:
        The segmenter; ``load_segmenter("runs/r34")("a.nii.gz").label_map`` equals the mask that ``predict`` writes.

    Raises:
        FileNotFoundError: If there is no such run, or it has no weights.
        ValueError: If a key is unknown or a value cannot be used, such as a device that is not there, or the weights
            belong to another network.

    Examples:
        >>> segment = load_segmenter("runs/r34", device="cpu")  # doctest: +SKIP
        >>> segment("a.nii.gz").record["output"]["volume_ml"]  # doctest: +SKIP
        {'1': 1502.113, '2': 84.21}
    """
    first, others = ensemble_of(run)
    values = {**overrides, "probabilities": probabilities, **({"device": device} if device else {})}
    if others:
        values["ensemble"] = [str(other) for other in others]
    return Segmenter(load_runner(first, values))


@as_raised()
def load_runner(run_dir: Path, values: Mapping[str, Any]) -> CaseRunner:
    """Build the runner of a run folder; its weights are not loaded yet.

    Raises:
        FileNotFoundError: If there is no such run.
        ValueError: If a key is unknown.
    """
    runner = ConfigParser(load_config(run_dir, "inference", values)).get_parsed_content("case_runner")
    assert isinstance(runner, CaseRunner)
    return runner
