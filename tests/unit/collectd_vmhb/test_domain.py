# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, Instance, parse_domain

GOLDEN = Path(__file__).parents[2] / "fixtures" / "domain-xml"
UUID = "3279e608-ae7b-463a-aa51-cdd91b2922e2"
AGENT_PATH = "/var/lib/libvirt/qemu/org.qemu.guest_agent.0.instance-0000000{}.sock"
ESCAPED = {"vmhb:enabled": "true", "vmhb:interval": "1", "vmhb:note": 'a<b&"c"'}

EXTRA_SPECS_BY_RELEASE = {
    "nova-25.3.0.xml": None,
    "nova-26.3.0.xml": None,
    "nova-27.5.1.xml": None,
    "nova-29.4.0.xml": None,
    "nova-31.3.1.xml": None,
    "nova-32.2.1.xml": ESCAPED,
    "nova-33.0.2.xml": ESCAPED,
    "nova-34.0.0.xml": ESCAPED,
}


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def domain_xml(devices: str = "", metadata: str = "") -> str:
    return (
        f"<domain type='kvm' id='7'><name>vm</name><uuid>{UUID}</uuid>"
        f"<metadata>{metadata}</metadata><devices>{devices}</devices></domain>"
    )


NO_PATH = "a unix socket without a path"


def nova_metadata(flavor: str, version: str = "1.1") -> str:
    return (
        f"<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/{version}'>"
        f"<nova:name>hb1</nova:name>{flavor}"
        "<nova:owner><nova:project uuid='p1'>demo</nova:project></nova:owner></nova:instance>"
    )


def parse(xml: str) -> Domain:
    return parse_domain(xml, DomainState.RUNNING, 7)


def test_every_golden_file_is_expected_of_something() -> None:
    files = {path.name for path in GOLDEN.glob("*.xml")}
    assert files == {*EXTRA_SPECS_BY_RELEASE, "nova-34.0.0-live.xml"}


@pytest.mark.parametrize(("file", "extra_specs"), EXTRA_SPECS_BY_RELEASE.items())
def test_each_nova_release_is_understood(file: str, extra_specs: dict[str, str] | None) -> None:
    domain = parse(golden(file))
    assert (domain.uuid, domain.name) == (UUID, "instance-00000001")
    assert domain.instance == Instance("hb1", "fake", "m1.vmhb", extra_specs)
    assert domain.channels == (
        ChannelDevice("org.qemu.guest_agent.0", AGENT_PATH.format(1)),
        ChannelDevice("serial:0", None, "a pty"),
    )


def test_a_running_guest_of_a_real_nova_is_understood() -> None:
    domain = parse(golden("nova-34.0.0-live.xml"))
    assert domain.instance == Instance(
        "hb1",
        "3a860f8e599440c4a4b9bd07363d4f24",
        "m1.vmhb",
        {"vmhb:enabled": "true", "vmhb:interval": "1", "hw_rng:allowed": "false"},
    )
    assert domain.channels == (
        ChannelDevice("org.qemu.guest_agent.0", AGENT_PATH.format(3), guest_open=False),
        ChannelDevice("serial:0", None, "a pty"),
    )
    assert domain.has_virtio_serial


def test_what_libvirt_said_beside_the_xml_is_kept() -> None:
    domain = parse_domain(domain_xml(), DomainState.SHUT_OFF, None)
    assert (domain.state, domain.domain_id) == (DomainState.SHUT_OFF, None)


def test_a_domain_that_nova_did_not_make_has_no_instance() -> None:
    other = "<app:instance xmlns:app='http://example.org/app'><app:name>x</app:name></app:instance>"
    assert parse(domain_xml(metadata=other)).instance is None
    assert parse(domain_xml()).instance is None


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("extra_specs_element", "expected"),
    [
        ("", None),
        ("<nova:extraSpecs/>", {}),
        ("<nova:extraSpecs><nova:extraSpec name='a:b'/></nova:extraSpecs>", {"a:b": ""}),
        ("<nova:extraSpecs><nova:extraSpec>v</nova:extraSpec></nova:extraSpecs>", {}),
    ],
    ids=["unknown", "none", "empty value", "nameless"],
)
def test_unknown_extra_specs_differ_from_no_extra_specs(
    version: str, extra_specs_element: str, expected: dict[str, str] | None
) -> None:
    flavor = f"<nova:flavor name='m1'>{extra_specs_element}</nova:flavor>"
    domain = parse(domain_xml(metadata=nova_metadata(flavor, version)))
    assert domain.instance == Instance("hb1", "p1", "m1", expected)


def test_a_silent_nova_leaves_empty_words() -> None:
    bare = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/>"
    assert parse(domain_xml(metadata=bare)).instance == Instance("", "", "", None)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (
            "<channel type='unix'><source mode='bind' path='/s'/>"
            "<target type='virtio' name='a' state='connected'/></channel>",
            (ChannelDevice("a", "/s", guest_open=True),),
        ),
        (
            "<channel type='unix'><source mode='bind' path='/s'/>"
            "<target type='virtio' name='a' state='disconnected'/></channel>",
            (ChannelDevice("a", "/s", guest_open=False),),
        ),
        (
            "<channel type='unix'><target type='virtio' name='a'/></channel>",
            (ChannelDevice("a", None, NO_PATH),),
        ),
        (
            "<channel type='unix'><source path=''/><target type='virtio' name='a'/></channel>",
            (ChannelDevice("a", None, NO_PATH),),
        ),
        (
            "<channel type='pty'><source path='/dev/pts/3'/>"
            "<target type='virtio' name='a'/></channel>",
            (ChannelDevice("a", None, "a pty"),),
        ),
        (
            "<channel type='unix'><source mode='connect' path='/s'/>"
            "<target type='virtio' name='a'/></channel>",
            (ChannelDevice("a", None, "a unix socket that QEMU itself connects"),),
        ),
        (
            "<channel type='spicevmc'><target type='virtio' name='a'/></channel>",
            (ChannelDevice("a", None, "a spicevmc"),),
        ),
        (
            "<channel type='unix'><source path='/s'/><target type='guestfwd' name='a'/></channel>",
            (),
        ),
        ("<channel type='unix'><source path='/s'/><target type='virtio'/></channel>", ()),
        ("<channel type='unix'/>", ()),
    ],
    ids=[
        "open",
        "closed",
        "no source",
        "no path",
        "pty",
        "QEMU connects",
        "spice",
        "guestfwd",
        "nameless",
        "no target",
    ],
)
def test_channels_are_virtio_ports_with_a_name(
    channel: str, expected: tuple[ChannelDevice, ...]
) -> None:
    assert parse(domain_xml(devices=channel)).channels == expected


