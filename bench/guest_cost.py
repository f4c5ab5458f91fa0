#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what the guest agent costs: memory, and the share of a core at one challenge a second.

bench/guest_cost.py [SECONDS] [on|off]      (120, on) whether the audits run, as they come
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import serial  # type: ignore[import-untyped]

GUEST = Path(__file__).parents[1] / "guest"
#: Where pyserial is. `-S` leaves out what a machine's own .pth files import into each Python.
SITE = str(Path(serial.__file__).parents[1])


def main() -> None:
    """Run the agent for a while as a host would see it, and print the figures."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    audits = sys.argv[2] if len(sys.argv) > 2 else "on"
    host, guest = pty.openpty()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "conf"
        config.write_text(f"[checks]\nboot_delay = 0\n[audits]\nenabled = {audits}\n")
        arguments = ["--run-dir", directory, "--config", str(config)]
        arguments += ["--port-path", os.ttyname(guest)]
        agent = subprocess.Popen(
            [sys.executable, "-S", "-m", "vmhb_guest", *arguments],
            cwd=GUEST,
            env={"PYTHONPATH": SITE},
            stderr=subprocess.DEVNULL,
        )
        begin(host)
        before = cpu_of(agent.pid)
        answers = converse(host, seconds)
        cpu = 100 * (cpu_of(agent.pid) - before) / seconds
        memory = memory_of(agent.pid)
        agent.terminate()
        agent.wait()
    print(f"answers            {answers} in {seconds} s")
    print(f"resident memory    {memory['VmRSS']} kB, at most {memory['VmHWM']} kB")
    print(f"of it its own      {memory['RssAnon']} kB")
    print(f"CPU                {cpu:.2f} % of a core, audits {audits}")


def begin(host: int) -> None:
    """Acknowledge the session, and let the agent come to rest."""
    init = json.loads(os.read(host, 65536).strip())
    send(host, "init_ack", invocation_id=init["invocation_id"], vmhb={"caps": ["checks"]})
    time.sleep(1.0)


def converse(host: int, seconds: int) -> int:
    """Challenge once a second; return the number of answers."""
    answers = 0
    for challenge in range(1, seconds + 1):
        send(host, "challenge", heartbeat_challenge=challenge)
        answers += b'"heartbeat_response":%d,' % challenge in os.read(host, 65536)
        time.sleep(1.0)
    return answers


def send(host: int, msg_type: str, **fields: object) -> None:
    """Send one message of the host."""
    message = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1, **fields}
    os.write(host, b"\n" + json.dumps(message).encode() + b"\n")


def cpu_of(pid: int) -> float:
    """The seconds of CPU that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> dict[str, int]:
    """The figures of /proc/PID/status that count memory, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.endswith("kB"))
    return {key: int(value.split()[0]) for key, value in pairs}


if __name__ == "__main__":
    main()
