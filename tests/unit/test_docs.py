# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: its tables are compared, its links are followed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb import (
    audits,
    channel,
    checks,
    conduct,
    config,
    detector,
    evidence,
    monitor,
    policy,
    publish,
    verdict,
)
from collectd_vmhb.engine import Engine
from collectd_vmhb.protocol import lines, messages, session
from collectd_vmhb.settings import EvidenceText, Mode, Settings
from collectd_vmhb.state import State
from collectd_vmhb.verdict import Health

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") or part == "build" for part in page.relative_to(ROOT).parts)
]


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without heads, rules and the marks of code."""
    tables = re.findall(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for table in tables
        for line in table.splitlines()
    ]


def drawn(transitions: Mapping[Any, Mapping[Any, Any]], heads: Mapping[Any, str]) -> str:
    """A transition table as Markdown: "-" where nothing changes. Paste it when a test fails."""
    lines = ["| | " + " | ".join(heads.values()) + " |", "|---" * (len(heads) + 1) + "|"]
    for before, row in transitions.items():
        after = ["-" if row[head] is before else word_of(row[head]) for head in heads]
        lines.append(f"| {word_of(before)} | " + " | ".join(after) + " |")
    return "\n".join(lines) + "\n"


def word_of(member: Any) -> str:
    return str(member.value) if isinstance(member, Enum) else str(member)


def written(value: object) -> str:
    """A setting as the tables write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(value)
    return word_of(value)


# -- the stanza and the policy --------------------------------------------------------------


def test_every_key_of_the_stanza_is_described_with_its_default() -> None:
    described = {row[0]: row[1] for row in rows(section(OPERATIONS, "The stanza"))}
    defaults = {
        key: written(getattr(Settings(), option.field)) for key, option in config._OPTIONS.items()
    }
    assert described.pop("Timeout") == "0.9 of the interval"
    assert defaults.pop("Timeout") == "None"
    assert policy._DEFAULT_TIMEOUT_SHARE == 0.9
    assert described == defaults


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        (row[0], *map(float, found.groups()))
        for row in rows(section(OPERATIONS, "The stanza"))
        if (found := re.match(r"([\d.]+) to ([\d.]+)(?: |$)(?!of)", row[2]))
    ],
)
def test_a_number_of_the_stanza_has_the_bounds_described(key: str, low: float, high: float) -> None:
    option = config._OPTIONS[key]
    assert (option.read((low,)), option.read((high,))) == (low, high)
    for outside in (low - 0.001, high + 1.0):
        with pytest.raises(ValueError, match="is allowed"):
            option.read((outside,))


def test_every_mode_is_described() -> None:
    for mode in Mode:
        assert f"`{mode.value}`" in section(OPERATIONS, "Rollout")


def test_every_policy_key_is_described_with_where_its_default_comes_from() -> None:
    described = {row[0]: row[2] for row in rows(section(OPERATIONS, "Policy of a VM"))}
    assert described == {
        "vmhb:enabled": "false",
        "sw:wrs:guest:heartbeat": "false",
        "vmhb:interval": "Interval",
        "vmhb:timeout": "Timeout",
        "vmhb:miss_threshold": "MissThreshold",
        "vmhb:recovery_threshold": "RecoveryThreshold",
        "vmhb:grace_period": "GracePeriod",
        "vmhb:required": "Required",
        "vmhb:channel": "ChannelName",
    }
    assert set(described) == {*policy.KEYS, policy._ENABLED_ALIAS}


# -- what is said about a VM ----------------------------------------------------------------


def test_every_fault_is_described() -> None:
    faults = {
        value
        for name, value in vars(verdict).items()
        if name.isupper() and isinstance(value, str) and name != "CHECK_PREFIX"
    }
    described = {row[0] for row in rows(section(OPERATIONS, "Faults"))}
    assert described == faults | {verdict.CHECK_PREFIX + "NAME"}


def test_every_reading_and_every_way_to_treat_a_guests_text_is_described() -> None:
    described = {row[0] for row in rows(section(OPERATIONS, "Evidence"))}
    assert described >= {reading.value for reading in evidence.Reading}
    assert described >= {text.value for text in EvidenceText}


def test_a_lost_heartbeat_carries_what_is_described() -> None:
    fault = verdict.FaultRaised("vm", verdict.HEARTBEAT_LOST, verdict.Severity.FAILURE, "", 0, "")
    finding = evidence.Finding(evidence.Reading.HUNG, "")
    fault = replace(fault, guest_text="words")
    exchanges = evidence.of_exchanges([(0.0, 0.1)], 1.0)
    carried = evidence.attach(fault, exchanges, "", finding, EvidenceText.FULL).details
    described = {row[0] for row in rows(section(OPERATIONS, "Evidence"))}
    assert described >= carried.keys()


def test_every_health_is_described_with_its_value() -> None:
    described = {row[0]: row[1] for row in rows(section(OPERATIONS, "Health")) if len(row) == 3}
    numbers = {health.value: str(publish.HEALTH_NUMBER[health]) for health in Health}
    assert described == numbers


def test_the_transitions_of_the_health_are_those_of_the_detector() -> None:
    heads = {signal: signal.value for signal in detector.Signal}
    assert drawn(detector.TRANSITIONS, heads) in section(OPERATIONS, "Health")


