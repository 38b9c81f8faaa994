"""Where things lie in a run folder, found without loading PyTorch: the app looks while somebody waits for its page."""

from __future__ import annotations

import re
from pathlib import Path

WEIGHTS = Path("models") / "model.pt"


def fold_dirs(run_dir: str | Path) -> list[Path]:
    """List the run folders ``fold0``, ``fold1``, ... in a folder, by number; none if it is a run folder itself."""
    run_dir = Path(run_dir)
    if (run_dir / "configs").is_dir():
        return []
    numbered = {
        int(match[1]): path for path in run_dir.glob("fold*") if (match := re.fullmatch(r"fold(\d+)", path.name))
    }
    return [numbered[number] for number in sorted(numbered)]
