# SPDX-License-Identifier: Apache-2.0
"""Says on standard error what the agent does; the service manager keeps it.

Not by the module logging: it costs 1 MiB, and with its threads half as much again as each fork.
"""

import sys


def info(words: str, *values: object) -> None:
    """Say what is as it should be."""
    _say("INFO", words % values)


def warning(words: str, *values: object) -> None:
    """Say what somebody should look at."""
    _say("WARNING", words % values)


def error(words: str, *values: object) -> None:
    """Say what is not done."""
    _say("ERROR", words % values)


def _say(level: str, text: str) -> None:
    try:
        sys.stderr.write("vmhb-guest: %s: %s\n" % (level, text))
        sys.stderr.flush()
    except OSError:
        return  # a log that is full or gone is no reason to stop the heartbeat
