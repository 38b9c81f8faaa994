"""Fetch NiiVue, at the version and hash of the lock file, for the viewer's page: by hand, or while a wheel is built.

Hatch runs it as a build hook. Without npm, or without a network, the build goes on: the viewer then draws slices, and
says why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WEB = Path(__file__).resolve().parents[1] / "liver_pipeline" / "app" / "web"
SCRIPT, LICENSES = "niivue.umd.js", "niivue.LICENSES.txt"
SECONDS = 180  # a machine without a network waits no longer


class WebHook(BuildHookInterface[Any]):
    """Puts NiiVue and the licences of what is inside it into the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch it, or warn; nothing here ends a build."""
        if reason := fetch(WEB):
            self.app.display_warning(f"{reason}; the viewer will draw slices without it")
        build_data["artifacts"] += [f"liver_pipeline/app/web/{name}" for name in (SCRIPT, LICENSES)]


def fetch(web: Path) -> str:
    """Put NiiVue beside ``web/package.json``; return why it is not there, or nothing.

    `npm ci` compares every package with the hash in the lock file; no script of a package is run.
    """
    npm = shutil.which("npm")
    if npm is None:
        return "" if (web / SCRIPT).exists() else "npm is not installed, so that NiiVue cannot be fetched"
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(web / name, scratch)
        try:
            subprocess.run([npm, "ci"], cwd=scratch, check=True, timeout=SECONDS, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
            return "" if (web / SCRIPT).exists() else f"npm could not fetch NiiVue ({(said or [str(error)])[0]})"
        modules = Path(scratch) / "node_modules"
        (web / LICENSES).write_text(_licenses(modules), encoding="utf-8")
        shutil.copy(modules / "@niivue" / "niivue" / "dist" / SCRIPT, web / SCRIPT)
    return ""


def _licenses(modules: Path) -> str:
    """Return the licences of all packages that were fetched, one after the other."""
    found = sorted(path for path in modules.rglob("*") if path.stem.lower() == "license" and path.is_file())
    texts = (f"{path.parent.relative_to(modules).as_posix()}\n\n{path.read_text(encoding='utf-8')}" for path in found)
    return f"\n{'-' * 80}\n".join(texts)


if __name__ == "__main__":
    if why := fetch(WEB):
        sys.exit(why)
    print(WEB / SCRIPT)
