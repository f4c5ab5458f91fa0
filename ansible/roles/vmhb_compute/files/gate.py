#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tries a configuration of ours in a collectd of its own; status 1, and why, if it is refused.

Usage: gate.py COLLECTD STATE_DIR CONFIG

While it runs, it holds the locks of engine and notifier, or the running daemon does: what is
tried reads its configuration and leaves VMs and broker alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile

_CONF = """\
Hostname "trial"
FQDNLookup false
BaseDir "{directory}"
PIDFile "{directory}/pid"
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "stderr"
  Timestamp false
  PrintSeverity true
</Plugin>
Include "{config}"
"""
# Not "another engine holds the lock", which an engine says that is in order.
_REFUSED = re.compile(
    r"\[error\] (vmhb: config.*|vmhb: the plugin stays off.*|vitrage_notifier:.*)"
)
# Its Python finds its home by the first python3 of the PATH, which is the system's in a service.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
#: Seconds that collectd may take.
_PATIENCE = 60


def hold(path: str) -> None:
    """Takes a lock until this process ends, unless another process has it."""
    try:
        fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return


def main() -> int:
    """Returns the exit status."""
    collectd, state_dir, config = sys.argv[1:]
    hold(os.path.join(state_dir, "lock"))
    hold(os.path.join(state_dir, "notifier.lock"))
    with tempfile.TemporaryDirectory() as directory:
        wrapper = os.path.join(directory, "trial.conf")
        with open(wrapper, "w") as file:
            file.write(_CONF.format(directory=directory, config=config))
        try:
            run = subprocess.run(
                [collectd, "-T", "-C", wrapper],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"collectd -T took longer than {_PATIENCE} s\n")
            return 1
    said = run.stdout.decode("utf-8", "replace")
    refused = _REFUSED.findall(said)
    if refused:
        sys.stderr.write("; ".join(refused) + "\n")
    elif run.returncode:
        sys.stderr.write(" ".join(said.split())[-800:] + "\n")
    return 1 if refused or run.returncode else 0


sys.exit(main())
