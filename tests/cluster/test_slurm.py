"""The array of docs/how-to/cluster.md on a real SLURM, whose daemons are processes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.stand_in import SLEEP
from tests.cluster.test_ray_run import ROOT, make_run, make_scans, outcome, predict, rows, said
from tests.ports import free_port
from tests.small import make_phantoms
from tests.waiting import PATIENCE_S, wait_for

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
PAGE = ROOT / "docs" / "how-to" / "cluster.md"
pytestmark = [
    pytest.mark.slow,  # three minutes: SLURM waits two before it runs a requeued job again
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS) or not hasattr(os, "getuid") or os.getuid() != 0,
        reason="needs Debian's slurmctld, slurmd, slurm-client and munge, and root to start them",
    ),
]
CONFIG = """
ClusterName=livers
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start SLURM; the environment that its programs need."""
    folder = tmp_path / "slurm"
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True, mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), folder=folder, ports=(free_port(), free_port())))
    env = {**os.environ, "SLURM_CONF": str(config)}
    places = [f"--{name}={folder / 'munge' / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *places],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            log = (folder / f"{command[0]}.log").open("wb")
            daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            time.sleep(1)
        wait_for(lambda: "idle" in ask(env, "sinfo"), 0.5)
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE_S)


def ask(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_array_of_the_docs_with_a_job_requeued_in_the_middle_loses_nothing(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    scans = make_scans(tmp_path / "scans", 24)
    run = make_run(tmp_path, make_phantoms(tmp_path / "data"))
    said(predict(run, scans, tmp_path / "whole"), 3)
    masks = tmp_path / "masks"

    section = PAGE.read_text().partition("## SLURM: an array")[2]
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found is not None
    script = found[1].replace("--array=0-7", "--array=0-2").replace("_ID/8", "_ID/3")
    script = script.replace("liver-pipeline", f"{sys.executable} -m liver_pipeline").replace("runs/r34", str(run))
    script = script.replace("/shared/scans", str(scans)).replace("/shared/masks", f"{masks} backend=torch device=cpu")
    assert "/shared" not in script and "--requeue" in script
    (tmp_path / "array.sh").write_text(script)
    env = {**slurm, SLEEP: "0.1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    submitted = ask(env, "sbatch", f"--chdir={ROOT}", f"--output={tmp_path}/%a.txt", str(tmp_path / "array.sh"))
    job = submitted.split()[-1]
    shard = masks / "ledger.1.jsonl"
    wait_for(lambda: shard.exists() and shard.stat().st_size > 0, 0.5)
    said_of_requeue = ask(env, "scontrol", "requeue", f"{job}_1")
    assert not said_of_requeue.strip(), said_of_requeue
    wait_for(lambda: job not in ask(env, "squeue", "--noheader", "--array"), 0.5)

    logs = "".join(path.read_text() for path in sorted(tmp_path.glob("?.txt")))
    text = said(predict(run, scans, masks), 3)
    assert "0 done, 1 failed, 24 skipped" in text, logs + text
    assert outcome(masks)[0] == outcome(tmp_path / "whole")[0]
    ended = [row["case"] for row in rows(masks) if row["event"] in ("done", "failed")]
    assert len(ended) == len(set(ended)) == 25
