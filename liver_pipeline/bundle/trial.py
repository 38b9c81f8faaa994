"""A trial of a config's components before a run is written: what needs no data is built, schedule and loss are used."""

from __future__ import annotations

import copy
import math
import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from liver_pipeline.bundle.checks import shown
from liver_pipeline.bundle.entry import meant
from liver_pipeline.bundle.expressions import expressions_in, unknown_name
from liver_pipeline.bundle.tree import components_in, references_in
from liver_pipeline.bundle.values import is_code

# What can be built from a config alone. Of the others the data set, or files of the run, are part.
TRIED = (
    "reader", "reading", "gridding", "ct_intensity", "mr_intensity", "pictures", "tumor_inferer", "liver_inferer",
    "inferer", "limits", "postprocessing", "dicom_results",
)  # fmt: skip
TRIED_IN_TRAINING = (
    "optimizer", "lr_scheduler", "loss", "train::loss", "augmentation", "train::sampling", "train::inferer",
    "validate::inferer", "validate::postprocessing", "validate::key_metric",
)  # fmt: skip
TRIAL_MOVES = 2  # of a schedule: with the first it leaves its initial rate
CLEANING_STEP = re.compile(r"postprocessing::transforms::\d+")
KNOWN_PACKAGES = ("liver_pipeline", "monai", "torch", "ignite")  # what their components need of data is in stand-ins
KNOWN_NAMES = {*KNOWN_PACKAGES, *sys.stdlib_module_names, "numpy", "np"}  # of expressions
TRIAL_SIDE = 8  # voxels of a stand-in window, or fewer


def try_components(config: Mapping[str, Any], stand_ins: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Build the components of a config; its schedule, its loss and each step of its post-processing are used once.

    What has a component of the user's own in it is built, and not used: it may need what stand-ins of data lack.

    Args:
        config: Merged; values of its keys, and what signatures say of arguments, are checked already.
        stand_ins: Objects in place of keys that need files or a device, such as ``network``.
        parts: Paths of what is tried, as far as they are there.

    Returns:
        What was built, by path.

    Raises:
        ValueError: For the first component that cannot be built or used; the message begins with the path of the
            argument that is to blame, such as ``lr_scheduler::T_max``, or of all that may be, and has their values.
    """
    parser, built = _parser(config, stand_ins), {}
    for part in parts:
        for path, component in components_in(_item(config, part), part, inner_first=True):
            try:
                built[path] = _build(parser, path)
            except Exception as error:  # whatever a component raises
                raise _refusal(config, stand_ins, path, component, first_cause(error)) from error
    return built


def has_own(config: Mapping[str, Any], paths: Collection[str]) -> bool:
    """Tell whether a component or an expression at ``paths``, or in what they refer to, is of no known package."""
    left, seen = [*paths], set(paths)
    while left:
        part = _item(config, left.pop())
        targets = (str(component["_target_"]) for _, component in components_in(part))
        if any("." in target and target.partition(".")[0] not in KNOWN_PACKAGES for target in targets):
            return True  # a name without a dot is MONAI's
        if any(unknown_name(code, KNOWN_NAMES) for _, code in expressions_in(part)):
            return True
        referred = references_in(part) - seen
        seen |= referred
        left += referred
    return False


def _item(config: Any, path: str) -> Any:
    for name in path.split("::"):
        config = config[int(name)] if isinstance(config, list) else config.get(name)
        if config is None:
            return None
    return config


def _parser(config: Mapping[str, Any], stand_ins: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser(dict(config))
    for key, value in stand_ins.items():  # afterwards: a parser copies what it begins with
        parser[key] = value
    return parser


def _build(parser: ConfigParser, path: str) -> Any:
    """Build a component; a schedule, a loss or a step of the post-processing is used, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = parser.get_parsed_content(path)
        if path == "lr_scheduler" and not has_own(parser.get(), [path, "optimizer"]):
            _move(built, parser.get_parsed_content("optimizer"))
        elif path == "train::loss" and not has_own(parser.get(), [path]):
            _score(built, *(parser.get_parsed_content(key) for key in ("num_classes", "roi_size")))
        elif CLEANING_STEP.fullmatch(path) and built is not None and not has_own(parser.get(), ["postprocessing"]):
            _clean(built)
    return built


def first_cause(error: BaseException) -> BaseException:
    """Return the error that all others of a chain were raised from."""
    return error if error.__cause__ is None else first_cause(error.__cause__)


def _move(schedule: Any, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(TRIAL_MOVES):
        optimizer.step()
        schedule.step(*([0.0] if isinstance(schedule, ReduceLROnPlateau) else []))
    rates = [group["lr"] for group in optimizer.param_groups]
    if not all(isinstance(rate, (int, float, torch.Tensor)) and math.isfinite(rate) for rate in rates):
        raise ValueError(f"the learning rate becomes {rates}")


def _score(loss: Any, num_classes: int, roi_size: list[int]) -> None:
    window = [min(TRIAL_SIDE, side) for side in roi_size]
    labels = torch.arange(2 * math.prod(window)).reshape(2, 1, *window) % num_classes
    loss(torch.zeros(2, num_classes, *window), labels)


def _clean(postprocessing: Any) -> None:
    label_map = torch.zeros(1, TRIAL_SIDE, TRIAL_SIDE, TRIAL_SIDE, dtype=torch.uint8)
    label_map[:, 2:6, 2:6, 2:6] = 1
    label_map[:, 3:5, 3:5, 3:5] = 2
    scan = MetaTensor(100.0 * (label_map > 0), affine=torch.eye(4, dtype=torch.float64))
    postprocessing({"pred": MetaTensor(label_map, affine=scan.affine), "image": scan})


def _refusal(
    config: Mapping[str, Any],
    stand_ins: Mapping[str, Any],
    path: str,
    component: Mapping[str, Any],
    fault: BaseException,
) -> ValueError:
    """Return the error that names the arguments to blame: those without which the component can be built."""
    target = component["_target_"]
    plain = [name for name, value in component.items() if not name.startswith("_") and _is_plain(value)]
    blamed = [name for name in plain if len(plain) > 1 and _builds(_without(config, path, name), stand_ins, path)]
    given = " and ".join(f"{path}::{name} is {shown(meant(component[name]))}" for name in blamed or plain)
    own_words = isinstance(fault, ValueError | AssertionError) and str(fault)  # others speak of the inside of code
    reason = f": {' '.join(str(fault).split())}" if own_words or not plain else "; --debug shows where"
    if not plain:
        return ValueError(f"{path} cannot be built or used{reason}")
    return ValueError(
        f"{given}; {target} cannot be built or used with {'it' if len(blamed or plain) == 1 else 'them'}{reason}"
    )


def _builds(config: Mapping[str, Any], stand_ins: Mapping[str, Any], path: str) -> bool:
    try:
        _build(_parser(config, stand_ins), path)
    except Exception:  # as above
        return False
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else not is_code(meant(value))


def _without(config: Mapping[str, Any], path: str, argument: str) -> Mapping[str, Any]:
    changed = copy.deepcopy(dict(config))
    del _item(changed, path)[argument]
    return changed
