# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.config import ConfigError, read_settings
from collectd_vmhb.policy import policy_for
from collectd_vmhb.settings import EvidenceText, FlavorPolicy, Mode, Settings, VmValues

#: A key and its values.
Line = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """Stands for collectd.Config."""

    key: str
    values: tuple[object, ...] = ()
    children: tuple[Node, ...] = ()


def read(*lines: Line) -> Settings:
    return read_settings(
        Node("Module", ("vmhb",), tuple(Node(key, tuple(values)) for key, *values in lines))
    )


def problems(*lines: Line) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*lines)
    return caught.value.problems


#: One valid line per key, none of them a default.
EVERY_KEY: dict[str, tuple[tuple[object, ...], object]] = {
    "LibvirtUri": (("test:///node.xml",), "test:///node.xml"),
    "Mode": (("Observe",), Mode.OBSERVE),
    "StateDir": (("/srv/vmhb",), Path("/srv/vmhb")),
    "ControlSocket": (("/srv/vmhb.sock",), Path("/srv/vmhb.sock")),
    "SocketPathMap": (("/var/lib/libvirt", "/mnt"), ((Path("/var/lib/libvirt"), Path("/mnt")),)),
    "ChannelName": (("a.b-c_0",), "a.b-c_0"),
    "ChannelsAllowed": (("cgcs.heartbeat", "a.b-c_0"), ("cgcs.heartbeat", "a.b-c_0")),
    "Interval": ((2.0,), 2.0),
    "IntervalMin": ((0.5,), 0.5),
    "IntervalMax": ((30.0,), 30.0),
    "Timeout": ((1.5,), 1.5),
    "TimeoutMin": ((0.2,), 0.2),
    "TimeoutMax": ((20.0,), 20.0),
    "MissThreshold": ((4.0,), 4),
    "MissThresholdMin": ((3.0,), 3),
    "MissThresholdMax": ((50.0,), 50),
    "RecoveryThreshold": ((2.0,), 2),
    "RecoveryThresholdMax": ((20.0,), 20),
    "GracePeriod": ((100.0,), 100.0),
    "GracePeriodMax": ((600.0,), 600.0),
    "GraceAfterReboot": ((60.0,), 60.0),
    "GraceAfterResume": ((0.0,), 0.0),
    "Required": ((True,), True),
    "HoldDown": ((10.0,), 10.0),
    "EvidenceText": (("Redacted",), EvidenceText.REDACTED),
    "AttachRate": ((0.5,), 0.5),
    "BusyMax": ((120.0,), 120.0),
    "AuditTimeout": ((60.0,), 60.0),
    "AuditPace": ((10.0,), 10.0),
    "AuditOnFault": ((False,), False),
    "Values": (("All",), VmValues.ALL),
    "PerfdataMax": ((4.0,), 4),
    "ReconcileInterval": ((15.0,), 15.0),
    "FlavorPolicy": (
        ("hb.*", "vmhb:enabled=true", "vmhb:interval=2"),
        (FlavorPolicy("hb.*", {"vmhb:enabled": "true", "vmhb:interval": "2"}),),
    ),
}


