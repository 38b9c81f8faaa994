"""Config layers of a cascade: two stages, each an ordinary bundle, and an inference config that holds both.

``configs/network/cascade.yaml`` names a network file for each stage. The tumor stage is the run folder itself, the
liver stage the folder ``liver`` in it. A key ``liver_<key>`` is the liver stage's ``<key>``. Of the others, those with
``Role.STAGE`` are the tumor stage's alone; the rest go for both stages, unless ``liver_<key>`` is given as well. In a
run that is composed already they go for both as long as both have the same value.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.bundle.checks import check_references, check_values, checking
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.keys import keys_with, root_of
from liver_pipeline.bundle.layers import (
    Configs,
    Source,
    apply_overrides,
    apply_to_all,
    choose_layers,
    knows,
    merge_into,
    merge_layers,
    merge_workflows,
    refuse_key,
    set_keys,
)
from liver_pipeline.bundle.names import layer_file, share_dir
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.tree import references_in, with_prefix
from liver_pipeline.bundle.uses import refuse_idle

LIVER_STAGE, PREFIX = "liver", "liver_"


def merge_stages(
    layers: Mapping[str, str], *, experiment: str | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Configs]:
    """Merge the layers of a run, which has one stage, or two if its network is a cascade.

    Args:
        layers: See :func:`liver_pipeline.bundle.layers.merge_layers`.
        experiment: See there.
        overrides: See there; of a cascade they may begin with ``liver_``.

    Returns:
        Configs by workflow, by the stage's folder in the run: "" and, for a cascade, "liver".

    Raises:
        ValueError: See there; also if a cascade names other stages than liver and tumor, or a cascade as a stage.
    """
    files, sources = choose_layers(layers, experiment, overrides)
    cascade = read_config(files["network"])
    if "stages" not in cascade:
        return {"": merge_layers(layers, experiment=experiment, overrides=overrides)}
    networks, sources = _stage_networks(cascade.pop("stages"), files["network"], sources)
    of_liver = {kind.removeprefix(PREFIX): path for kind, path in files.items() if kind.startswith(PREFIX)}
    stages = {
        "": merge_workflows({**files, "network": networks["tumor"]}),
        LIVER_STAGE: merge_workflows({**files, **of_liver, "network": networks[LIVER_STAGE]}),
    }
    _overlay_cascade(stages[""], {key: value for key, value in cascade.items() if not key.startswith(PREFIX)})
    defaults = {key.removeprefix(PREFIX): cascade[key] for key in cascade if key.startswith(PREFIX)}
    apply_to_all(stages[LIVER_STAGE], defaults)
    set_stage_keys(stages, sources)
    return stages


def _stage_networks(stages: Any, file: Path, sources: Sequence[Source]) -> tuple[dict[str, Path], list[Source]]:
    """Return the network file of each stage, and the sources without what they say of it."""
    config = {"stages": stages}
    remaining: list[Source] = []
    for source, pairs in sources:
        of_stages = {key: pairs[key] for key in pairs if root_of(key) == "stages"}
        for key in set(of_stages) - apply_overrides(config, of_stages):
            refuse_key(key, source, config)
        remaining.append((source, {key: pairs[key] for key in pairs if key not in of_stages}))
    named = config["stages"]
    if not isinstance(named, Mapping) or set(named) != {LIVER_STAGE, "tumor"}:
        raise ValueError(f"{file}: stages is {named}; a cascade has a network each for the stages liver and tumor")
    files = {str(stage): layer_file("network", name) for stage, name in named.items()}
    for stage, path in files.items():
        if "stages" in read_config(path):
            raise ValueError(f"{path} is a cascade; the {stage} stage needs a single network")
    return files, remaining


def _overlay_cascade(tumor: Configs, settings: Mapping[str, Any]) -> None:
    """Make the tumor stage's configs those of the second stage, in place."""
    folder = share_dir("configs") / "cascade"
    for workflow, config in tumor.items():
        if workflow != "train":
            config.update({f"tumor_{key}": config[key] for key in ("preprocessing", "inferer")})
        overlay = read_config(folder / ("train.yaml" if workflow == "train" else "inference.yaml"))
        merge_into(config, [("network cascade", settings), ("cascade", overlay)])
        config["checked"] = checking(config)


