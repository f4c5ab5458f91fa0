# SPDX-License-Identifier: Apache-2.0
"""libvirt's workers on libvirt's own test driver: nothing that goes wrong ends one of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, TypeVar

import libvirt
import pytest

from collectd_vmhb import hypervisor as module
from collectd_vmhb.domain import Domain, DomainState, parse_domain
from collectd_vmhb.hypervisor import (
    AHEAD,
    ATTACHERS,
    Attached,
    Finding,
    Hypervisor,
    Looked,
    Scanned,
)

URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # the one domain of that driver

Found = TypeVar("Found")


class Workers:
    """A hypervisor that runs, and what it has found."""

    def __init__(self, first: Sequence[str] = ()) -> None:
        self.findings: list[Finding] = []
        self.hypervisor = Hypervisor(URI, self.findings.append, first)

    def wait(self, kind: type[Found], wanted: Callable[[Found], bool], since: int = 0) -> Found:
        deadline = time.monotonic() + 5
        while True:
            for found in self.findings[since:]:
                if isinstance(found, kind) and wanted(found):
                    return found
            assert time.monotonic() < deadline, self.findings
            time.sleep(0.01)


def of_the_workers(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What they logged: a library of tests before may still miss its broker."""
    return [record for record in caplog.records if record.name == module.__name__]


@pytest.fixture(name="workers")
def _workers() -> Iterator[Workers]:
    workers = Workers()
    workers.hypervisor.start()
    yield workers
    workers.hypervisor.stop()


def test_domains_are_read_and_what_libvirt_refuses_is_passed_on(workers: Workers) -> None:
    (domain,) = workers.wait(Scanned, lambda found: True).domains
    assert domain.uuid == UUID
    workers.hypervisor.attach(UUID, "org.openstack.vmhb.0")
    error = workers.wait(Attached, lambda found: True).error
    assert error is not None
    assert "not supported" in error


def test_the_first_scan_tells_the_first_domains_before_it_has_read_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers, many = Workers(), 3 * AHEAD + 1
    one = libvirt.virConnect.listAllDomains
    told_at_each: list[int] = []

    def read(domain: libvirt.virDomain, flags: int = 0) -> str:
        told_at_each.append(len([found for found in workers.findings if isinstance(found, Looked)]))
        return xml_of(domain, flags)

    xml_of = libvirt.virDomain.XMLDesc
    monkeypatch.setattr(libvirt.virConnect, "listAllDomains", lambda conn: one(conn) * many)
    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", read)
    workers.hypervisor.start()
    workers.wait(Scanned, lambda found: True)
    workers.hypervisor.stop()
    assert told_at_each[AHEAD] == AHEAD
    assert told_at_each[many - 1] == 3 * AHEAD
    # What is told later is no news.
    assert max(told_at_each) == 3 * AHEAD


