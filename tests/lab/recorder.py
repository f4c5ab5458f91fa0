# SPDX-License-Identifier: Apache-2.0
"""A collectd plugin that writes each notification, with its meta data, as a line of JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TextIO

import collectd

_FIELDS = ("host", "plugin", "plugin_instance", "type", "type_instance", "severity", "message")


class Recorder:
    """Appends to the file that `Path` in the plugin's block names."""

    def __init__(self) -> None:
        self._path = Path("/dev/null")
        #: Open from the first on: it records also what is told while nothing more can be opened.
        self._out: TextIO | None = None

    def configure(self, config: collectd.Config) -> None:
        """Take the one key there is."""
        for child in config.children:
            if child.key.lower() == "path":
                self._path = Path(str(child.values[0]))

    def record(self, notification: collectd.Notification) -> None:
        """Write one line; `at` is the wall clock now, `time` what the sender said."""
        row: dict[str, object] = {name: getattr(notification, name) for name in _FIELDS}
        row.update(time=notification.time, at=time.time(), meta=notification.meta)
        if self._out is None:
            self._out = self._path.open("a", buffering=1)
        self._out.write(json.dumps(row, default=repr) + "\n")


_recorder = Recorder()
collectd.register_config(_recorder.configure, name="recorder")
collectd.register_notification(_recorder.record, name="recorder")
# collectd complains in its log of every value that nobody takes.
collectd.register_write(lambda values: None, name="recorder")