def field_of(key: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower()


def test_every_setting_can_be_configured() -> None:
    assert [field_of(key) for key in EVERY_KEY] == [
        field.name for field in dataclasses.fields(Settings)
    ]
    settings = read(*((key, *values) for key, (values, _) in EVERY_KEY.items()))
    for key, (_, expected) in EVERY_KEY.items():
        value = getattr(settings, field_of(key))
        assert value == expected
        assert type(value) is type(expected)
        assert value != getattr(Settings(), field_of(key))


def test_an_empty_block_means_the_defaults() -> None:
    assert read() == Settings()


def test_paths_are_mapped_line_by_line() -> None:
    pairs = [("/run/libvirt", "/host/run"), ("/var/lib/libvirt", "/host/lib")]
    settings = read(*(("SocketPathMap", *pair) for pair in pairs))
    assert settings.socket_path_map == tuple((Path(a), Path(b)) for a, b in pairs)


def test_a_path_is_mapped_once() -> None:
    lines = [("SocketPathMap", "/run", f"/host/{number}") for number in range(2)]
    assert problems(*lines) == [
        'SocketPathMap "/run" "/host/1": "/run" is given twice; keep one of the lines'
    ]


def test_every_line_of_a_map_that_is_wrong_is_told() -> None:
    lines = [("SocketPathMap", name, "/host") for name in ("run", "/run", "lib")]
    assert [text.partition(":")[0] for text in problems(*lines)] == [
        'SocketPathMap "run" "/host"',
        'SocketPathMap "lib" "/host"',
    ]


@pytest.mark.parametrize("key", ["interval", "INTERVAL", "Interval", "inTerVal"])
def test_keys_match_in_any_case(key: str) -> None:
    assert read((key, 2.0)).interval == 2.0


SECONDS = "an unquoted number of seconds from 0.01 to 3600 is allowed"
PORT_NAME = (
    "a port name of 1 to 64 letters, digits, dots, dashes or underscores, "
    "or serial:1 to serial:9, is allowed"
)
MODES = "one of observe, attach, report is allowed"
EVIDENCE_TEXTS = "one of none, redacted, full is allowed"

BAD_LINES: list[tuple[Line, str]] = [
    (("Intervall", 2.0), "Intervall 2: no such key; did you mean Interval?"),
    (("timoutmin", 2.0), "timoutmin 2: no such key; did you mean TimeoutMin?"),
    (("Colour", "red", True), 'Colour "red" true: no such key'),
    (("Interval", "2"), f'Interval "2": {SECONDS}'),
    (("Interval", True), f"Interval true: {SECONDS}"),
    (("Interval", 0.0), f"Interval 0: {SECONDS}"),
    (("Interval", float("nan")), f"Interval nan: {SECONDS}"),
    (("Interval", float("inf")), f"Interval inf: {SECONDS}"),
    (("Interval",), "Interval: exactly one value is allowed"),
    (("Interval", 1.0, 2.0), "Interval 1 2: exactly one value is allowed"),
    (("HoldDown", -1.0), "HoldDown -1: an unquoted number of seconds from 0 to 86400 is allowed"),
    (
        ("ReconcileInterval", 0.5),
        "ReconcileInterval 0.5: an unquoted number of seconds from 1 to 3600 is allowed",
    ),
    (
        ("AttachRate", 0.0),
        "AttachRate 0: an unquoted number per second from 0.01 to 1000 is allowed",
    ),
    (
        ("MissThreshold", 2.5),
        "MissThreshold 2.5: an unquoted whole number from 1 to 10000 is allowed",
    ),
    (
        ("RecoveryThreshold", 0.0),
        "RecoveryThreshold 0: an unquoted whole number from 1 to 10000 is allowed",
    ),
    (("Required", "true"), 'Required "true": true or false, unquoted, is allowed'),
    (("Mode", "shout"), f'Mode "shout": {MODES}'),
    (("Mode", 1.0), f"Mode 1: {MODES}"),
    (("EvidenceText", "some"), f'EvidenceText "some": {EVIDENCE_TEXTS}'),
    (("Values", "some"), 'Values "some": one of basic, all is allowed'),
    (("EvidenceText", True), f"EvidenceText true: {EVIDENCE_TEXTS}"),
    (("LibvirtUri", "qemu"), 'LibvirtUri "qemu": a libvirt URI such as qemu:///system is allowed'),
    (
        ("StateDir", "var/lib/vmhb"),
        'StateDir "var/lib/vmhb": an absolute path (one that begins with /) is allowed',
    ),
    (
        ("SocketPathMap", "/run/libvirt"),
        'SocketPathMap "/run/libvirt": exactly two values are allowed: from, and to',
    ),
    (
        ("SocketPathMap", "/run/libvirt", "host"),
        'SocketPathMap "/run/libvirt" "host": an absolute path (one that begins with /) is allowed',
    ),
    (("ChannelName", "serial:0"), f'ChannelName "serial:0": {PORT_NAME}'),
    (
        ("ControlSocket", "/run/" + "x" * 103),
        f'ControlSocket "/run/{"x" * 56}...": an absolute path of at most 107 bytes '
        f"(the kernel's limit) is allowed",
    ),
    (("ChannelName", "a/b"), f'ChannelName "a/b": {PORT_NAME}'),
    (("ChannelName", "a" * 65), f'ChannelName "{"a" * 61}...": {PORT_NAME}'),
    (("ChannelsAllowed", "a", ""), f'ChannelsAllowed "a" "": {PORT_NAME}'),
    *(
        (
            ("FlavorPolicy", *given),
            " ".join(("FlavorPolicy", *shown))
            + ': a pattern of flavor names and extra specs are allowed, such as "hb.*" '
            '"vmhb:enabled=true" "vmhb:interval=2"',
        )
        for given, shown in (((), ()), (("hb.*",), ('"hb.*"',)), ((1.0, "a=b"), ("1", '"a=b"')))
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:enabled"),
        'FlavorPolicy "hb" "vmhb:enabled": "vmhb:enabled" is no extra spec such as '
        '"vmhb:enabled=true"',
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:enabled=true", True),
        'FlavorPolicy "hb" "vmhb:enabled=true" true: true is no extra spec such as '
        '"vmhb:enabled=true"',
    ),
    (
        ("FlavorPolicy", "hb", "hw:cpu_policy=shared"),
        'FlavorPolicy "hb" "hw:cpu_policy=shared": "hw:cpu_policy": no such key',
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:enabled=true", "vmhb:enabled=false"),
        'FlavorPolicy "hb" "vmhb:enabled=true" "vmhb:enabled=false": one of the extra specs is '
        "given twice",
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:interval=2"),
        'FlavorPolicy "hb" "vmhb:interval=2": vmhb:enabled is missing: add vmhb:enabled=true, or '
        "=false to leave out",
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:enabled=true", "vmhb:intervall=2"),
        'FlavorPolicy "hb": vmhb:intervall="2": no such key; did you mean vmhb:interval?',
    ),
    (
        ("FlavorPolicy", "hb", "vmhb:enabled=true", "vmhb:interval=90"),
        'FlavorPolicy "hb": vmhb:interval="90": a number of seconds from 0.1 to 60 is allowed',
    ),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_told_with_what_is_allowed(line: Line, problem: str) -> None:
    assert problems(line) == [problem]


CONTRADICTIONS: list[tuple[list[Line], str]] = [
    ([("Timeout", 2.0)], "Timeout 2 is above Interval 1 (the default): change one of them"),
    (
        [("Interval", 2.0), ("Timeout", 2.5)],
        "Timeout 2.5 is above Interval 2: change one of them",
    ),
    (
        [("Interval", 0.05)],
        "IntervalMin 0.1 (the default) is above Interval 0.05: change one of them",
    ),
    (
        [("Interval", 90.0)],
        "Interval 90 is above IntervalMax 60 (the default): change one of them",
    ),
    (
        [("Timeout", 0.02)],
        "TimeoutMin 0.05 (the default) is above Timeout 0.02: change one of them",
    ),
    (
        [("Timeout", 0.8), ("TimeoutMax", 0.5)],
        "Timeout 0.8 is above TimeoutMax 0.5: change one of them",
    ),
    (
        [("IntervalMin", 0.02)],
        "TimeoutMin 0.05 (the default) is above IntervalMin 0.02: change one of them",
    ),
    (
        [("TimeoutMin", 0.09), ("TimeoutMax", 0.08)],
        "TimeoutMin 0.09 is above TimeoutMax 0.08: change one of them",
    ),
    (
        [("MissThreshold", 1.0)],
        "MissThresholdMin 2 (the default) is above MissThreshold 1: change one of them",
    ),
    (
        [("MissThresholdMax", 4.0)],
        "MissThreshold 5 (the default) is above MissThresholdMax 4: change one of them",
    ),
    (
        [("RecoveryThreshold", 101.0)],
        "RecoveryThreshold 101 is above RecoveryThresholdMax 100 (the default): change one of them",
    ),
    (
        [("GracePeriod", 4000.0)],
        "GracePeriod 4000 is above GracePeriodMax 3600 (the default): change one of them",
    ),
    (
        [("ChannelName", "mine")],
        'ChannelName "mine" is not among ChannelsAllowed "org.openstack.vmhb.0" "cgcs.heartbeat" '
        "(the default): add it there",
    ),
    (
        [("ChannelsAllowed", "cgcs.heartbeat")],
        'ChannelName "org.openstack.vmhb.0" (the default) is not among '
        'ChannelsAllowed "cgcs.heartbeat": add it there',
    ),
    ([("Interval", 2.0), ("INTERVAL", 3.0)], "INTERVAL 3: the key is given twice; keep one of "),
]


@pytest.mark.parametrize(("lines", "problem"), CONTRADICTIONS)
def test_lines_that_contradict_each_other_are_told(lines: list[Line], problem: str) -> None:
    (told,) = problems(*lines)
    assert told.startswith(problem)


def test_flavor_policies_are_kept_in_their_order_and_each_mistake_is_told() -> None:
    first, second = ("a*", "vmhb:enabled=no"), ("*", "sw:wrs:guest:heartbeat=true")
    settings = read(("FlavorPolicy", *first), ("flavorpolicy", *second))
    assert [each.pattern for each in settings.flavor_policy] == ["a*", "*"]
    told = problems(("FlavorPolicy", "x"), *(("FlavorPolicy", *line) for line in (first, second)))
    assert [text.split(":")[0] for text in told] == ['FlavorPolicy "x"']
    (told_again,) = problems(("FlavorPolicy", *first), ("FlavorPolicy", *first))
    assert '"a*" is given twice; keep one of the lines' in told_again


def test_flavor_policies_are_held_to_the_bounds_of_the_same_block() -> None:
    bounds = [("IntervalMin", 2.0), ("Interval", 4.0)]
    (told,) = problems(("FlavorPolicy", "hb", "vmhb:enabled=1", "vmhb:interval=1"), *bounds)
    assert "from 2 to 60" in told


@pytest.mark.parametrize(
    ("lowest", "value", "highest"),
    [
        ("IntervalMin", "Interval", "IntervalMax"),
        ("MissThresholdMin", "MissThreshold", "MissThresholdMax"),
    ],
)
def test_bounds_in_the_wrong_order_are_told(lowest: str, value: str, highest: str) -> None:
    told = problems((lowest, 9.0), (value, 9.0), (highest, 8.0))
    assert f"{lowest} 9 is above {highest} 8: change one of them" in told


def test_a_block_within_the_block_is_refused() -> None:
    block = Node("Interval", ("x",), (Node("Vm", (1.0,)),))
    with pytest.raises(ConfigError) as caught:
        read_settings(Node("Module", ("vmhb",), (block,)))
    assert caught.value.problems == [
        '<Interval "x">: no block is allowed inside the vmhb block',
    ]


def test_every_mistake_is_told_at_once() -> None:
    told = problems(("Interval", "x"), ("Nonsense", 1.0), ("GracePeriod", 4000.0), ("Mode", 3.0))
    assert [text.split()[0] for text in told] == ["Interval", "Nonsense", "Mode", "GracePeriod"]


def test_a_refused_value_is_not_blamed_for_a_contradiction_as_well() -> None:
    assert problems(("Interval", "x"), ("Timeout", 2.0)) == [f'Interval "x": {SECONDS}']
    assert problems(("ChannelsAllowed", "a b"), ("ChannelName", "mine")) == [
        f'ChannelsAllowed "a b": {PORT_NAME}'
    ]


def test_a_message_cannot_forge_a_log_line() -> None:
    (told,) = problems(("Mode", "x\nERROR: all is lost"))
    assert told == f'Mode "x?ERROR: all is lost": {MODES}'


values = st.one_of(
    st.floats(),
    st.floats(0.01, 200.0),
    st.integers(1, 200).map(float),
    st.booleans(),
    st.text(max_size=70),
    st.sampled_from(["cgcs.heartbeat", "org.openstack.vmhb.0", "/var/lib", "report"]),
)
keys = st.sampled_from([*EVERY_KEY]) | st.text()
plain_lines = st.builds(Node, keys, st.lists(values, max_size=3).map(tuple))
blocks = st.builds(Node, keys, st.just(()), st.lists(plain_lines, max_size=2).map(tuple))


@given(st.lists(plain_lines | blocks, max_size=6))
def test_any_block_gives_usable_settings_or_printable_problems(lines: list[Node]) -> None:
    told = []
    try:
        settings = read_settings(Node("Module", ("vmhb",), tuple(lines)))
    except ConfigError as error:
        told = error.problems
    assert all(problem.isprintable() for problem in told)
    assert told or policy_for({"vmhb:enabled": "true"}, settings).problems == ()


@st.composite
def numeric_lines(draw: st.DrawFn) -> list[Line]:
    numeric = [key for key, (line, _) in EVERY_KEY.items() if type(line[0]) is float]
    chosen = draw(st.lists(st.sampled_from(numeric), unique=True, max_size=4))
    return [(key, float(draw(st.integers(1, 120)))) for key in chosen]


@given(numeric_lines(), st.sampled_from(["0", "0.1", "1", "7", "1000", "x"]))
def test_accepted_settings_leave_room_for_every_policy(lines: list[Line], wanted: str) -> None:
    try:
        settings = read(*lines)
    except ConfigError:
        return
    specs = {"vmhb:enabled": "yes", "vmhb:interval": wanted, "vmhb:timeout": wanted}
    policy = policy_for(specs, settings).policy
    assert policy is not None
    assert settings.interval_min <= policy.interval <= settings.interval_max
    assert settings.timeout_min <= policy.timeout <= min(settings.timeout_max, policy.interval)
