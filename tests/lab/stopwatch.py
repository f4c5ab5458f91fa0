# SPDX-License-Identifier: Apache-2.0
"""A collectd plugin that measures how long another one holds a thread that dispatches.

collectd calls the callbacks for notifications one after the other, in the order in which they were
registered: what is measured lies between the import of this module and that of `stopwatch_end`.

Time in which a thread of this process was ready to run and had no processor is the machine's; it
is measured, too (schedstat counts it), and not taken for the plugin's.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import collectd


class Stopwatch:
    """Appends [seconds, of these without a processor] for each notification to its `Path`."""

    def __init__(self) -> None:
        self._path = Path("/dev/null")
        #: By thread; what is local to a thread is gone between two callbacks.
        self._begun: dict[int, tuple[float, dict[str, float]]] = {}

    def configure(self, config: collectd.Config) -> None:
        """Take the one key there is."""
        for child in config.children:
            if child.key.lower() == "path":
                self._path = Path(str(child.values[0]))

    def begin(self, notification: collectd.Notification) -> None:
        """Start to measure in this thread."""
        delays = _delays()
        self._begun[threading.get_native_id()] = (time.monotonic(), delays)

    def end(self, notification: collectd.Notification) -> None:
        """Write down what was measured."""
        now = time.monotonic()
        at, before = self._begun.pop(threading.get_native_id())
        held = now - at
        # The thread itself, or the one that had the interpreter meanwhile.
        delay = max(after - before.get(thread, 0.0) for thread, after in _delays().items())
        with self._path.open("a") as out:
            out.write(json.dumps([held, min(held, delay)]) + "\n")


def _delays() -> dict[str, float]:
    """Return for how many seconds each thread waited for a processor since it began."""
    delays = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            delays[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return delays


stopwatch = Stopwatch()
collectd.register_config(stopwatch.configure, name="stopwatch")
collectd.register_notification(stopwatch.begin, name="stopwatch-begin")
