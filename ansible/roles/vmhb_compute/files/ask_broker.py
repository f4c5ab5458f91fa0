#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks the broker of a transport URL to let us in; status 1, and why, if it refuses.

Usage: ask_broker.py URL_FILE TOPIC, with the Python of the notifier's virtual environment.
"""

from __future__ import annotations

import os
import sys

from vitrage_notifier.sender import NotSentError
from vitrage_notifier.transport import OsloTransport

#: Seconds that the broker may be silent.
_PATIENCE = 10.0


def main() -> int:
    """Returns the exit status."""
    path, topic = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        transport = OsloTransport(file.read().strip(), topic, _PATIENCE)
    try:
        transport.has_listeners()
    except NotSentError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


status = main()
sys.stderr.flush()
# The library's threads may wait for a broker that stands still.
os._exit(status)
