# SPDX-License-Identifier: Apache-2.0
"""Reports of one guest put together: parts, changes, and the health bit of other guests."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.checks import CHECKS_MAX, SESSIONLESS_ANSWERS, Checks
from collectd_vmhb.protocol import Answered, Check, CheckReport, CheckStatus, Match
from collectd_vmhb.verdict import Severity

STATUS = st.sampled_from(CheckStatus)


def check(name: str, status: CheckStatus) -> Check:
    return Check(name, status, "", "", 0.0, 0.0)


def answer(*checks: Check, more: bool = False) -> Answered:
    return Answered(Match.CURRENT, True, "", CheckReport(checks, more), True)


def bit(healthy: bool) -> Answered:
    return Answered(Match.CURRENT, healthy, "", None, True)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), STATUS, max_size=20), st.data())
def test_a_report_means_the_same_however_it_is_cut(
    stand: dict[str, CheckStatus], data: st.DataObject
) -> None:
    all_checks = [check(name, status) for name, status in stand.items()]
    checks = Checks()
    checks.opened(named=True)
    checks.take(answer(check("gone", CheckStatus.CRITICAL), more=True), in_session=True)
    checks.opened(named=True)
    while len(all_checks) > 1:
        cut = data.draw(st.integers(1, len(all_checks) - 1))
        checks.take(answer(*all_checks[:cut], more=True), in_session=True)
        assert not checks.known
        all_checks = all_checks[cut:]
    checks.take(answer(*all_checks), in_session=True)
    assert checks.known
    assert {each.name: each.status for each in checks.results.values()} == stand
    assert checks.sick is (CheckStatus.CRITICAL in stand.values())
    assert len(checks.faults) == sum(status is not CheckStatus.OK for status in stand.values())


def test_after_the_full_report_only_what_changed_is_told() -> None:
    checks = Checks()
    checks.opened(named=True)
    both = check("app", CheckStatus.OK), check("disk", CheckStatus.UNKNOWN)
    checks.take(answer(*both), in_session=True)
    checks.take(answer(check("app", CheckStatus.CRITICAL)), in_session=True)
    assert checks.faults == {"check.app": Severity.FAILURE, "check.disk": Severity.WARNING}
    assert checks.of_fault("check.app").status is CheckStatus.CRITICAL


def test_no_guest_can_have_more_checks_than_there_is_room_for() -> None:
    checks = Checks()
    checks.opened(named=True)
    for part in range(10):
        named = [check(f"c{part}-{number}", CheckStatus.CRITICAL) for number in range(CHECKS_MAX)]
        checks.take(answer(*named, more=part < 9), in_session=True)
    assert len(checks.results) == len(checks.faults) == CHECKS_MAX


def test_the_health_bit_counts_in_a_session_or_of_a_guest_that_wants_none() -> None:
    checks = Checks()
    for number in range(SESSIONLESS_ANSWERS):
        assert not checks.known, number
        checks.take(bit(healthy=False), in_session=False)
    assert checks.faults == {"check.health": Severity.FAILURE}
    checks.take(bit(healthy=True), in_session=True)
    assert checks.faults == {}
    checks.opened(named=True)
    checks.take(bit(healthy=False), in_session=True)
    assert checks.faults == {}, "named checks count, and the bit does not"


def test_a_burst_of_late_answers_is_no_reason_to_take_the_health_bit_for_all_there_is() -> None:
    checks = Checks()
    for _ in range(2 * SESSIONLESS_ANSWERS):
        checks.take(replace(bit(healthy=False), match=Match.LATE), in_session=False)
    assert not checks.known
    assert checks.faults == {}
