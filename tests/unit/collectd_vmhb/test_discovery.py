# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.discovery import Change, Discovery
from collectd_vmhb.domain import Domain, DomainState


def domain(uuid: str, domain_id: int | None = 1) -> Domain:
    state = DomainState.SHUT_OFF if domain_id is None else DomainState.RUNNING
    return Domain(uuid, f"instance-{uuid}", domain_id, state, None, (), True)


A, B = domain("a"), domain("b")


def test_a_first_scan_shows_every_domain_as_new() -> None:
    assert Discovery().scanned([A, B]) == [Change(None, A), Change(None, B)]


def test_what_is_the_same_is_no_change() -> None:
    discovery = Discovery()
    discovery.scanned([A, B])
    assert discovery.scanned([B, A]) == []
    assert discovery.looked("a", domain("a")) == []


def test_a_domain_that_a_scan_lacks_is_gone() -> None:
    discovery = Discovery()
    discovery.scanned([A, B])
    assert discovery.scanned([B]) == [Change(A, None)]
    assert discovery.scanned([B]) == []


def test_a_look_tells_what_changed() -> None:
    discovery = Discovery()
    paused = replace(A, state=DomainState.PAUSED)
    assert discovery.looked("a", A) == [Change(None, A)]
    assert discovery.looked("a", paused) == [Change(A, paused)]
    assert discovery.looked("a", None) == [Change(paused, None)]
    assert discovery.looked("a", None) == []


def test_a_hard_reboot_is_one_change_and_no_disappearance() -> None:
    # Nova undefines the domain and defines it again; libvirt's events only say where to look.
    discovery = Discovery()
    discovery.scanned([A])
    assert discovery.looked("a", domain("a", 2)) == [Change(A, domain("a", 2))]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(1, 3))),
            st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)),
        )
    )
)
def test_the_changes_lead_from_nothing_to_what_was_read_last(
    reads: list[tuple[str, int | None] | dict[str, int]],
) -> None:
    discovery = Discovery()
    table: dict[str, Domain] = {}
    truth: dict[str, Domain] = {}
    for read in reads:
        if isinstance(read, dict):
            truth = {uuid: domain(uuid, number) for uuid, number in read.items()}
            changes = discovery.scanned(truth.values())
        else:
            uuid, number = read
            seen = None if number is None else domain(uuid, number)
            truth = {**truth, uuid: seen} if seen else {k: v for k, v in truth.items() if k != uuid}
            changes = discovery.looked(uuid, seen)
        for change in changes:
            uuid = (change.before or change.after or A).uuid
            assert table.pop(uuid, None) == change.before
            if change.after is not None:
                table[uuid] = change.after
        assert table == truth


def test_a_domain_that_cannot_be_read_is_neither_gone_nor_changed() -> None:
    discovery = Discovery()
    discovery.scanned([domain("a"), domain("b")])
    assert discovery.scanned([domain("a")], frozenset({"b"})) == []
    (change,) = discovery.scanned([domain("a")])
    assert change.after is None
