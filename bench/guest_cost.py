#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what the guest agent costs: memory, and the share of a core at one challenge a second.

bench/guest_cost.py [SECONDS] [on|off|away]      (120, on) whether the audits run, as they come
away: no audits, no challenges; the port reads 0 bytes, as a virtio port does that has no host
"""

from __future__ import annotations

import json
import os
import pty
import re
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
    mode = sys.argv[2] if len(sys.argv) > 2 else "on"
    host, guest = pty.openpty()
    with tempfile.TemporaryDirectory() as directory:
        without_host = Path(directory) / "port"
        without_host.touch()
        port = str(without_host) if mode == "away" else os.ttyname(guest)
        agent = start(directory, port, audits="on" if mode == "on" else "off")
        if mode == "away":
            time.sleep(2.0)
        else:
            begin(host)
        before, woken = cpu_of(agent.pid), wakes_of(agent.pid)
        if mode == "away":
            time.sleep(seconds)
        else:
            print(f"answers            {converse(host, seconds)} in {seconds} s")
        cpu = 100 * (cpu_of(agent.pid) - before) / seconds
        wakes = (wakes_of(agent.pid) - woken) / seconds
        memory = memory_of(agent.pid)
        agent.terminate()
        agent.wait()
    print(f"resident memory    {memory['VmRSS']} kB, at most {memory['VmHWM']} kB")
    print(f"of it its own      {memory['RssAnon']} kB")
    print(f"CPU                {cpu:.3f} % of a core, {wakes:.1f} wake-ups a second, {mode}")


def start(directory: str, port: str, audits: str) -> subprocess.Popen[bytes]:
    """Start the agent at a port, with its files in `directory`."""
    config = Path(directory) / "conf"
    config.write_text(f"[checks]\nboot_delay = 0\n[audits]\nenabled = {audits}\n")
    arguments = ["--run-dir", directory, "--config", str(config), "--port-path", port]
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "vmhb_guest", *arguments],
        cwd=GUEST,
        env={"PYTHONPATH": SITE},
        stderr=subprocess.DEVNULL,
    )


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


def wakes_of(pid: int) -> int:
    """How often a process has gone to sleep of its own accord, each time to be woken."""
    (line,) = re.findall(r"^voluntary_ctxt_switches:\s(\d+)$", status_of(pid), re.MULTILINE)
    return int(line)


def memory_of(pid: int) -> dict[str, int]:
    """The figures of /proc/PID/status that count memory, in kB."""
    pairs = (line.split(":") for line in status_of(pid).splitlines() if line.endswith("kB"))
    return {key: int(value.split()[0]) for key, value in pairs}


def status_of(pid: int) -> str:
    """What /proc tells people about a process."""
    return Path(f"/proc/{pid}/status").read_text()


if __name__ == "__main__":
    main()
