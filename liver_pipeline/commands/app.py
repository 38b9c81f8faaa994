"""Start the app in the browser."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path

from liver_pipeline.io.files import remove_temporary
from liver_pipeline.io.locks import lock_file
from liver_pipeline.io.screen import say

EVERY_HOST = ("0.0.0.0", "::")  # noqa: S104 (named, not taken)
OPEN_TO_OTHERS = (
    "Other machines can reach it, and nothing is encrypted: scans and the address can be read on the way. Use it on a "
    "network that you trust, or behind a proxy with TLS; over SSH it works without --host."
)


def run_app(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    browser: bool = True,
    work: str | Path = "liver_pipeline_app",
    runs: str | Path | None = None,
    data: str | Path | None = None,
) -> None:
    """Serve the app until it is interrupted; its address, with the token, goes to the screen.

    Args:
        host: Where it listens. Anything but loopback lets other machines ask, with the token.
        port: Of the address; 0 takes a free one.
        browser: Open the page in the browser, where there is one.
        work: Uploads, masks and the ledger go here; the next start finds them again.
        runs: Folder of run folders to choose from, besides the weights in the box.
        data: Folder of scans that can be named by path.

    Raises:
        ValueError: If the port is taken, another app works in ``work``, or a folder is missing.
    """
    import uvicorn

    from liver_pipeline.app.access import LOOPBACK
    from liver_pipeline.app.cases import CaseFolder
    from liver_pipeline.app.data_folder import DataFolder
    from liver_pipeline.app.server import make_app
    from liver_pipeline.app.supervisor import Supervisor

    for name, folder in (("--runs", runs), ("--data", data)):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{name} {folder}: there is no such folder")
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((work / ".app.lock").open("ab"))
        refusal = f"another app works in {work}; end it, or choose another folder with --work"
        stack.enter_context(lock_file(lock.fileno(), refusal))
        listening = stack.enter_context(_bound(host, port))
        port = listening.getsockname()[1]
        os.umask(0o077)  # what is uploaded is for its owner alone
        cases = CaseFolder(work, None if data is None else DataFolder(Path(data)))
        remove_temporary(work)  # left by an app that was killed
        cases.drop_abandoned(0.0)  # nobody sends any more what was being sent when the last app ended
        token = secrets.token_urlsafe(24)
        hosts = [*LOOPBACK, *_names_of(host)]  # nobody else's name leads to loopback: a tunnel's end is let in
        app = make_app(
            cases, Supervisor(cases), token=token, hosts=hosts, cookie=f"liver-pipeline-{port}",
            runs=None if runs is None else Path(runs),
        )  # fmt: skip
        address = f"http://{'127.0.0.1' if host in EVERY_HOST else host}:{port}/?token={token}"
        say(f"open {address}\nIt lets in whoever has this address. Ctrl-C ends it.")
        if host not in LOOPBACK:
            say(OPEN_TO_OTHERS)
        if browser:
            threading.Timer(1.0, _open_browser, [address]).start()
        config = uvicorn.Config(
            app, log_level="error", access_log=False, limit_concurrency=100, server_header=False, ws="none",
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)  # whoever reads the address may ask at once
    except OSError as reason:
        listening.close()
        raise ValueError(
            f"cannot listen on {host}, port {port} ({reason.strerror}): does an app run already? Choose another --port"
        ) from None
    return listening


def _names_of(host: str) -> list[str]:
    """Return the names under which other machines may ask for this one: the given one, or with 0.0.0.0 all it has."""
    if host not in EVERY_HOST:
        return [f"[{host}]" if ":" in host else host]
    names = [socket.gethostname(), socket.getfqdn()]
    with contextlib.suppress(OSError):
        names += [str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)]
    return [f"[{name}]" if ":" in name else name for name in names]


def _open_browser(address: str) -> None:
    """Open the page, where there is a browser and a screen for it; else the printed address is all there is."""
    screen = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    with contextlib.suppress(webbrowser.Error):
        if screen and webbrowser.open(address):  # without one it would be a browser of text, in this terminal
            return
    say("No browser can be opened here: open the address in yours. From another machine: docs/how-to/app.md")
