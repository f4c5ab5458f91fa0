# SPDX-License-Identifier: Apache-2.0
"""The rules a guest is held to: the cases of guest.jsonl that any live guest can play."""

import json
import pkgutil
import random
import time
from typing import Any, Callable, Dict, List, NamedTuple

from .guest import MAX_LINE, Guest
from .player import BrokenError, NotRunError, Player

#: The steps that can be played to a live guest; nobody can give it check results from outside.
PLAYABLE = {"port", "receive", "expect", "expect_none", "stop"}
#: From so many seconds of waiting on, --quick leaves a case out.
SLOW = 3.0
#: Begins of the cases that a guest may fail, and why that is no harm.
OPTIONAL = {
    "nack without session": "without it a lost session is noticed by the host's silence",
    "wrong types": "no host sends them",
    "the vote messages": "a guest may take part in votes",
}
#: Seconds in which a first full report should have ended, and between two challenges for it.
REPORT_TIME = 10.0
REPORT_PACE = 0.2
#: Seconds that an audit of all checks gets.
AUDIT_TIME = 20.0
#: Seconds between two audits, the least that a guest must take and some more.
AUDIT_PACE = 1.2
#: Seconds within which a guest that was made busy must have been so and be so no more.
BUSY_TIME = 30.0


class Rule(NamedTuple):
    """One rule: its name, what group it is of, and how to try it."""

    name: str
    base: bool
    #: Why a guest may break it, or "".
    optional: str
    #: Seconds that it takes when all is well, about.
    seconds: float
    #: Whether the agent is stopped for it, and is not there afterwards.
    stops: bool
    play: Callable[[Player, Guest], None]


def load() -> List[Rule]:
    """Return all rules, in the order in which they are to be tried."""
    data = pkgutil.get_data(__package__, "guest.jsonl")
    assert data is not None, "the package was installed without its data"  # noqa: S101
    cases = [json.loads(line) for line in data.decode("utf-8").splitlines()]
    rules = [_of_case(case) for case in cases if _is_playable(case)]
    rules += [
        Rule("a session begins with a full report", False, "", 1.0, False, full_report),
        Rule("an audit has each check run once", False, "", 2.0, False, audit_of_all),
        Rule("an audit of no check there is says so", False, "", 2.0, False, audit_of_none),
        Rule("busy is told in each response until it is over", False, "", 2.0, False, busy),
    ]
    # Whoever has been stopped cannot be asked any more.
    return sorted(rules, key=lambda rule: (rule.stops, not rule.base))


def _of_case(case: Dict[str, Any]) -> Rule:
    group, _, name = case["case"].partition(": ")
    optional = [reason for begin, reason in OPTIONAL.items() if name.startswith(begin)]
    return Rule(
        name,
        group == "base",
        optional[0] if optional else "",
        _seconds(case["steps"]),
        any("stop" in step for step in case["steps"]),
        lambda player, guest: player.play(case),
    )


def _is_playable(case: Dict[str, Any]) -> bool:
    steps = case["steps"]
    return all(
        PLAYABLE & set(step) and not isinstance(step.get("expect", {}).get("vmhb"), dict)
        for step in steps
    )


def _seconds(steps: List[Dict[str, Any]]) -> float:
    """How long the player waits in a case: before what is expected, and while nothing is."""
    awaited = 0.0
    for before, step in zip(steps, steps[1:]):
        waits = "expect" in step or ("expect_none" in step and "port" not in before)
        if waits or "receive" in step.keys() & before.keys():
            awaited += step["at"] - before["at"]
    return awaited


def full_report(player: Player, guest: Guest) -> None:
    """Hold the first report of a session with `checks` to the protocol.

    Raises BrokenError, or NotRunError where this guest cannot show it now.
    """
    if "checks" not in guest.caps:
        raise NotRunError("the guest does not offer checks")
    agreed = {"caps": ["checks"], "interval_ms": 1000, "timeout_ms": 900, "max_line": MAX_LINE}
    player.establish(vmhb=agreed)
    give_up = time.monotonic() + REPORT_TIME
    names: List[str] = []
    rev = 0
    while time.monotonic() < give_up:
        report = player.challenge(_new_value()).get("vmhb", {})
        if "checks" in report:
            names += [check["name"] for check in report["checks"]]
            if report.get("rev", rev + 1) <= rev:
                raise BrokenError("rev above %d" % rev, "rev %d" % report["rev"])
            rev = report.get("rev", rev)
            if not report.get("more", False):
                break
        time.sleep(REPORT_PACE)
    else:
        if not names:
            raise BrokenError("a report, even an empty one", "none in %d s" % REPORT_TIME)
        raise NotRunError("the report is open after %d s: a check has had no result" % REPORT_TIME)
    _each_once(names)


def audit_of_all(player: Player, guest: Guest) -> None:
    """Hold the answer to an audit of all checks to the protocol."""
    _agree_to("audit", player, guest)
    parts = player.audit(_new_value(), "", AUDIT_TIME)
    outcomes = {part["outcome"] for part in parts}
    if not outcomes & {"done", "timeout"} or len(outcomes) > 1:
        raise BrokenError("outcome done or timeout", "outcome " + ", ".join(sorted(outcomes)))
    _each_once([check["name"] for part in parts for check in part.get("checks", [])])


def audit_of_none(player: Player, guest: Guest) -> None:
    """Ask for an audit of a check that cannot be there."""
    _agree_to("audit", player, guest)
    # Not sooner: a second audit within a second is refused.
    time.sleep(AUDIT_PACE)
    (part, *_) = player.audit(_new_value(), "no.such.check", AUDIT_TIME)
    if part["outcome"] != "unknown_check" or part.get("checks"):
        raise BrokenError(
            "outcome unknown_check, without checks",
            "outcome %s, %d checks" % (part["outcome"], len(part.get("checks", []))),
        )


def busy(player: Player, guest: Guest) -> None:
    """Follow a guest that was made busy from its first word of it to its last."""
    _agree_to("busy", player, guest)
    player.be_busy()
    give_up = time.monotonic() + BUSY_TIME
    left: List[int] = []
    while time.monotonic() < give_up:
        told = player.challenge(_new_value()).get("vmhb", {}).get("busy", {"for_ms": 0})
        if left and not told["for_ms"]:
            return
        if left and told["for_ms"] >= left[-1]:
            raise BrokenError("for_ms below %d" % left[-1], "for_ms %d" % told["for_ms"])
        if told["for_ms"]:
            left.append(told["for_ms"])
        time.sleep(REPORT_PACE)
    if not left:
        raise BrokenError("busy, as it was made to be", "none in %d s" % BUSY_TIME)
    raise NotRunError("the guest is still busy after %d s" % BUSY_TIME)


def _agree_to(cap: str, player: Player, guest: Guest) -> None:
    """Open a session with this capability; raise NotRunError for a guest without it."""
    if cap not in guest.caps:
        raise NotRunError("the guest does not offer %s" % cap)
    agreed = {"caps": [cap], "interval_ms": 1000, "timeout_ms": 900, "max_line": MAX_LINE}
    player.establish(vmhb=agreed)


def _each_once(names: List[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BrokenError("each check once", "twice: " + ", ".join(twice))


def _new_value() -> int:
    return random.randint(1, 2**31 - 1)  # noqa: S311 - a test of conformance keeps no secret
