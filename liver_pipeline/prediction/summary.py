"""How a folder run ended: counts, an exit code, and the last lines on the screen."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.evaluation.liver_table import write_liver_table
from liver_pipeline.evaluation.quality import write_quality_table
from liver_pipeline.exits import EXIT_DONE, EXIT_NONE_DONE, EXIT_SOME_FAILED
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.screen import say


@dataclass(frozen=True)
class Summary:
    """How a folder run ended: cases done now, failed (now or before), and skipped (done before, or not reached).

    ``refused`` are those among the done and the skipped that have a mask, but not all that was asked for
    beside it; ``added`` are the skipped ones that got a table or a page.
    """

    done: int
    failed: int
    skipped: int
    exit_code: int
    refused: int = 0
    added: int = 0

    def exit(self) -> None:
        """End the process with the exit code if it is not 0: for ``run:`` of a bundle config."""
        if self.exit_code:
            sys.exit(self.exit_code)


def summary_of(total: int, *, done: int, failed: int, before: int, refused: int = 0, added: int = 0) -> Summary:
    """Return how a run over ``total`` cases ended, of which ``before`` were done earlier; ``refused`` lack results."""
    if failed == refused == 0 and done + before == total:
        code = EXIT_DONE
    else:
        code = EXIT_SOME_FAILED if done + before else EXIT_NONE_DONE
    return Summary(done, failed, total - done - failed, code, refused, added)


def say_end(summary: Summary, stale: int, ledger: Path, *, judged: bool) -> None:
    """Say how a run ended, and list its masks in ``quality.csv``, the clinical tables beside them in ``livers.csv``.

    Args:
        summary: How many cases.
        stale: Masks of earlier runs that were set aside.
        ledger: The run's own.
        judged: The runner judges its masks.
    """
    aside = f", {stale} earlier masks set aside as *.stale*" if stale else ""
    aside += f", tables or pages added to {summary.added} of these" if summary.added else ""
    aside += f", {summary.refused} without all that was asked for beside the mask" if summary.refused else ""
    say(f"{summary.done} done, {summary.failed} failed, {summary.skipped} skipped{aside}; {ledger}")
    folder = ledger.parent
    rows = read_ledger(folder / LEDGER)[0].values()  # of other shards too
    lines = [write_quality_table(folder, rows).rstrip("\n")] if judged else []
    lines.append(write_liver_table(folder, (row["case"] for row in rows if row.get("event") == "done")))
    for line in filter(None, lines):
        say(line)
