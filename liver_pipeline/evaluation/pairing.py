"""Match predictions and references by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.hints import did_you_mean
from liver_pipeline.io.discovery import volume_files
from liver_pipeline.io.file_names import PICTURE_MASK, PROBABILITIES, case_name, lits_case_name
from liver_pipeline.io.tables import clean_name
from liver_pipeline.labels import LabelValues


@dataclass(frozen=True)
class Pair:
    """One case: its name, the two files, those of probabilities and of the scan if they are there, and, where values of
    the reference are not 0, 1, 2, what they mean.
    """

    case: str
    pred: Path
    label: Path
    probability: Path | None = None
    image: Path | None = None
    label_map: LabelValues | None = None


@dataclass(frozen=True)
class Failure:
    """Why a case has no figures: a code and one line."""

    code: str
    detail: str


class CaseError(ValueError):
    """A case that cannot be scored; ``code`` says why."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


def find_pairs(
    pred_dir: Path,
    label_dir: Path,
    cases: Collection[str] | None = None,
    *,
    probability_dir: Path | None = None,
    image_dir: Path | None = None,
    label_map: LabelValues | None = None,
) -> tuple[list[Pair], dict[str, Failure]]:
    """Match predictions and references by name.

    Where a folder of references also holds the LiTS volumes, the segmentations are taken. Hidden files are left out.

    Args:
        pred_dir: Folder of predictions; sub-folders are part of the case's name, as are those of ``label_dir``.
        label_dir: Folder of references.
        cases: Names to keep; None keeps all that either folder has.
        probability_dir: Folder of probabilities, ``<case>.probabilities.nii.gz`` or, where there are none of these,
            of the same names; a case without any is scored without.
        image_dir: Folder of scans of the same names, for pictures; likewise.
        label_map: What the values of the references mean; None: 0 background, 1 liver, 2 tumor.

    Returns:
        Pairs by name, and by case why there is none: NO_PREDICTION, NO_REFERENCE, or DUPLICATE_NAME where two files of
        one folder claim it.

    Raises:
        FileNotFoundError: If a folder is missing or holds no label map.
        ValueError: If the folders are one, or have no name in common, or neither has one of ``cases``.
    """
    preds, labels = _by_case(pred_dir), _by_case(label_dir)
    if pred_dir.samefile(label_dir):
        raise ValueError(
            f"{pred_dir} is named for predictions and references alike: each would be scored against itself"
        )
    if cases is not None:
        wanted, there = {clean_name(case) for case in cases}, preds.keys() | labels.keys()
        preds = {case: files for case, files in preds.items() if case in wanted}
        labels = {case: files for case, files in labels.items() if case in wanted}
        if unknown := sorted(wanted - set(preds) - set(labels)):
            hint = did_you_mean(unknown[0], there)
            raise ValueError(f"no file for cases {_listed(unknown)} in {pred_dir} and {label_dir}{hint}")
    if not preds.keys() & labels.keys():
        raise ValueError(
            f"no prediction has a reference: {pred_dir} has {_listed(sorted(preds), 3)}, {label_dir} has "
            f"{_listed(sorted(labels), 3)}; files are matched by name, with the folder that they lie in"
        )
    failures = _unpaired(preds, labels, pred_dir, label_dir)
    probabilities = {} if probability_dir is None else _probabilities(probability_dir)
    images = {} if image_dir is None else _by_case(image_dir, volumes=True)
    pairs = []
    for case in sorted(preds.keys() & labels.keys() - failures.keys()):
        probability, image = _first(probabilities.get(case)), _first(images.get(case))
        pairs.append(Pair(case, preds[case][0], labels[case][0], probability, image, label_map))
    return pairs, failures


def _unpaired(
    preds: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]], pred_dir: Path, label_dir: Path
) -> dict[str, Failure]:
    failures = {}
    for case in sorted(preds.keys() | labels.keys()):
        both = [files for files in (preds.get(case, ()), labels.get(case, ())) if len(files) > 1]
        if both:
            names = " and ".join(str(file) for file in both[0])
            failures[case] = Failure("DUPLICATE_NAME", f"{names} are both case {case}; keep one")
        elif case not in preds:
            failures[case] = Failure("NO_PREDICTION", f"{labels[case][0]} has no mask in {pred_dir}; was it segmented?")
        elif case not in labels:
            failures[case] = Failure("NO_REFERENCE", f"{preds[case][0]} has no label map in {label_dir}")
    return failures


def _first(paths: Sequence[Path] | None) -> Path | None:
    return paths[0] if paths else None


def _listed(names: Sequence[str], most: int = 20) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _probabilities(folder: Path) -> dict[str, list[Path]]:
    """Files of probabilities by case name: those named so, else any label map's name counts."""
    named = {
        f"{path.relative_to(folder).as_posix().removesuffix(PROBABILITIES)}.nii.gz": path
        for path in sorted(folder.rglob(f"*{PROBABILITIES}"))
    }
    if not named:
        return _by_case(folder)
    return {_name_below(Path(name)): [path] for name, path in named.items()}


def _name_below(path: Path) -> str:
    """Name of a case with the folder that it lies in, relative to the searched one."""
    inside = clean_name(path.parent.as_posix())
    name = lits_case_name(case_name(path.name))
    return name if inside == "." else f"{inside}/{name}"


def _by_case(folder: Path, *, volumes: bool = False) -> dict[str, list[Path]]:
    """Label maps below a folder by case name; the folder inside it is part of the name.

    Of a LiTS volume and segmentation side by side the segmentation counts, or with ``volumes`` the volume.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name a folder of label maps")
    files = [path for path in volume_files(folder) if not path.name.endswith(PROBABILITIES)]
    if not files:
        drawn = "; pictures have no millimetres and are not scored" if any(folder.rglob(f"*{PICTURE_MASK}")) else ""
        raise FileNotFoundError(
            f"no .nii.gz, .nrrd or the like in {folder.resolve()}{drawn}; name a folder of label maps"
        )
    by_case: dict[str, list[Path]] = {}
    for path in files:
        by_case.setdefault(_name_below(path.relative_to(folder)), []).append(path)
    return {case: _of_one_kind(paths, "volume-" if volumes else "segmentation-") for case, paths in by_case.items()}


def _of_one_kind(paths: list[Path], kind: str) -> list[Path]:
    """Where LiTS volumes lie beside their segmentations, only the files whose name holds ``kind``."""
    chosen = [path for path in paths if kind in path.name]
    both = all(any(name in path.name for path in paths) for name in ("volume-", "segmentation-"))
    return chosen if both else paths
