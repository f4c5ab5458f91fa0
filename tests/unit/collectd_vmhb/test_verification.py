# SPDX-License-Identifier: Apache-2.0
"""Synthetic faults: each ends by itself, and says that nothing is wrong."""

from __future__ import annotations

from collectd_vmhb.verdict import Severity
from collectd_vmhb.verification import Verifications, synthetic_fault


def test_a_verification_is_over_in_time_or_when_it_is_ended() -> None:
    verifications = Verifications()
    assert verifications.deadline is None
    verifications.begin("vm", 20.0)
    verifications.begin("", 10.0)
    assert verifications.deadline == 10.0
    assert verifications.due(9.9) == []
    assert verifications.due(10.0) == [""]
    verifications.end("")
    verifications.begin("vm", 30.0)
    assert verifications.due(29.9) == []
    assert verifications.due(30.0) == ["vm"]


def test_the_fault_alarms_nobody() -> None:
    fault = synthetic_fault("vm", 5.0)
    assert fault.severity is Severity.WARNING
    assert "nothing is wrong" in fault.text
