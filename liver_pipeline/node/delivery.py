"""Results on their way: sent, noted, and what was received for them removed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from liver_pipeline.dicom_results.results import DicomResults
from liver_pipeline.io.clocks import Ages, now
from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER, Ledger
from liver_pipeline.io.tables import read_json
from liver_pipeline.node.groups import Send, SeriesGroup
from liver_pipeline.node.inbox import Inbox, is_hashed

logger = logging.getLogger(__name__)

DELIVERED = ".delivered.json"


def is_straggler(masks: Path, name: str, files: Collection[str]) -> bool:
    """Tell whether a series was delivered, and holds less than it held then."""
    note = masks / f"{name}{DELIVERED}"
    return note.exists() and not set(read_json(note)["instances"]) <= set(files)


@contextlib.contextmanager
def opened_ledger(masks: Path) -> Iterator[Ledger]:
    """Open the ledger of the masks, while nobody segments; who has rows for many series opens it once.

    Raises:
        OSError: If it cannot be written.
    """
    masks.mkdir(exist_ok=True)
    with contextlib.closing(Ledger(masks / LEDGER)) as ledger:
        yield ledger


def deliver(group: SeriesGroup, inbox: Inbox, ledger: Ledger, dicom: DicomResults, silent: set[Send]) -> bool:
    """Send the results of a group to all who have not got them; note it, and remove what was received.

    Args:
        group: Segmented.
        inbox: What was received.
        ledger: Of the masks.
        dicom: Which results.
        silent: Who did not answer just now is not asked again, and added to.

    Returns:
        Whether it is over with the group: all have the results, or there are none. Otherwise it waits.
    """
    last, masks = ledger.last, ledger.path.parent
    done = [case for case in group.cases if "files" in (last.get(case["case"], {}).get("dicom") or {})]
    if group.cases and not done:
        return True
    files = [file for case in done for file in _results(masks / f"{case['case']}.nii.gz", dicom)]
    for send in [send for send in group.left if send not in silent] if files else ():
        try:
            group.refused |= send(files)
            group.left.remove(send)
        except (IntakeError, OSError) as reason:
            logger.warning("%s is not delivered, it is sent again later: %s", group.name, reason)
            if isinstance(reason, IntakeError) and reason.code == "PEER_UNREACHABLE":
                silent.add(send)
    if files and group.left:
        group.wait.again()
        return False
    if group.refused:
        kinds = "; ".join(f"{kind}: {why}" for kind, why in sorted(group.refused.items()))
        logger.warning("%s: PEER_REFUSED: %s; all else is delivered", group.name, kinds)
        for case in done:
            told = {"code": "PEER_REFUSED", "refused": group.refused}
            ledger.append({**last[case["case"]], "delivery": told, "time": now()})
    for name, instances in group.series.items():
        write_json(masks / f"{name}{DELIVERED}", {"instances": sorted(instances), "sent": len(files)})
    if len(done) == len(group.cases):
        chosen = {Path(case["image"]).name for case in done}
        for name in sorted(group.series, key=lambda one: one in chosen):  # a kill before the last leaves the choice
            inbox.remove(name, group.series[name])
    logger.info("%s: %d instances are delivered", group.name, len(files))
    return True


def _results(mask: Path, dicom: DicomResults) -> list[Path]:
    """Return the files of a mask's results."""
    paths = dicom.paths(mask).values()
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def last_changes(inbox: Inbox, masks: Path) -> dict[str, float]:
    """Return the paths of all series and results, and when each was last changed; files of others are not named."""
    results = [path for path in masks.iterdir() if is_hashed(path.name)] if masks.is_dir() else []
    return {str(path): path.stat().st_mtime for path in (*inbox.folders(), *results)}


def remove_expired(inbox: Inbox, kept: Ages, hours: float) -> None:
    """Remove what is older than the node keeps, delivered or not.

    Args:
        inbox: What was received.
        kept: Of what :func:`last_changes` gives.
        hours: So long it is kept.
    """
    for path in [Path(name) for name, age in kept.look().items() if age >= 3600 * hours]:
        if path.parent == inbox.folder:
            logger.warning("%s was received more than %g hours ago and goes", path.name, hours)
            inbox.remove(path.name)
        else:
            remove(path)
