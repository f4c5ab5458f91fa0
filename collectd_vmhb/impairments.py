# SPDX-License-Identifier: Apache-2.0
"""What keeps the engine of this host from its work, by cause, as one fault of the host; pure."""

from __future__ import annotations

import logging
from collections.abc import Callable

from collectd_vmhb.verdict import (
    ENGINE_IMPAIRED,
    FaultCleared,
    FaultEvent,
    FaultRaised,
    Severity,
)

log = logging.getLogger(__name__)

#: libvirt does not answer; channels may not be opened; the state is not saved; many VMs fell
#: silent together; the policy file cannot be used.
LIBVIRT, RIGHTS, DISK, MASS = "libvirt", "rights", "disk", "mass"
POLICIES = "policies"

#: With these alone every VM is watched all the same.
_MILD = frozenset({DISK, POLICIES})


class Impairments:
    """Holds the causes that are there now; ``report`` takes the host's fault as it changes."""

    def __init__(self, report: Callable[[FaultEvent, float], None]) -> None:
        self._report = report
        self._causes: dict[str, str] = {}
        #: VMs whose channel this process may not open.
        self._barred: set[str] = set()

    def __contains__(self, cause: str) -> bool:
        """True while the cause is there."""
        return cause in self._causes

    def adopt(self, cause: str, text: str) -> None:
        """Takes over what an earlier process left; it goes on until this one finds it mended."""
        self._causes[cause] = text

    def impair(self, cause: str, text: str, now: float) -> None:
        """A cause is there, in words for people."""
        if self._causes.get(cause) != text:
            self._causes[cause] = text
            log.error("%s", text)
        self.settle(now)

    def mend(self, cause: str, now: float) -> None:
        """A cause is gone."""
        if self._causes.pop(cause, None) is not None:
            self.settle(now)

    def bar(self, uuid: str, text: str, now: float) -> None:
        """The channel of a VM may not be opened: said once for all of them."""
        self._barred.add(uuid)
        if RIGHTS not in self._causes:
            self.impair(RIGHTS, text, now)

    def unbar(self, uuid: str, now: float) -> None:
        """The channel of a VM was opened, or the VM is not watched any more."""
        self._barred.discard(uuid)
        if not self._barred:
            self.mend(RIGHTS, now)

    def settle(self, now: float) -> None:
        """Reports the fault as the causes make it; its first cause speaks."""
        event: FaultEvent = FaultCleared("", ENGINE_IMPAIRED, "mended")
        if self._causes:
            cause, text = next(iter(self._causes.items()))
            severity = Severity.WARNING if _MILD.issuperset(self._causes) else Severity.FAILURE
            event = FaultRaised("", ENGINE_IMPAIRED, severity, text, now, cause)
        self._report(event, now)
