"""The Medical Segmentation Decathlon's layout, and nnU-Net's, which grew out of it: dataset.json says what there is."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from liver_pipeline.data.cases import Case
from liver_pipeline.data.layouts import case_of, cases_below, refuse_doubles, require_labels
from liver_pipeline.io.file_names import case_name
from liver_pipeline.io.label_names import named_classes
from liver_pipeline.io.tables import read_json
from liver_pipeline.labels import LabelValues, label_value

CHANNEL = "_0000"  # behind the case in nnU-Net's image files


def msd_cases(dataset_dir: str | Path, label_map: LabelValues | None = None) -> list[Case]:
    """Cases of a folder with ``dataset.json``, ``imagesTr/`` and ``labelsTr/``.

    The Decathlon's (and nnU-Net v1's) file lists the pairs under ``training``; nnU-Net v2's lists them under
    ``dataset`` or not at all: then each file of ``labelsTr`` is a case, whose image ends in ``_0000``. A case is named
    by its path below ``imagesTr`` (or ``labelsTr``), without suffix.

    Args:
        dataset_dir: That folder.
        label_map: As for :func:`~liver_pipeline.data.layouts.lits_cases`. Without it the names under ``labels`` decide,
            where they are clearly liver and tumor.

    Raises:
        FileNotFoundError: If ``dataset.json`` or a file that it names is missing.
        ValueError: If ``dataset.json`` is not as described, two of its entries are one case, or it names values of
            something else and there is no ``label_map``.
    """
    root = Path(dataset_dir)
    index = root / "dataset.json"
    if not index.is_file():
        raise FileNotFoundError(f"no dataset.json in {root.resolve()}; dataset_dir is the folder that holds imagesTr")
    content = read_json(index)
    if not isinstance(content, Mapping):
        raise ValueError(f"{index} holds a {type(content).__name__}; expected an object with the key 'training'")
    if "training" in content:
        found = _listed(root, index, content["training"])
    elif "channel_names" in content or "file_ending" in content:
        found = _of_nnunet(root, index, content)
    else:
        known = ", ".join(map(str, content)) or "none"
        raise ValueError(
            f"{index} has no key 'training' (MSD) nor 'channel_names' (nnU-Net v2); its keys are {known}; is "
            f"dataset_dir the folder of the data set?"
        )
    found = [(name, _on_disk(image), _on_disk(label)) for name, image, label in found]
    refuse_doubles([name for name, _, _ in found], [str(image) for _, image, _ in found], index)
    refuse_used_twice([label for _, _, label in found], index)
    missing = [path for _, *paths in found for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{index} names {len(missing)} files that do not exist, such as {missing[0]}")
    label_map = label_map if label_map is not None else _named_values(index, content.get("labels"))
    return sorted((case_of(*one, label_map=label_map) for one in found), key=lambda case: case["case"])


def _named_values(index: Path, labels: Any) -> LabelValues | None:
    """Return what values mean by their names, as MSD (value to name) or nnU-Net v2 (name to value) writes them."""
    pairs = labels.items() if isinstance(labels, Mapping) else ()
    names = [(value, key) if isinstance(value, int) else (label_value(key), value) for key, value in pairs]
    try:
        classes = named_classes((value, name) for value, name in names if isinstance(name, str) and value > 0)
    except ValueError as reason:
        raise ValueError(f"{index}: {reason}") from reason
    return classes if any(value != label for value, label in classes.items()) else None


def refuse_used_twice(label_maps: Sequence[Path], where: Path) -> None:
    """Refuse a label map that two scans have: of one of them it is not.

    Raises:
        ValueError: Naming the label map.
    """
    often = [path for path, count in Counter(label_maps).items() if count > 1]
    if often:
        raise ValueError(f"{where} names the label map {often[0]} for two scans; a scan has one of its own")


def _listed(root: Path, index: Path, items: Any) -> list[tuple[str, Path, Path]]:
    if not isinstance(items, list) or not items:
        raise ValueError(f"{index}: 'training' is {_shown(items)}; expected a list of objects with 'image' and 'label'")
    found = []
    for number, item in enumerate(items):
        paths = [item.get(key) if isinstance(item, Mapping) else None for key in ("image", "label")]
        for key, path in zip(("image", "label"), paths, strict=True):
            if not isinstance(path, str) or not PurePosixPath(path.strip()).name:
                raise ValueError(f"{index}: training[{number}] is {_shown(item)}; expected a path under '{key}'")
        image, label = (PurePosixPath(str(path).strip()) for path in paths)
        inside = image.parts[1:] if image.parts[0] == "imagesTr" else image.parts
        found.append((case_name("/".join(inside)), root / image, root / label))
    return found


def _of_nnunet(root: Path, index: Path, content: Mapping[str, Any]) -> list[tuple[str, Path, Path]]:
    channels = content.get("channel_names", {"0": "CT"})
    if not isinstance(channels, Mapping) or len(channels) != 1:
        raise ValueError(f"{index}: 'channel_names' is {_shown(channels)}; a case of one channel is what can be read")
    if "dataset" in content:
        return _named(root, index, content["dataset"])
    label_maps, images = (cases_below(root / folder) for folder in ("labelsTr", "imagesTr"))
    if not label_maps:
        raise FileNotFoundError(f"no .nii or .nii.gz in {(root / 'labelsTr').resolve()}")
    without = [name for name in label_maps if f"{name}{CHANNEL}" not in images]
    if without:
        raise FileNotFoundError(
            f"{len(without)} label maps have no image in {root / 'imagesTr'}, such as {without[0]}{CHANNEL}.nii.gz"
        )
    known = {name.removesuffix(CHANNEL) for name in images}
    require_labels(sorted(known - label_maps.keys()), f"a file in {root / 'labelsTr'}")
    return [(name, images[f"{name}{CHANNEL}"], label) for name, label in label_maps.items()]


def _named(root: Path, index: Path, entries: Any) -> list[tuple[str, Path, Path]]:
    if not isinstance(entries, Mapping) or not entries:
        raise ValueError(f"{index}: 'dataset' is {_shown(entries)}; expected cases with 'images' and 'label'")
    found = []
    for name, entry in entries.items():
        images, label = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("images", "label"))
        if not (isinstance(images, list) and len(images) == 1 and all(isinstance(p, str) for p in (*images, label))):
            raise ValueError(
                f"{index}: dataset[{name}] is {_shown(entry)}; expected one path in 'images', one as 'label'"
            )
        found.append((case_name(name), root / images[0], root / str(label)))
    return found


def _on_disk(path: Path) -> Path:
    """Return a path in the form of accents in which it exists, if it does in one."""
    forms = [Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")]
    return next((one for one in (path, *forms) if one.is_file()), path)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