def test_who_has_waited_longest_is_read_first() -> None:
    xml = (
        "<domain type='test'><name>{0}</name><uuid>{0}</uuid><memory>1</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    uuids = [f"6ba7b810-9dad-41d1-80b4-00000000000{number}" for number in range(5)]
    with contextlib.closing(libvirt.open(URI)) as conn:
        domains = [conn.createXML(xml.format(uuid)) for uuid in uuids]
        workers = Workers([uuids[3], "gone meanwhile", uuids[0], uuids[4]])
        workers.hypervisor.start()
        found = workers.wait(Scanned, lambda found: True).domains
        workers.hypervisor.stop()
        for domain in domains:
            domain.destroy()
    assert [domain.uuid for domain in found[:3]] == [uuids[3], uuids[0], uuids[4]]
    assert {domain.uuid for domain in found[3:]} == {UUID, uuids[1], uuids[2]}


def test_very_many_looks_are_one_look_at_all(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.wait(Scanned, lambda found: True)
    mark = len(workers.findings)
    read, many = libvirt.virDomain.XMLDesc, 1000

    def look_at_many(domain: libvirt.virDomain, flags: int = 0) -> str:
        monkeypatch.setattr(libvirt.virDomain, "XMLDesc", read)
        for number in range(many):
            workers.hypervisor.look(f"6ba7b810-9dad-41d1-80b4-{number:012x}")
        return read(domain, flags)

    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", look_at_many)
    workers.hypervisor.look(UUID)
    workers.wait(Scanned, lambda found: True, mark)
    workers.hypervisor.look(UUID)
    workers.wait(Looked, lambda found: found.uuid == UUID, len(workers.findings))
    looked = [found for found in workers.findings[mark:] if isinstance(found, Looked)]
    assert len(looked) < many / 10


def test_a_domain_is_told_from_one_that_ran_before(workers: Workers, tmp_path: Path) -> None:
    (domain,) = workers.wait(Scanned, lambda found: True).domains
    assert not domain.carried
    with contextlib.closing(libvirt.open(URI)) as conn:
        conn.lookupByUUIDString(UUID).save(str(tmp_path / "saved"))
        conn.restore(str(tmp_path / "saved"))
    workers.hypervisor.look(UUID)
    restored = workers.wait(Looked, lambda found: bool(found.domain and found.domain.carried))
    assert restored.domain is not None
    assert restored.domain.state is DomainState.RUNNING


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        (libvirt.VIR_DOMAIN_PAUSED_USER, DomainState.PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, DomainState.PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, DomainState.PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED_IOERROR, DomainState.BROKEN),
        (libvirt.VIR_DOMAIN_PAUSED_CRASHED, DomainState.BROKEN),
        (libvirt.VIR_DOMAIN_PAUSED_WATCHDOG, DomainState.BROKEN),
        (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, DomainState.BROKEN),
    ],
)
def test_a_vm_that_nobody_wanted_to_stop_is_not_meant_to_be_silent(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, reason: int, meant: DomainState
) -> None:
    workers.wait(Scanned, lambda found: bool(found.domains))
    monkeypatch.setattr(
        libvirt.virDomain, "state", lambda domain: [libvirt.VIR_DOMAIN_PAUSED, reason]
    )
    workers.hypervisor.look(UUID)
    looked = workers.wait(Looked, lambda found: found.domain is not None)
    assert looked.domain is not None
    assert looked.domain.state is meant


def test_a_domain_that_cannot_be_read_is_left_as_it_was_and_said_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(xml: str, state: DomainState, domain_id: int | None, carried: bool) -> Domain:
        raise IndexError("a surprise")

    workers.wait(Scanned, lambda found: bool(found.domains))
    with monkeypatch.context() as odd:
        odd.setattr(module, "parse_domain", surprise)
        odd.setattr(libvirt.virDomain, "XMLDesc", lambda domain: "<other/>")
        for _ in range(2):
            mark = len(workers.findings)
            workers.hypervisor.scan()
            workers.wait(Scanned, lambda found: found.unreadable == {UUID}, mark)
    assert [record.message for record in of_the_workers(caplog)] == [
        "domain test is left as it was: IndexError('a surprise')"
    ]
    mark = len(workers.findings)
    workers.hypervisor.look(UUID)
    assert workers.wait(Looked, lambda found: True, mark).domain is not None


