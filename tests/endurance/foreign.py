# SPDX-License-Identifier: Apache-2.0
"""A collectd plugin of somebody else that misbehaves while files beside it say so.

`hold`: once a second it keeps Python's interpreter to itself for HELD seconds. `slow`: it takes
SLOW seconds for each notification. `clock`: the wall clock is ahead by as many seconds as the file
says, for all Python code of this process that is imported after this plugin.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import collectd

HELD, SLOW = 0.3, 0.3
_HERE = Path(__file__).parent
_wall = time.time


def _hold() -> None:
    """Keeps the interpreter: the sum of a range is one step of it, however long."""
    count = 100_000
    began = time.perf_counter()
    sum(range(count))
    count = int(count * HELD / (time.perf_counter() - began))
    while True:
        if (_HERE / "hold").exists():
            sum(range(count))
        time.sleep(1.0 - HELD)


def _be_slow(notification: collectd.Notification) -> None:
    if (_HERE / "slow").exists():
        time.sleep(SLOW)


def _stepped() -> float:
    with contextlib.suppress(OSError, ValueError):
        return _wall() + float((_HERE / "clock").read_text())
    return _wall()


time.time = _stepped
collectd.register_init(lambda: threading.Thread(target=_hold, daemon=True).start(), name="foreign")
collectd.register_notification(_be_slow, name="foreign")