def serial(kind: str, source: str, protocol: str = "", port: str = "port='1'") -> str:
    return (
        f"<serial type='{kind}'><source {source}/>{protocol}<log file='/console.log'/>"
        f"<target type='isa-serial' {port}><model name='isa-serial'/></target></serial>"
    )


TCP = "mode='bind' host='127.0.0.1' service='10001'"
RAW, TELNET = "<protocol type='raw'/>", "<protocol type='telnet'/>"


@pytest.mark.parametrize(
    ("device", "address", "host_end"),
    [
        (serial("unix", "mode='bind' path='/s'"), "/s", "a unix socket"),
        (serial("tcp", TCP, RAW), ("127.0.0.1", 10001), "a TCP socket"),
        (serial("tcp", TCP), ("127.0.0.1", 10001), "a TCP socket"),
        (serial("tcp", "mode='bind' host='::1' service='9'"), ("::1", 9), "a TCP socket"),
        (serial("tcp", TCP, TELNET), None, "a TCP socket that speaks telnet"),
        (serial("tcp", TCP + " tls='yes'", RAW), None, "a TCP socket with TLS"),
        (
            serial("tcp", "mode='bind' host='node-1' service='10001'", RAW),
            None,
            "a TCP socket at node-1:10001, which is no number",
        ),
        (
            serial("tcp", "mode='connect' host='127.0.0.1' service='10001'", RAW),
            None,
            "a tcp socket that QEMU itself connects",
        ),
        (serial("pty", "path='/dev/pts/3'"), None, "a pty"),
    ],
)
def test_a_serial_port_is_a_channel_named_by_its_number(
    device: str, address: object, host_end: str
) -> None:
    console = serial("pty", "path='/dev/pts/1'", port="port='0'")
    channels = parse(domain_xml(devices=console + device)).channels
    assert channels == (
        ChannelDevice("serial:0", None, "a pty"),
        ChannelDevice("serial:1", address, host_end),  # type: ignore[arg-type]
    )


def test_serial_ports_without_a_number_are_counted() -> None:
    devices = (
        serial("unix", "path='/a'", port="") + "<serial type='unix'><source path='/b'/></serial>"
    )
    assert [(port.name, port.address) for port in parse(domain_xml(devices=devices)).channels] == [
        ("serial:0", "/a"),
        ("serial:1", "/b"),
    ]


def test_a_guest_has_a_port_open_or_not_or_nobody_can_tell() -> None:
    devices = "".join(
        f"<channel type='unix'><target type='virtio' name='{name}'{state}/></channel>"
        for name, state in [("a", " state='connected'"), ("b", " state='disconnected'"), ("c", "")]
    )
    domain = parse(domain_xml(devices=devices))
    assert [domain.guest_has_open(name) for name in "abcd"] == [True, False, None, None]


def test_channels_keep_their_order() -> None:
    channels = "".join(
        f"<channel type='unix'><target type='virtio' name='{name}'/></channel>" for name in "cab"
    )
    assert [channel.name for channel in parse(domain_xml(devices=channels)).channels] == [*"cab"]


@pytest.mark.parametrize(
    ("controllers", "expected"),
    [
        ("", False),
        ("<controller type='usb' index='0'/><controller type='pci' index='0'/>", False),
        ("<controller type='usb' index='0'/><controller type='virtio-serial' index='0'/>", True),
    ],
)
def test_a_virtio_serial_controller_is_noticed(controllers: str, expected: bool) -> None:
    assert parse(domain_xml(devices=controllers)).has_virtio_serial is expected


BILLION = (
    "<!DOCTYPE lolz [<!ENTITY a 'lol'><!ENTITY b '&a;&a;&a;'>]>"
    "<domain><name>&b;</name><uuid>u</uuid></domain>"
)


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        ("", "malformed: no element found"),
        ("<domain>", "malformed: no element found"),
        ("<domain><name>vm</name></domain>", "has no <uuid>"),
        (f"<domain><uuid>{UUID}</uuid></domain>", "has no <name>"),
        (f"<domain><name> </name><uuid>{UUID}</uuid></domain>", "has no <name>"),
        ("<network><name>net</name></network>", "outermost element is <network>"),
        (BILLION, "DOCTYPE"),
        ("<?xml version='1.0'?>\n" + BILLION, "DOCTYPE"),
        ("<!DOCTYPE domain SYSTEM 'file:///etc/hosts'>" + domain_xml(), "DOCTYPE"),
    ],
)
def test_unusable_xml_is_refused_with_a_reason(xml: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(xml)


@given(st.text() | st.text(alphabet="<>/domainuame&;!'= "))
def test_garbage_raises_value_error_and_nothing_else(xml: str) -> None:
    with pytest.raises(ValueError, match=r"domain|surrogates"):
        parse(xml)