def test_xml_that_is_as_it_was_is_not_parsed_again(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []

    def counted(xml: str, state: DomainState, domain_id: int | None, carried: bool) -> Domain:
        parsed.append(xml)
        return parse_domain(xml, state, domain_id, carried)

    def scanned() -> Scanned:
        mark = len(workers.findings)
        workers.hypervisor.scan()
        return workers.wait(Scanned, lambda found: True, mark)

    before = workers.wait(Scanned, lambda found: bool(found.domains))
    monkeypatch.setattr(module, "parse_domain", counted)
    assert scanned() == before
    assert not parsed
    with contextlib.closing(libvirt.open(URI)) as conn:
        element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        conn.lookupByUUIDString(UUID).setMetadata(element, "<other/>", "other", "urn:other")
    assert scanned() == before
    assert len(parsed) == 1


def test_what_happens_during_a_scan_is_told_before_its_end(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml = "<domain type='test'><name>{0}</name><memory>1</memory><os><type>hvm</type></os></domain>"
    first: list[str] = []
    ended: list[str] = []

    def read(domain: libvirt.virDomain, flags: int = 0) -> str:
        if not first:
            first.append(domain.UUIDString())
        elif first[0] != domain.UUIDString() and not ended:
            # The first has been read, this one is being read, and one more will be.
            conn.lookupByUUIDString(first[0]).destroy()
            workers.hypervisor.look(first[0])
            ended.append(first[0])
        return xml_of(domain, flags)

    workers.wait(Scanned, lambda found: True)
    xml_of = libvirt.virDomain.XMLDesc
    with contextlib.closing(libvirt.open(URI)) as conn:
        others = {conn.createXML(xml.format(name)).UUIDString() for name in "abc"}
        workers.wait(Looked, lambda found: found.uuid in others)
        workers.hypervisor.scan()
        workers.wait(Scanned, lambda found: len(found.domains) == 4)
        monkeypatch.setattr(
            libvirt.virConnect,
            "listAllDomains",
            lambda conn: [conn.lookupByUUIDString(uuid) for uuid in others],
        )
        monkeypatch.setattr(libvirt.virDomain, "XMLDesc", read)
        mark = len(workers.findings)
        workers.hypervisor.scan()
        scanned = workers.wait(Scanned, lambda found: True, mark)
        monkeypatch.undo()
        told = workers.findings[mark : workers.findings.index(scanned, mark)]
        for uuid in others - set(first):
            conn.lookupByUUIDString(uuid).destroy()
    assert Looked(first[0], None) in told
    assert {domain.uuid for domain in scanned.domains} == others - set(first)


def test_a_domain_that_libvirt_cannot_tell_about_hides_no_other(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = libvirt.virDomain.XMLDesc

    def refuse_one(domain: libvirt.virDomain, flags: int = 0) -> str:
        if domain.UUIDString() == UUID:
            raise libvirt.libvirtError("cannot acquire state change lock")
        return read(domain, flags)

    other = (
        "<domain type='test'><name>other</name><memory>1024</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    with contextlib.closing(libvirt.open(URI)) as conn:
        second = conn.createXML(other)
        monkeypatch.setattr(libvirt.virDomain, "XMLDesc", refuse_one)
        for _ in range(2):
            mark = len(workers.findings)
            workers.hypervisor.scan()
            scanned = workers.wait(Scanned, lambda found: found.unreadable == {UUID}, mark)
            assert [domain.uuid for domain in scanned.domains] == [second.UUIDString()]
        second.destroy()
    said = [record.message for record in caplog.records if "left as it was" in record.message]
    assert said == ["domain test is left as it was: cannot acquire state change lock"]


def test_where_libvirt_tells_about_no_domain_it_has_not_answered(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(domain: libvirt.virDomain, flags: int = 0) -> str:
        raise libvirt.libvirtError("access denied")

    workers.wait(Scanned, lambda found: bool(found.domains))
    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", refuse)
    mark = len(workers.findings)
    workers.hypervisor.scan()
    deadline = time.monotonic() + 5
    while "libvirt cannot tell about its domains: access denied" not in caplog.messages:
        assert time.monotonic() < deadline, caplog.messages
        time.sleep(0.01)
    assert not any(isinstance(found, Scanned) for found in workers.findings[mark:])


def test_an_error_of_our_own_costs_one_job_and_is_said_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers.wait(Scanned, lambda found: True)
    with monkeypatch.context() as odd:
        odd.setattr(Hypervisor, "_read_all", lambda self, conn: 1 // 0)
        odd.setattr(Hypervisor, "_writing", lambda self: 1 // 0)
        for number in range(2 * ATTACHERS):
            workers.hypervisor.scan()
            workers.hypervisor.attach(str(number), "a")
            workers.wait(Attached, lambda found, uuid=str(number): found.uuid == uuid)  # type: ignore[misc]
    assert [record.levelno for record in of_the_workers(caplog)].count(logging.ERROR) == 1
    mark = len(workers.findings)
    workers.hypervisor.scan()
    workers.wait(Scanned, lambda found: True, mark)


def test_a_vm_whose_attach_is_held_up_holds_up_no_other(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    held = {f"held-{number}" for number in range(ATTACHERS - 1)}

    class Connection:
        def lookupByUUIDString(self, uuid: str) -> Any:  # noqa: N802 - libvirt's name
            if uuid in held:
                free.wait(10)
            raise libvirt.libvirtError("held")

        def setKeepAlive(self, interval: int, count: int) -> None: ...  # noqa: N802
        def close(self) -> None: ...

    monkeypatch.setattr(libvirt, "open", lambda uri: Connection())
    for uuid in held:
        workers.hypervisor.attach(uuid, "a")
    workers.hypervisor.attach("other", "a")
    workers.wait(Attached, lambda found: found.uuid == "other")
    assert not any(isinstance(f, Attached) and f.uuid in held for f in workers.findings)
    free.set()
    for uuid in held:
        workers.wait(Attached, lambda found, uuid=uuid: found.uuid == uuid)  # type: ignore[misc]
