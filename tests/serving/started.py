"""The whole service as an operator starts it, `python -m serving`, and a Ray with a dashboard for it to run on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(settings: dict[str, Any], folder: Path, **env: str) -> Iterator[str]:
    """URL of a service with these settings; it ends with the block."""
    port = free_port()
    (folder / "serving.yaml").write_text(yaml.safe_dump({**settings, "http": {"port": port}}), encoding="utf-8")
    command = [sys.executable, "-m", "serving", str(folder / "serving.yaml")]
    around = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    around |= {"RAY_AUTH_MODE": "disabled", **env}
    log = folder / "serving.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=around, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while "serving on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Head:
    """A Ray of one node."""

    address: str
    dashboard: str


@contextmanager
def ray_head(folder: Path, num_cpus: int) -> Iterator[Head]:
    """A Ray that takes jobs; it ends with the block."""
    port, dashboard_port, agent_port = free_port(), free_port(), free_port()
    binaries = Path(sys.executable).parent
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--num-cpus={num_cpus}", f"--dashboard-port={dashboard_port}"]
    command += [f"--dashboard-agent-listen-port={agent_port}", "--disable-usage-stats"]
    command += ["--object-store-memory=500000000"]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=env)
    try:
        _wait_for_port(head, dashboard_port)
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}")
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # a gentle end takes Ray half a minute
        head.wait(60)


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")