def test_every_value_is_described() -> None:
    class Nobody:
        def scan(self) -> None: ...
        def look(self, uuid: str) -> None: ...
        def measure(self, uuid: str) -> None: ...
        def attach(self, uuid: str, channel: str) -> None: ...
        def detach(self, uuid: str, channel: str, path: str) -> None: ...

    engine = Engine(Settings(), State(), lambda number, state: None, lambda note: None)
    samples = engine.desk.samples()
    engine.stop()
    engine.run(Nobody())
    engine._waker.close()
    counters = dict.fromkeys(monitor.Counters.__dataclass_fields__, 0)
    figures = {"perf.CHECK.LABEL": 1.0}
    samples += publish.vm_samples("uuid", Health.HEALTHY, 0.1, counters, figures=figures)
    of_vm, of_engine = section(OPERATIONS, "Values").split("For the engine,")
    for text, instance in ((of_vm, "uuid"), (of_engine, "")):
        described = {(row[0], row[1]) for row in rows(text)}
        published = {(s.type, s.type_instance) for s in samples if s.plugin_instance == instance}
        assert described == published


# -- the wire -------------------------------------------------------------------------------


def test_the_transitions_of_a_session_are_those_of_the_code() -> None:
    heads = {
        messages.Init: "`init`",
        messages.ChallengeResponse: "`challenge_response`",
        messages.AuditResult: "`audit_result`",
        messages.Exit: "`exit`",
        messages.Unsupported: "any other",
    }
    assert drawn(session.TRANSITIONS, heads) in section(PROTOCOL, "States of the host")


def test_the_limits_of_the_wire_are_those_of_the_code() -> None:
    described = {row[0]: row[1] for row in rows(section(PROTOCOL, "Limits"))}
    limits = {
        "BASE_MAX_LINE": lines.BASE_MAX_LINE,
        "MAX_LINE": lines.MAX_LINE,
        "READ_MAX": channel.READ_MAX,
        "LINES_MAX": session.LINES_MAX,
        "CHALLENGE_MAX": messages.CHALLENGE_MAX,
        "NACK_TEXT_MAX": messages.NACK_TEXT_MAX,
        "CHECKS_MAX": messages.CHECKS_MAX,
        "TEXT_MAX": messages.TEXT_MAX,
        "PERFDATA_MAX": messages.PERFDATA_MAX,
        "TEXTS_MAX": checks.TEXTS_MAX,
        "AUDIT_TEXTS_MAX": audits.AUDIT_TEXTS_MAX,
        "AGE_MAX_MS": messages.AGE_MAX_MS,
        "REASON_MAX": messages.REASON_MAX,
        "TIMEOUT_MAX": audits.TIMEOUT_MAX,
        "SLACK": audits.SLACK,
        "REMEMBERED": session.REMEMBERED,
        "NACKS_MAX": session.NACKS_MAX,
        "MESSAGES_PER_SECOND": conduct.MESSAGES_PER_SECOND,
        "BYTES_PER_SECOND": conduct.BYTES_PER_SECOND,
        "BURST_SECONDS": conduct.BURST_SECONDS,
        "NEWS_PER_SECOND": conduct.NEWS_PER_SECOND,
        "TOLD_MAX": conduct.TOLD_MAX,
        "UNANSWERED_MAX": monitor.UNANSWERED_MAX,
        "UNSENT_MAX": channel.UNSENT_MAX,
        "BASE_PERIOD_MAX": monitor.BASE_PERIOD_MAX,
        "PROBE_DELAY": monitor.PROBE_DELAY,
        "FIRST_ANSWER": monitor.FIRST_ANSWER,
        "MUTE": monitor.MUTE,
    }
    assert described == {name: f"{value:.16g}" for name, value in limits.items()}


def test_what_the_published_client_imposes_is_tried_where_the_page_says() -> None:
    rules = rows(section(PROTOCOL, "What the published client imposes"))
    assert [row[0] for row in rules] == [str(number) for number in range(1, 13)]
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    cases = (ROOT / "tests/vectors/host.jsonl").read_text("utf-8")
    for number, _, _, tried in rules:
        names = re.findall(r"test_\w+", tried)
        titles = re.findall(r'"([^"]+)"', tried)
        assert names or titles, number
        assert all(f"def {name}(" in tests for name in names), (number, names)
        assert all(f'"case": "{title}"' in cases for title in titles), (number, titles)


# -- links ----------------------------------------------------------------------------------


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                yield page, target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("page", "target"), [(page.relative_to(ROOT), target) for page, target in links()], ids=str
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = (ROOT / page).parent / path if path else ROOT / page
    assert there.exists()
    assert not anchor or anchor in anchors(there)


def test_what_the_code_says_of_the_documentation_is_there() -> None:
    code = [path for part in ("collectd_vmhb", "guest") for path in (ROOT / part).rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in code)
    sections = set(re.findall(r"docs/(\w+\.md), ([A-Z]\w+)", text))
    records = set(re.findall(r"docs/adr/(\d{4})", text))
    assert sections
    assert records
    for page, title in sections:
        assert section((ROOT / "docs" / page).read_text("utf-8"), title)
    for record in records:
        assert list((ROOT / "docs" / "adr").glob(f"{record}-*.md"))
