"""The one way from a scan to a mask: read, preprocess, network, clean."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from liver_pipeline.bundle.keys import keys_with
from liver_pipeline.bundle.layers import apply_overrides
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_name
from liver_pipeline.evaluation.confidence import confidence_record
from liver_pipeline.evaluation.intervals import volume_intervals
from liver_pipeline.evaluation.plausibility import coarse_scan, plausibility
from liver_pipeline.evaluation.quality import judge
from liver_pipeline.evaluation.run_quality import read_quality
from liver_pipeline.io.checksums import content_sha256
from liver_pipeline.io.files import plain
from liver_pipeline.io.findings import ONLY_RECORDED
from liver_pipeline.io.pictures import Pictures
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import CLASS_NAMES
from liver_pipeline.networks.weights import load_networks
from liver_pipeline.prediction.case import (
    RunningCase,
    as_label_map,
    case_record,
    inference_record,
    is_drawn,
    label_volumes,
    without_voxels,
)
from liver_pipeline.prediction.provenance import machine, settings_of, versions

logger = logging.getLogger(__name__)


class CaseRunner:
    """A network with all that leads to it and away from it; one case in, its end out.

    Folder run, :class:`~liver_pipeline.prediction.segmenter.Segmenter` and whoever else segments scans call the same
    steps in the same order: ``load`` once, then ``prepare``, ``infer`` and ``clean`` for each case. The steps of one
    case may run in different threads, and so may the same step of two cases, but for ``infer``.

    Args:
        preprocessing: Takes ``{"image": Scan}``, gives ``{"image": MetaTensor (C, X', Y', Z')}``.
        inferer: Called as ``inferer(inputs, network)`` with inputs (1, C, X', Y', Z'); gives labels (1, 1, X, Y, Z) on
            the scan's grid. A dict under ``inference`` in the meta of its result goes into the record.
        network: Put on ``device`` and set to eval mode; a ``ModuleList`` is an ensemble.
        postprocessing: Takes ``{"pred": MetaTensor (1, X, Y, Z), "image": ...}``, gives "pred" and maybe "effects".
        device: Where the network runs.
        ckpt_path: Weights (see :func:`liver_pipeline.networks.weights.load_weights`), of an ensemble one file for each
            member; ``None`` keeps those the network has.
        other_networks: Name to ``{"network", "ckpt_path"}`` of networks that the inferer runs besides; they are loaded
            and placed as ``network`` is.
        reader: How scans are read; the same as that of ``preprocessing`` and of the training.
        pictures: How it takes JPG and PNG; None: not at all.
        bundle_root: Its ``configs/inference.yaml`` is part of what identifies the config; its ``quality.json`` holds
            the thresholds of ``quality``, what intervals of volumes are told by, and the temperature of confidence.
        num_classes: What the network tells apart: background, liver, and with 3 classes tumor.
        overrides: What was changed of that file for this run, as JSON; it identifies the config, too. "" for nothing.
        quality: Judge each mask (see :mod:`liver_pipeline.evaluation.quality`); it stays as it is.

    Raises:
        IntakeError: QUALITY_FILE if ``quality.json`` cannot be used.
    """

    def __init__(
        self,
        *,
        preprocessing: Callable[[Any], Any] | None,
        inferer: Callable[[torch.Tensor, torch.nn.Module], torch.Tensor],
        network: torch.nn.Module,
        postprocessing: Callable[[Any], Mapping[Any, Any]] | None = None,
        device: str | torch.device = "cpu",
        ckpt_path: str | Path | Sequence[str | Path] | None = None,
        other_networks: Mapping[str, Mapping[str, Any]] | None = None,
        reader: ScanReader | None = None,
        pictures: Pictures | None = None,
        bundle_root: str | Path | None = None,
        overrides: str = "",
        num_classes: int = 3,
        quality: bool = False,
    ) -> None:
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.network = network
        self.postprocessing = postprocessing
        self.device = torch.device(device)
        self.ckpt_path = ckpt_path
        self.other_networks = dict(other_networks or {})
        self.reader = reader or ScanReader()
        self.pictures = pictures
        self.bundle_root = None if bundle_root is None else Path(bundle_root)
        self.labels = {str(label): CLASS_NAMES[label] for label in range(1, num_classes)}
        self.probabilities = bool(getattr(inferer, "probabilities", False))  # to be written
        self.shown = False  # to be drawn on a page
        self.run_quality = read_quality(self.bundle_root)
        self.thresholds = self.run_quality.thresholds if quality else None
        self.run_name = "" if self.bundle_root is None else run_name(self.bundle_root)
        self.settings = self._settings(json.loads(overrides) if overrides else {})
        self.config_sha256 = content_sha256(self.settings)
        on_gpu = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._common: dict[str, Any] = {}
        self.weights_sha256 = ""

    def load(self) -> None:
        """Load the weights and put the networks on the device; a second call does nothing.

        Raises:
            FileNotFoundError: See :func:`liver_pipeline.networks.weights.load_weights`.
            ValueError: See there.
        """
        if self._common:
            return
        weights = load_networks(self.network, self.ckpt_path, self.other_networks, self.device)
        self.weights_sha256 = content_sha256(weights) if self.other_networks else weights["sha256"]
        self._common = {
            "weights": weights,
            "config": {"sha256": self.config_sha256, "settings": self.settings},
            "versions": versions(),
            "machine": machine(self.device),
        }

    def run(self, case: RunningCase) -> None:
        """Bring one case, that is alone, from its scan to its clean labels; the weights load while it is read.

        Raises:
            IntakeError: If it is not what it should be.
        """
        with ThreadPoolExecutor(1, "load") as beside:
            loaded = beside.submit(self.load)
            self.prepare(case)
            loaded.result()
        self.infer(case)
        self.clean(case)

    def show_probabilities(self) -> None:
        """Keep the probabilities of each case until its page is drawn, in eight bits; masks stay the same."""
        self.shown = True
        self.inferer.probabilities = True  # type: ignore[attr-defined]  # MONAI's have none to keep

    def prepare(self, case: RunningCase) -> None:
        """Read a case, unless its source is a scan already, and preprocess it.

        Raises:
            IntakeError: If it is not what it should be.
        """
        with case.stages("read"):
            scan = case.source
            if not isinstance(scan, Scan):
                picture = None if self.pictures is None else self.pictures.read(scan)
                scan = picture or self.reader.scan(scan, series=case.series, why=case.why, elsewhere=case.elsewhere)
        case.scan = scan  # a failure later on still knows what was read
        case.accepted = sorted({finding.code for finding in scan.findings} & set(self.reader.accept))
        for finding in scan.findings:
            if finding.code not in ONLY_RECORDED:
                logger.warning("%s: %s: %s", case.name, finding.code, finding.detail)
        with case.stages("preprocess"):
            case.data = self._preprocessed(scan)
            if self.thresholds is not None and not is_drawn(scan):  # a picture has no millilitres to judge
                case.coarse = coarse_scan(scan, self.reader.modality)
        case.scan = without_voxels(scan)

    def _preprocessed(self, scan: Scan) -> dict[str, Any]:
        """Apply the transforms; what they do on a GPU goes on beside the network of another case."""
        if self.preprocessing is None:
            return {"image": scan}
        if self._stream is None:
            return dict(self.preprocessing({"image": scan}))
        with torch.cuda.stream(self._stream):
            data = dict(self.preprocessing({"image": scan}))
        self._stream.synchronize()
        if data["image"].is_cuda:  # its memory is not to be used again before the network is done with it
            data["image"].as_tensor().record_stream(torch.cuda.default_stream(self.device))
        return data

    def infer(self, case: RunningCase) -> None:
        """Run the network on a prepared case."""
        with case.stages("network"), torch.no_grad():
            pred = self.inferer(case.data["image"].unsqueeze(0), self.network)
        if self.probabilities or self.shown:  # taken out at once: MetaTensor copies its meta with every operation
            levels = pred.meta.pop("probabilities", None)  # type: ignore[attr-defined]  # a MetaTensor
            case.levels = None if levels is None else levels[0].numpy()
        case.pred = pred

    def clean(self, case: RunningCase) -> None:
        """Post-process what the network gave."""
        assert case.pred is not None and case.scan is not None
        with case.stages("postprocess"):
            cleaned: Mapping[Any, Any] = {"pred": case.pred[0], "image": case.data["image"]}
            if self.postprocessing is not None:
                cleaned = self.postprocessing(dict(cleaned))
            case.label_map = as_label_map(cleaned["pred"])
            case.volumes = label_volumes(case.label_map, case.scan)
            case.intervals = self._intervals(case.volumes["volume_ml"])
        case.effects = cleaned.get("effects", {})
        if case.coarse is not None:
            with case.stages("quality"):
                case.quality = self._judged(case)
                case.coarse = None

    def _intervals(self, volume_ml: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the intervals of the volumes of a mask; liver is with its tumors."""
        parenchyma, tumor = volume_ml["1"], volume_ml["2"]
        both = None if parenchyma is None or tumor is None else round(parenchyma + tumor, 3)
        return volume_intervals(self.run_quality, {"liver": both, "tumor": tumor}, **self._identity)

    @property
    def _identity(self) -> dict[str, str]:
        """What made the masks."""
        return {"weights_sha256": self.weights_sha256, "config_sha256": self.config_sha256}

    def _judged(self, case: RunningCase) -> dict[str, Any]:
        """Say whether the mask has to be looked at, and why."""
        assert case.scan is not None and case.label_map is not None and case.coarse is not None
        assert self.thresholds is not None
        told = inference_record(case)
        removed = int(case.effects.get("keep_largest_liver", 0))
        facts = plausibility(case.label_map, case.scan, case.coarse, removed)
        fallback = str(told.get("cascade", {}).get("fallback", ""))
        return judge(facts, told.get("agreement", {}), self.thresholds, fallback=fallback, findings=case.scan.findings)

    def record(self, case: RunningCase, files: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the provenance of a case that is clean: where its mask comes from, as plain values.

        Args:
            case: The case.
            files: What is to be said of files that were written, by the record's key.
        """
        told = case_record(case)
        for key, value in (files or {"output": {"path": None, "sha256": None}, "probabilities": None}).items():
            told[key] = {**value, **told[key]} if key in told else value
        told["confidence"] = confidence_record(self.run_quality, **self._identity)
        record: dict[str, Any] = plain({**told, "labels": self.labels, **self._common})
        return record

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that decides what the masks are, but for input and weights."""
        config: Any = None
        path = None if self.bundle_root is None else self.bundle_root / "configs" / "inference.yaml"
        if path is not None and path.is_file():
            config = yaml.safe_load(path.read_text())
            running = keys_with(Role.RUNNING)
            config = {key: value for key, value in config.items() if key not in running}
            apply_overrides(config, overrides)  # what was replaced for this run decides nothing
        return {
            "inference_yaml_sha256": None if config is None else content_sha256(plain(config)),
            "reader": settings_of(self.reader),
            "network": settings_of(self.network),
            "preprocessing": settings_of(self.preprocessing),
            "inferer": settings_of(self.inferer),
            "postprocessing": settings_of(self.postprocessing),
            **({"overrides": dict(overrides)} if overrides else {}),
        }