def differing_keys(stages: Mapping[str, Configs]) -> set[str]:
    """Return the keys that the stages of a composed run have with different values."""
    return {
        key
        for workflow, config in stages[""].items()
        for key, value in stages.get(LIVER_STAGE, {}).get(workflow, {}).items()
        if key in config and config[key] != value
    }


def set_stage_keys(stages: Mapping[str, Configs], sources: Sequence[Source], own: Collection[str] = ()) -> None:
    """Set keys in all stages that they go for, in place, and check all values; see the module's description.

    Args:
        stages: Configs by workflow, by stage.
        sources: What is set, the last one winning.
        own: Further keys that, without ``liver_``, are the tumor stage's alone.

    Raises:
        ValueError: If no stage knows a key, or a value is not accepted.
    """
    if LIVER_STAGE not in stages:
        set_keys(stages[""], sources)
        return
    tumor, liver = stages[""], stages[LIVER_STAGE]
    renamed = {PREFIX + key for config in liver.values() for key in config}
    alone = {*own, *keys_with(Role.STAGE)}
    used = []
    for _, pairs in sources:
        rest = {key: pairs[key] for key in pairs if root_of(key) not in renamed}
        shared = {key: rest[key] for key in rest if root_of(key) not in alone}
        used.append(apply_to_all(tumor, rest) | apply_to_all(liver, shared))
    for (source, pairs), known in zip(sources, used, strict=True):  # last: liver_<key> wins over <key>, wherever set
        for key in sorted(set(pairs) - known):
            of_liver = {key.replace(PREFIX, "", 1): pairs[key]} if root_of(key) in renamed else {}
            if not apply_to_all(liver, of_liver):
                refuse_key(key, source, {*renamed, *(name for config in tumor.values() for name in config)})
    for workflow in ("inference", "evaluate"):
        embed(liver["inference"], tumor[workflow])
    for config in (*liver.values(), *tumor.values()):
        check_values(**config)
    for configs in stages.values():
        check_references(*configs.values())
    refuse_idle(*sources[-1], [*tumor.values(), *liver.values()])


def refuse_unused(stages: Mapping[str, Configs], pairs: Mapping[str, Any], workflows: Sequence[str]) -> None:
    """Refuse keys that none of some workflows use, in any stage: setting them there would be without effect.

    Raises:
        ValueError: For the first; the message says which workflows use it.
    """
    for key in pairs:
        used = root_of(key) == "stages" or any(
            knows(configs[workflow], key.removeprefix(PREFIX) if folder and key.startswith(PREFIX) else key)
            for folder, configs in stages.items()
            for workflow in workflows
        )
        if not used:
            refuse_key(key, "key=value", (), place=" and ".join(workflows))
    refuse_idle("key=value", pairs, [configs[workflow] for configs in stages.values() for workflow in workflows])


def embed(liver: Mapping[str, Any], target: dict[str, Any]) -> None:
    """Write what inference needs of the liver stage into the cascade's config, in place: a bundle opens one file.

    Keys get the prefix ``liver_``, and references to them follow. What is the same for both stages, and depends on
    nothing that is not, stays a single key.

    Args:
        liver: The liver stage's inference config.
        target: The cascade's; what an earlier call wrote there is replaced.
    """
    for key in [key for key in target if key.startswith(PREFIX) and key.removeprefix(PREFIX) in liver]:
        if key != f"{PREFIX}ckpt_path":
            del target[key]
    reached: dict[str, set[str]] = {}
    waiting = sorted(keys_with(Role.EMBEDDED))
    while waiting:
        key = waiting.pop()
        if key in liver and key not in reached:
            reached[key] = references_in(liver[key])
            waiting += reached[key]
    stage = keys_with(Role.STAGE)
    own = {key for key in reached if key in stage or liver[key] != target.get(key)}
    while grown := {key for key, names in reached.items() if names & own} - own:
        own |= grown
    target.update({PREFIX + key: with_prefix(copy.deepcopy(liver[key]), own, PREFIX) for key in liver if key in own})
    target[f"{PREFIX}inferer"] |= {"grid": "model", "probabilities": False, "quality": False}  # a box needs no more
