# SPDX-License-Identifier: Apache-2.0
"""Domains seen against domains known -> what appeared, changed and went; pure.

Keyed by instance UUID. Events only say where to look; what counts is what was read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collectd_vmhb.domain import Domain


@dataclass(frozen=True)
class Change:
    """One domain before and after; None where it is not known, or not there any more."""

    before: Domain | None
    after: Domain | None


class Discovery:
    """Remembers the domains of this host as they were last read."""

    def __init__(self) -> None:
        self._known: dict[str, Domain] = {}

    def known(self) -> list[Domain]:
        """Returns the domains of this host (any thread)."""
        return list(self._known.values())

    def knows(self, uuid: str) -> bool:
        """True for a domain of this host."""
        return uuid in self._known

    def domain(self, uuid: str) -> Domain | None:
        """Returns a domain as it was last read, or None for one that is not on this host."""
        return self._known.get(uuid)

    def looked(self, uuid: str, domain: Domain | None) -> list[Change]:
        """Takes one domain as it is now, or None if libvirt does not have it."""
        before = self._known.get(uuid)
        if before == domain:
            return []
        if domain is None:
            del self._known[uuid]
        else:
            self._known[uuid] = domain
        return [Change(before, domain)]

    def scanned(
        self, domains: Iterable[Domain], unreadable: frozenset[str] = frozenset()
    ) -> list[Change]:
        """Takes all domains of this host as they are now; the unreadable ones stay as they were."""
        seen = {domain.uuid: domain for domain in domains}
        changes = [
            change
            for uuid in self._known.keys() - seen.keys() - unreadable
            for change in self.looked(uuid, None)
        ]
        for uuid, domain in seen.items():
            changes += self.looked(uuid, domain)
        return changes
