# SPDX-License-Identifier: Apache-2.0
"""One libvirt domain as the engine sees it, read from its live XML."""

from __future__ import annotations

import enum
import functools
import ipaddress
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Union
from xml.etree import ElementTree


@enum.unique
class DomainState(enum.Enum):
    """What libvirt says the domain does, as far as monitoring cares."""

    RUNNING = "running"
    #: Suspended by somebody: by Nova's pause, for a snapshot, while migrating.
    PAUSED = "paused"
    #: Stopped by a failure, such as an I/O error or a panic: its silence is not planned.
    BROKEN = "stopped by a failure"
    #: On its way down, by its own will.
    SHUTTING_DOWN = "shutting down"
    SHUT_OFF = "shut off"


#: Where QEMU listens: the path of a unix socket, or a numeric host and a TCP port.
Address = Union[str, tuple[str, int]]
#: What the name of a serial port begins with; its number follows.
SERIAL = "serial:"


@dataclass(frozen=True)
class ChannelDevice:
    """A port into the guest: a virtio-serial channel, or a serial port named ``serial:N``.

    ``address`` is its host end, or None where that is nothing to connect to; ``host_end`` says
    what it is, for people. ``guest_open``: a process in the guest has the port open, None where
    libvirt does not say.
    """

    name: str
    address: Address | None
    host_end: str = "a unix socket"
    guest_open: bool | None = None


@dataclass(frozen=True)
class Instance:
    """What Nova wrote about the instance into the domain's metadata; "" where it is silent.

    ``name`` is the one its user gave it, ``project`` the project's id.
    """

    __slots__ = ("extra_specs", "flavor", "name", "project")

    name: str
    project: str
    flavor: str
    #: None: this Nova does not say (before release 32). Empty: the flavor has none.
    extra_specs: Mapping[str, str] | None


@dataclass(frozen=True)
class Domain:
    """A domain: who it is, what it does, and the channels into it.

    ``domain_id`` is libvirt's number of this run of the domain (it changes with every start,
    restore and migration), or None when it does not run. ``carried``: the guest did not boot in
    this run, but ran before and was migrated or restored.
    """

    uuid: str
    name: str
    domain_id: int | None
    state: DomainState
    instance: Instance | None
    channels: tuple[ChannelDevice, ...]
    has_virtio_serial: bool
    carried: bool = False

    @property
    def project(self) -> str:
        """The id of the project that owns the VM, "" if Nova did not make it."""
        return self.instance.project if self.instance else ""

    def guest_has_open(self, channel: str) -> bool | None:
        """True if a process in the guest has that port open; None if nobody can tell."""
        found = (device.guest_open for device in self.channels if device.name == channel)
        return next(found, None)


#: The words of a channel's ``state``, which libvirt gives once the guest has opened the port.
_OPEN = {"connected": True, "disconnected": False}
#: Namespaces of Nova's metadata, the newest first; 1.0 is what releases up to Ussuri write.
_NOVA_NAMESPACES = (
    "{http://openstack.org/xmlns/libvirt/nova/1.1}",
    "{http://openstack.org/xmlns/libvirt/nova/1.0}",
)


def parse_domain(
    xml: str, state: DomainState, domain_id: int | None, carried: bool = False
) -> Domain:
    """Read a domain's live XML.

    Raises ValueError saying what is missing or wrong.
    """
    root = _root(xml)
    return Domain(
        uuid=_required_text(root, "uuid"),
        name=_required_text(root, "name"),
        domain_id=domain_id,
        state=state,
        instance=_instance(root),
        channels=tuple(_channels(root)),
        has_virtio_serial=root.find("devices/controller[@type='virtio-serial']") is not None,
        carried=carried,
    )


def _root(xml: str) -> ElementTree.Element:
    # Metadata is written by whoever has rights on the libvirt socket. Entities are what makes
    # XML dangerous; libvirt never writes any, so nothing is lost by refusing them.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError("domain XML has a DOCTYPE or an ENTITY, which libvirt never writes")
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - entities are refused above
    except ElementTree.ParseError as error:
        raise ValueError(f"domain XML is malformed: {error}") from error
    if root.tag != "domain":
        raise ValueError(f"not a domain: the outermost element is <{root.tag}>")
    return root


def _required_text(root: ElementTree.Element, tag: str) -> str:
    text = _text(root, tag)
    if not text:
        raise ValueError(f"domain XML has no <{tag}>")
    return text


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _channels(root: ElementTree.Element) -> Iterator[ChannelDevice]:
    for channel in root.iterfind("devices/channel"):
        target = channel.find("target[@type='virtio']")
        if target is not None and target.get("name"):
            guest_open = _OPEN.get(target.get("state", ""))
            yield ChannelDevice(sys.intern(target.get("name", "")), *_host_end(channel), guest_open)
    for order, serial in enumerate(root.iterfind("devices/serial")):
        target = serial.find("target")
        number = None if target is None else target.get("port")
        yield ChannelDevice(f"{SERIAL}{number or order}", *_host_end(serial))


def _host_end(device: ElementTree.Element) -> tuple[Address | None, str]:
    """Returns where QEMU listens for this device, if it does, and what is there in words."""
    kind = device.get("type", "")
    source, protocol = device.find("source"), device.find("protocol")
    given = {} if source is None else source.attrib
    if kind not in ("unix", "tcp"):
        return None, f"a {kind}"
    if given.get("mode", "bind") != "bind":
        return None, f"a {kind} socket that QEMU itself connects"
    if kind == "unix":
        path = given.get("path")
        return (path, "a unix socket") if path else (None, "a unix socket without a path")
    if protocol is not None and protocol.get("type", "raw") != "raw":
        return None, f"a TCP socket that speaks {protocol.get('type')}"
    if given.get("tls") == "yes":
        return None, "a TCP socket with TLS"
    return _tcp_address(given.get("host", ""), given.get("service", ""))


def _tcp_address(host: str, service: str) -> tuple[Address | None, str]:
    try:
        return (str(ipaddress.ip_address(host)), int(service)), "a TCP socket"
    except ValueError:
        return None, f"a TCP socket at {host}:{service}, which is no number"


def _instance(root: ElementTree.Element) -> Instance | None:
    for nova in _NOVA_NAMESPACES:
        instance = root.find(f"metadata/{nova}instance")
        if instance is not None:
            return _read_instance(instance, nova)
    return None


def _read_instance(instance: ElementTree.Element, nova: str) -> Instance:
    project = instance.find(f"{nova}owner/{nova}project")
    flavor = instance.find(f"{nova}flavor")
    return Instance(
        name=_text(instance, f"{nova}name"),
        project="" if project is None else sys.intern(project.get("uuid", "")),
        flavor="" if flavor is None else sys.intern(flavor.get("name", "")),
        extra_specs=_extra_specs(instance.find(f"{nova}flavor/{nova}extraSpecs"), nova),
    )


def _extra_specs(specs: ElementTree.Element | None, nova: str) -> Mapping[str, str] | None:
    if specs is None:
        return None
    found = {
        spec.get("name", ""): spec.text or "" for spec in specs.iterfind(f"{nova}extraSpec[@name]")
    }
    return _of_one_flavor(tuple(found.items()))


@functools.lru_cache(maxsize=256)
def _of_one_flavor(extra_specs: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Returns one object for all VMs of a flavor: they would be a good part of what a VM costs."""
    return dict(extra_specs)
