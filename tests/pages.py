"""Pages of the documentation as programs: their blocks, a folder to run them in, and a server that runs commands fast.

A command of a page would spend most of its time importing PyTorch. So ``liver-pipeline`` and ``python`` on the PATH of
a page's shell are small clients of a process that has imported everything and forks for each call.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.{10,}) -->")
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<kind>\w+)\n(?P<text>.*?)\n```", re.DOTALL)
NAMED = re.compile(r"# (?P<name>[\w.]+\.(yaml|py)):")
CLIENT = """#!{python} -IS
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(line, [len(request).to_bytes(8, "big")], [0, 1, 2])
line.sendall(request)
sys.exit(int(line.makefile().read() or 1))
"""


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text, and why it is not run, if so."""

    kind: str
    text: str
    reason: str

    @property
    def file(self) -> str:
        """The name of the file that the block is; "" for one to run."""
        match = NAMED.match(self.text)
        return match["name"] if match else ""


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that are commands, Python or files."""
    found = []
    for match in BLOCK.finditer("\n" + page.read_text(encoding="utf-8")):
        mark = NOT_RUN.fullmatch(match["before"].strip())
        found.append(Block(match["kind"], match["text"], mark["reason"] if mark else ""))
    return [block for block in found if block.kind in ("bash", "sh", "python", "yaml")]


def write_clients(folder: Path, address: str) -> None:
    """Write what stands for ``liver-pipeline`` and ``python`` on the PATH."""
    folder.mkdir()
    for name in ("liver-pipeline", "python"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / name).chmod(0o755)


def serve(address: str, weights: str) -> None:
    """Import everything, then fork for each client; trainings are shrunk, and ``default`` means small weights."""
    import click.testing  # noqa: F401  (with what the commands need, it is in memory before the first fork)
    import monai.bundle.__main__
    import torch

    import liver_pipeline as lp
    from liver_pipeline import cli  # noqa: F401
    from liver_pipeline.bundle import layers, names
    from liver_pipeline.commands import export, find_lr, tune_postprocessing  # noqa: F401
    from liver_pipeline.engines import training  # noqa: F401
    from liver_pipeline.visualize import curves  # noqa: F401

    for name in set(dir(lp)):
        getattr(lp, name)
    assert monai.bundle.__main__
    torch.set_num_threads(1)
    stages, shipped = (sys.modules[f"liver_pipeline.bundle.{name}"] for name in ("stages", "shipped"))
    choose = layers.choose_layers

    def choose_small(*arguments: Any) -> Any:
        from tests.small import BRIEF, COARSE, NETWORKS

        files, sources = choose(*arguments)
        small = NETWORKS.get(files["network"].stem, {"roi_size": [16, 16, 16]})
        return files, [*sources, ("tests/pages.py", {**BRIEF, **COARSE, "grid_size": None, **small, "device": "cpu"})]

    for module in (layers, stages):
        setattr(module, "choose_layers", choose_small)  # noqa: B010 (mypy knows its type)
    setattr(shipped, "share_dir", lambda name: Path(weights) if name == "weights" else names.share_dir(name))  # noqa: B010
    line = socket.socket(socket.AF_UNIX)
    line.bind(address)
    line.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while True:
        client, _ = line.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            line.close()
            _answer(client)
        client.close()


def _answer(client: socket.socket) -> None:
    """Run what one client asks for, with its files, folder and environment; end this process."""
    code = 1
    try:
        size, fds, *_ = socket.recv_fds(client, 8, 3)
        words, folder, environment = json.loads(client.makefile("rb").read(int.from_bytes(size, "big")))
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "r" if n == 0 else "w", closefd=False) for n in range(3))  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = _run(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(str(code).encode())
        os._exit(0)


def _run(words: list[str]) -> int:
    try:
        if words[0] == "python":
            sys.path.insert(0, str(Path.cwd()))
            if words[1] == "-m":
                sys.argv = words[2:]
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            elif words[1] == "-c":
                exec(words[2], {"__name__": "__main__"})
            else:
                sys.argv = words[1:]
                runpy.run_path(words[1], run_name="__main__")
            return 0
        from liver_pipeline.cli import main

        main(words[1:], prog_name="liver-pipeline", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    serve(sys.argv[1], sys.argv[2])
