"""Checks of what a configuration is built of, before a run is written: its preprocessing, and its network's windows."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import nn

from liver_pipeline.bundle.arguments import check_arguments
from liver_pipeline.bundle.checks import check_values, shown
from liver_pipeline.bundle.entry import literal
from liver_pipeline.bundle.expressions import PURE, called_names, expressions_in, imported_names, unknown_name
from liver_pipeline.bundle.keys import root_of, row_of
from liver_pipeline.bundle.layers import Configs, component_class
from liver_pipeline.bundle.tree import references_in
from liver_pipeline.bundle.trial import TRIED, TRIED_IN_TRAINING, first_cause, has_own, try_components
from liver_pipeline.bundle.values import is_code
from liver_pipeline.io.limits import total_bytes
from liver_pipeline.networks.shapes import forward_heads, head_count, window_fault
from liver_pipeline.transforms.load import LoadScand
from liver_pipeline.transforms.spatial import ToModelGridd

MADE_UP_STEPS = 100  # of a schedule whose length only the cases tell


def check_build(config: Mapping[str, Any]) -> None:
    """Check a training's config: masks find back to the scan's grid, and the network suits windows and classes.

    Args:
        config: Merged.

    Raises:
        ValueError: If a component does not take its arguments, a step cannot be made of augmentation, optimizer and
            schedule, the preprocessing reads or resamples with other transforms than ours, or gives another number of
            channels than ``in_channels``; see also :func:`check_network`.
    """
    check_arguments(config)
    check_evaluated(config)
    _check_preprocessing(config)
    _check_intensities(config)
    try_parts(config, check_network(config))
    _check_augmentation(config)


def check_builds(configs: Configs) -> None:
    """Check what every workflow of a run is built of; see :func:`check_build` for the training's.

    Raises:
        ValueError: See there.
    """
    configs = copy.deepcopy(configs)  # a parser of MONAI puts in the place of each %reference what it refers to
    check_build(configs["train"])
    for workflow in sorted(configs.keys() - {"train"}):
        check_arguments(configs[workflow])
        check_evaluated(configs[workflow])
        try_parts(configs[workflow])


def try_parts(config: Mapping[str, Any], network: nn.Module | None = None, roots: Collection[str] = ()) -> None:
    """Build the components that need no data, on the CPU; see :mod:`liver_pipeline.bundle.trial`.

    Args:
        config: Merged.
        network: As built from it; without one, what trains it is left out.
        roots: Only parts of these top-level keys; empty: all.

    Raises:
        ValueError: For the first that cannot be built or used, with the arguments to blame.
    """
    parts = TRIED if network is None else (*TRIED, *TRIED_IN_TRAINING)
    stand_ins = {"device": "cpu", "grid_device": "cpu", "network": network, "schedule_length": MADE_UP_STEPS}
    named = [part for part in parts if not roots or root_of(part) in roots]
    if named:
        try_components(config, {key: stand_ins[key] for key in stand_ins if key in config}, named)


def check_network(config: Mapping[str, Any]) -> nn.Module:
    """Check that a config's network suits its windows and classes, without computing.

    Returns:
        The network, with nothing that is downloaded.

    Raises:
        ValueError: If it cannot be built or does not take windows of ``roi_size``, or it has another number of outputs
            than ``num_classes``, or than ``deep_supervision_weights``, or a batch has one voxel at its deepest.
    """
    offline = {**config, "encoder_weights": None, "encoder_weights_path": None}  # nothing is downloaded
    parser = ConfigParser(offline)
    network: nn.Module = try_components(offline, {}, ["network_def"])["network_def"]
    roi_size, channels, classes = (_parsed(parser, key) for key in ("roi_size", "in_channels", "num_classes"))
    if fault := window_fault(network, roi_size, channels, classes):
        given = f"roi_size is {shown(roi_size)} (in_channels {channels}, num_classes {classes})"
        raise ValueError(f"{given}; the network of network_def {fault}")
    _check_norms(config, network, roi_size, channels)
    weights = config.get("deep_supervision_weights")
    if isinstance(weights, list) and len(weights) != (heads := head_count(network, roi_size, channels)):
        raise ValueError(f"deep_supervision_weights is {shown(weights)}; expected {heads}, one for each output")
    return network


def _check_norms(config: Mapping[str, Any], network: nn.Module, roi_size: list[int], channels: int) -> None:
    """Refuse a training on single windows of which a batch normalization would see one voxel, and no spread."""
    if config.get("freeze") is not None or (config.get("batch_size"), config.get("crops_per_case")) != (1, 1):
        return
    try:
        forward_heads(network, torch.empty(1, channels, *roi_size, device="meta"))
    except ValueError as error:
        if "Expected more than 1 value per channel" in str(error):
            raise ValueError(
                f"roi_size is {shown(roi_size)}, batch_size is 1 and crops_per_case is 1; a batch normalization of "
                f"network_def would see a single voxel; expected a larger window, or more than one"
            ) from error
    except Exception:  # a network that cannot be looked at like this; see window_fault
        return


def _check_augmentation(config: Mapping[str, Any]) -> None:
    """Check that each step of the augmentation takes the windows that it is given; one that draws whether it acts does.

    They are of a made-up case. With a step of the user's own, or one that wants more of a case, nothing is known of it.
    """
    before = ["intensity", *(f"train::{key}" for key in ("window_centres", "sampling") if key in config["train"])]
    if has_own(config, ["reading", "gridding", "preprocessing", *before, "augmentation"]):
        return
    parser = ConfigParser(dict(config))
    parser["augment_device"] = "cpu"
    steps = config["augmentation"]
    if isinstance(steps, list):
        acting = [{**s, "prob": 1.0} if isinstance(s, Mapping) and "prob" in s else s for s in steps]
        parser["augmentation"] = acting
    shape, channels = (parser.get_parsed_content(key) for key in ("roi_size", "in_channels"))
    if (wanted := 4 * math.prod(shape) * (channels + 1)) > total_bytes():
        given = f"roi_size is {shown(shape)} (in_channels {channels})"
        raise ValueError(
            f"{given}; a window takes {wanted / 1e9:.0f} GB, more than this job has; expected a smaller one"
        )
    values = torch.linspace(-1000, 1000, math.prod(shape)).reshape(1, *shape)
    case: Any = {"image": MetaTensor(values), "label": MetaTensor((values > 0).to(torch.uint8))}
    try:
        window = Compose([step for key in before for step in parser.get_parsed_content(key)])(case)
    except Exception:  # it wants more than a made-up case has
        return
    window = window[0] if isinstance(window, list) else window
    for number, step in enumerate(_parsed(parser, "augmentation")):
        try:
            window = step(window)
        except Exception as error:
            raise ValueError(
                f"augmentation::{number} ({type(step).__name__}) does not take a window: {_words(error)}"
            ) from error


def check_start(config: Mapping[str, Any], run_dir: Path) -> None:
    """Build the network of a training's config as the training will: on its device, with the weights it starts from.

    Weights that an expression names are left out: they are of a stage, or a parent, that comes first.

    Args:
        config: Merged.
        run_dir: Of the run, or the stage.

    Raises:
        FileNotFoundError: If weights are not there.
        ValueError: If there is no such device, or weights cannot be used.
    """
    parser = ConfigParser({**config, "bundle_root": literal(str(run_dir.resolve()))})
    if is_code(config.get("initial_weights")):
        parser["initial_weights"] = None
    parser.get_parsed_content("network")


def _parsed(parser: ConfigParser, key: str) -> Any:
    """Evaluate or build a key, or say which it is that cannot be."""
    try:
        return parser.get_parsed_content(key)
    except Exception as error:  # whatever a network or an expression raises
        raise ValueError(f"{_named(key, parser.get(key))} cannot be evaluated or built: {_words(error)}") from error


def _named(key: str, value: Any) -> str:
    """Return a key for a message, with its value where that is code."""
    return f"{key} is {shown(value)}; it" if is_code(value) else key


def _words(error: BaseException) -> str:
    """Return what the first cause of an error says, in one line."""
    error = first_cause(error)
    said = error.args[0] if isinstance(error, KeyError) and error.args else error  # Python puts it in quotes
    return " ".join(str(said).split()) or type(error).__name__


def check_evaluated(config: Mapping[str, Any], roots: Collection[str] = ()) -> None:
    """Check what expressions give where a key has a value, not a component; of ``roots``, or of all keys.

    Expressions within components are evaluated where that needs plain values alone and calls nothing but :data:`PURE`;
    of the others the names are looked up.

    Raises:
        ValueError: For the first that cannot be evaluated, or gives what its key does not accept.
    """
    parser = ConfigParser(dict(config))
    keys = [key for key in config if not roots or key in roots]
    known = {key for key in config if (row := row_of(key)) and not row.kind.is_built}
    plain = [key for key in keys if key in known]
    values = {key: _parsed(parser, key) for key in plain}
    check_values(**{key: str(value) if isinstance(value, torch.device) else value for key, value in values.items()})
    names = {*parser.globals, *imported_names(config)}
    for path, code in expressions_in({key: config[key] for key in keys if key not in plain}):
        if unknown := unknown_name(code, names):
            raise ValueError(f"{path} is {shown(code)}; it knows no '{unknown}': modules come with `imports`")
        if references_in(code) <= known and called_names(code) <= PURE:
            _parsed(parser, path)


def _check_preprocessing(config: Mapping[str, Any]) -> None:
    """Refuse a preprocessing that reads or resamples without our transforms: no mask finds back from there."""
    steps = config["preprocessing"].get("transforms") if isinstance(config["preprocessing"], Mapping) else None
    if isinstance(steps, str):  # "$@reading + @gridding + @intensity"
        parts = [config.get(name) for name in re.findall(r"@(\w+)", steps)]
        steps = [step for part in parts if isinstance(part, list) for step in part]
    named = {step["_target_"]: component_class(step) for step in steps or () if isinstance(step, Mapping)}
    kinds = [kind for kind in named.values() if isinstance(kind, type)]
    for ours, part in ((LoadScand, "reading"), (ToModelGridd, "gridding")):
        if kinds and not any(issubclass(kind, ours) for kind in kinds):
            raise ValueError(
                f"the preprocessing ({', '.join(named)}) has no liver_pipeline.transforms.{ours.__name__}, so that its "
                f"masks would not find back to the scan's grid; keep it in `{part}`, and put other transforms into "
                f"ct_intensity or mr_intensity"
            )


def _check_intensities(config: Mapping[str, Any]) -> None:
    """Refuse intensities that do not give ``in_channels`` channels, or move voxels; a made-up scan shows it."""
    parser = ConfigParser(dict(config))
    chain, channels = (_parsed(parser, key) for key in ("intensity", "in_channels"))
    shape, affine = (61, 52, 43), torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    values = torch.linspace(-1000, 1000, math.prod(shape)).reshape(1, *shape)
    try:
        image = Compose(chain)({"image": MetaTensor(values, affine=affine)})["image"]
        given, after = image.shape[0], tuple(image.shape[1:])
        moved = after != shape or (isinstance(image, MetaTensor) and not torch.allclose(image.affine.cpu(), affine))
    except Exception:  # a transform of the user's own that wants more than an image
        return
    if moved:
        raise ValueError(
            f"the intensities (ct_intensity or mr_intensity) make {after} voxels of {shape}, or move them; there they "
            f"may change values alone, or masks would not find back to the scan's grid"
        )
    if given != channels:
        raise ValueError(f"in_channels is {channels}, and the intensities give {given} channels; expected the same")
