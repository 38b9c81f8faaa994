"""Write bundle/configs from the layers in configs/, like a lock file. A test says when it has fallen behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

from liver_pipeline.bundle.compose import compose

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    """Compose the default layers and copy the configs into ``bundle``."""
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = compose(Path(scratch) / "run", {})
        (BUNDLE / "configs").mkdir(parents=True, exist_ok=True)
        for path in sorted((run_dir / "configs").iterdir()):
            (BUNDLE / "configs" / path.name).write_bytes(path.read_bytes())
            print(BUNDLE.name + "/configs/" + path.name)


if __name__ == "__main__":
    main()
