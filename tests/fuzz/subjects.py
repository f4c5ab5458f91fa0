# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed. The invariants, whatever the bytes:

codec    `decode` returns a message or raises ProtocolError, nothing else.
session  Nothing is raised. What is sent back is one framed line of ASCII each, which a published
         client takes; at most one unfinished line is held; a beat needs the value that was asked.
monitor  Nothing is raised. Faults have names of ours and texts of one printable line; what is kept
         of the guest is bounded; a deadline is a number and time goes on.
agent    Nothing is raised at the guest's end either; what it sends is one framed line each.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator

from collectd_vmhb.checks import CHECKS_MAX, TEXTS_MAX
from collectd_vmhb.conduct import TOLD_MAX
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.protocol import Answered, Match, ProtocolError, Session, messages
from collectd_vmhb.protocol.lines import BASE_MAX_LINE, MAX_LINE
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import CHECK_PREFIX, FaultRaised
from vmhb_guest import session as agent
from vmhb_guest import wire

FAULT = re.compile(r"heartbeat-lost|not-established|guest-misbehaves|check\.[A-Za-z0-9_.-]{1,48}")
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]*")
POLICY = Policy(1.0, 0.9, 3, 2, 5.0, True, "org.openstack.vmhb.0")
#: Parts what comes at once from what comes next, in what a fuzzer makes.
MARK = b"\0"
#: Stands for the last value asked, which no fuzzer could guess.
ASKED = b"$asked"


def codec(data: bytes) -> None:
    """Reads one line."""
    try:
        messages.decode(data)
    except ProtocolError as error:
        assert str(error), "no reason is given"  # noqa: PT017


def session(data: bytes) -> None:
    """Feeds a host's session, read by read."""
    numbers = itertools.count(1)
    asked = 0

    def random() -> int:
        nonlocal asked
        asked = next(numbers)
        return asked

    subject = Session(random, 1.0, 0.9)
    for chunk, event in _reads(data):
        outstanding = subject._outstanding
        said = chunk.replace(ASKED, str(asked).encode())
        for found in subject.receive(said):
            if isinstance(found, Answered) and found.match is Match.CURRENT:
                assert outstanding is not None, "a beat, and nothing was asked"
                outstanding = subject._outstanding
        assert len(subject._lines._rest) <= MAX_LINE, "more than a line is held"
        if event % 4 == 0:
            subject.challenge()
        elif event % 4 == 1:
            subject.withdraw()
        elif event % 16 == 2:
            subject.connected()
        sent = subject.data_to_send()
        lines = [b"\n%b\n" % line for line in sent.split(b"\n") if line]
        assert sent == b"".join(lines), "not framed"
        for line in lines:
            _check_sent(line, BASE_MAX_LINE)


def monitor(data: bytes) -> None:
    """Lets time pass for a VM's monitor between what its guest sends."""
    numbers = itertools.count(1)
    subject = Monitor("uuid", POLICY, Settings(), lambda: next(numbers))
    now = 0.0
    failed: set[str] = set()
    subject.start(now, POLICY.grace_period, expected=False)
    subject.connected(now)
    for chunk, event in _reads(data):
        asked = subject._session._outstanding or 1
        subject.receive(chunk.replace(ASKED, str(asked).encode()), now)
        until = now + event / 32
        while subject.deadline <= until:
            assert not math.isnan(subject.deadline)
            now = max(now, subject.deadline)
            subject.tick(now)
            now = math.nextafter(now, math.inf) if subject.deadline <= now else now
        now = until
        for fault in subject.events():
            assert FAULT.fullmatch(fault.name), fault.name
            if isinstance(fault, FaultRaised):
                assert PRINTABLE.fullmatch(fault.text), fault.text
                assert PRINTABLE.fullmatch(fault.guest_text), fault.guest_text
                failed.add(fault.name)
            else:
                failed.discard(fault.name)
        assert sum(name.startswith(CHECK_PREFIX) for name in failed) <= TOLD_MAX
        results = subject.checks.results
        assert len(results) <= CHECKS_MAX
        assert sum(check.size for check in results.values()) <= TEXTS_MAX + CHECKS_MAX * 128
        subject.data_to_send()


def agent_session(data: bytes) -> None:
    """Feeds the agent what a broken host might send."""
    numbers = itertools.count(1)
    subject = agent.Session("vm", draw=lambda: next(numbers))
    now = 0.0
    subject.port_opened(now)
    subject.expect_checks(["app"], now)
    for chunk, event in _reads(data):
        subject.receive(chunk.replace(ASKED, str(subject._invocation_id).encode()), now)
        now += event / 32
        deadline = subject.deadline
        assert deadline is None or not math.isnan(deadline)
        subject.tick(now)
        if subject.audit is not None:
            subject.audit_done("done", [], "", now)
        for line in filter(None, subject.data_to_send().split(b"\n")):
            _check_sent(b"\n" + line + b"\n", wire.MAX_LINE)


SUBJECTS: dict[str, Callable[[bytes], None]] = {
    "codec": codec,
    "session": session,
    "monitor": monitor,
    "agent": agent_session,
}


def _reads(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Returns what comes at once, and a number that says what happens then."""
    for piece in data.split(MARK):
        yield piece[1:], piece[0] if piece else 0


def _check_sent(line: bytes, longest: int) -> None:
    assert len(line) <= longest, "longer than the other end takes"
    assert line[:1] == line[-1:] == b"\n"
    assert b"\n" not in line[1:-1], "not framed"
    assert line.isascii()
    assert isinstance(json.loads(line), dict)
