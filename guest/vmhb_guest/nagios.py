# SPDX-License-Identifier: Apache-2.0
"""Reads how a health check ended: exit code and output as monitoring plugins mean them."""

import signal
from typing import NamedTuple

from .status import Status
from .text import clean

#: Bytes of UTF-8 that a result may carry.
TEXT_MAX = 1024
PERFDATA_MAX = 512

_STATUS = {0: Status.OK, 1: Status.WARNING, 2: Status.CRITICAL, 3: Status.UNKNOWN}
_SHELL_CODES = {126: "a command was not executable", 127: "a command was not found"}


class Outcome(NamedTuple):
    """What one run of a check says."""

    status: Status
    text: str
    perfdata: str


def interpret(returncode: int, output: bytes) -> Outcome:
    """Return the outcome of a run that ended; a negative returncode is minus the signal.

    A check that did not end as a plugin should is critical: nobody looked after what it watches.
    """
    first = output.split(b"\n", 1)[0].decode("utf-8", "replace")
    text, _, perfdata = first.partition("|")
    text, perfdata = clean(text, TEXT_MAX), clean(perfdata, PERFDATA_MAX)
    status = _STATUS.get(returncode)
    if status is None:
        reason = _odd_end(returncode)
        return Outcome(Status.CRITICAL, clean(_join(reason, text), TEXT_MAX), perfdata)
    return Outcome(status, text or "no output", perfdata)


def failed(reason: str) -> Outcome:
    """Return the outcome of a run that could not start or had to be ended by us."""
    return Outcome(Status.CRITICAL, clean(reason, TEXT_MAX), "")


def _odd_end(returncode: int) -> str:
    if returncode >= 0:
        meaning = _SHELL_CODES.get(returncode, "no plugin exit code")
        return "check ended with exit code %d: %s" % (returncode, meaning)
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = "signal %d" % -returncode
    return "check was killed by %s" % name


def _join(reason: str, text: str) -> str:
    return "%s (%s)" % (reason, text) if text else reason
