# SPDX-License-Identifier: Apache-2.0
"""How one guest's health checks stand, as far as it has told; pure.

A guest without named checks has one health bit, which counts as a check of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from collectd_vmhb.perfdata import Figures
from collectd_vmhb.protocol import Answered, Check, CheckReport, CheckStatus, Match
from collectd_vmhb.verdict import CHECK_PREFIX, Severity

#: Named checks kept for one VM.
CHECKS_MAX = 64
#: Bytes of memory for what a guest says about its checks: beyond, a check is kept without texts.
TEXTS_MAX = 16 * 1024
#: Answers without a session after which a guest is taken for one that will not open a new one.
SESSIONLESS_ANSWERS = 3
#: The name under which the published protocol's single health bit is reported.
HEALTH_BIT = "health"

_SEVERITY = {
    CheckStatus.CRITICAL: Severity.FAILURE,
    CheckStatus.WARNING: Severity.WARNING,
    CheckStatus.UNKNOWN: Severity.WARNING,
}
#: The same for all whose checks are well.
_NO_FAULTS: Mapping[str, Severity] = MappingProxyType({})


class Checks:
    """Puts one guest's reports together; kept for every VM of a host, hence small.

    At most ``figures_max`` figures of the checks are kept.
    """

    __slots__ = (
        "_awaited",
        "_figures_max",
        "_sessionless",
        "_texts",
        "faults",
        "figures",
        "known",
        "named",
        "results",
    )

    def __init__(self, figures_max: int = 0) -> None:
        self.results: dict[str, Check] = {}
        #: The faults that the results mean, by name.
        self.faults: Mapping[str, Severity] = _NO_FAULTS
        #: The results are trusted once this process has seen a whole report.
        self.known = False
        #: The guest reports named checks; without, there is the health bit alone.
        self.named = False
        #: What they measure; None as long as no check has said.
        self.figures: Figures | None = None
        self._figures_max = figures_max
        #: While a full report is under way: the names that it has had so far.
        self._awaited: set[str] | None = None
        self._sessionless = 0
        #: Bytes of memory that the results' texts take.
        self._texts = 0

    @property
    def sick(self) -> bool:
        """True if a check is critical."""
        return Severity.FAILURE in self.faults.values()

    @property
    def well(self) -> bool:
        """True if a plain answer in the session changes nothing: no check is known to be bad."""
        return not self.faults and (self.named or (self.known and not self.results))

    @property
    def figures_over(self) -> bool:
        """True if the checks measure more than there is room for."""
        return self.figures is not None and self.figures.over

    def connected(self) -> None:
        """A new connection: who answers may have lost its session."""
        self._sessionless = 0

    def opened(self, named: bool) -> None:
        """A session begins; ``named``: with named checks, and a full report of them."""
        self.named = named
        self._awaited = set() if named else None
        if self.figures is not None:
            self.figures.clear()

    def take(self, answer: Answered, in_session: bool) -> None:
        """Takes what an answer says, a late one too: the guest sends each change only once."""
        if answer.report is not None:
            self._merge(answer.report)
        elif not self.named and self._health_bit_counts(answer, in_session):
            self._take_health_bit(answer)
        else:
            return
        self.faults = {
            CHECK_PREFIX + check.name: _SEVERITY[check.status]
            for check in self.results.values()
            if check.status is not CheckStatus.OK
        } or _NO_FAULTS

    def of_fault(self, name: str) -> Check:
        """Returns the check behind a fault's name; KeyError if there is none."""
        return self.results[name[len(CHECK_PREFIX) :]]

    def _take_health_bit(self, answer: Answered) -> None:
        self.results.clear()
        self._texts = 0
        if not answer.healthy:
            self.results[HEALTH_BIT] = Check(
                HEALTH_BIT, CheckStatus.CRITICAL, answer.log_msg, "", 0.0, 0.0
            )
        self.known = True

    def _health_bit_counts(self, answer: Answered, in_session: bool) -> bool:
        """Without a session the guest may be one with named checks, asked to open a new one."""
        # Late answers come in a burst from a port that was not read: no time for a session yet.
        if not in_session and answer.match is Match.CURRENT:
            self._sessionless += 1
        return in_session or self._sessionless >= SESSIONLESS_ANSWERS

    def _merge(self, report: CheckReport) -> None:
        for check in report.checks:
            if check.name in self.results or len(self.results) < CHECKS_MAX:
                self._keep(check)
                self._take_figures(check)
        if self._awaited is None:
            return
        self._awaited.update(check.name for check in report.checks)
        if not report.more:
            for name in self.results.keys() - self._awaited:
                self._texts -= self.results.pop(name).size
            self._awaited = None
            self.known = True

    def _keep(self, check: Check) -> None:
        before = self.results.get(check.name)
        self._texts -= before.size if before else 0
        kept = check if self._texts + check.size <= TEXTS_MAX else check.bare
        self._texts += kept.size
        self.results[check.name] = kept

    def _take_figures(self, check: Check) -> None:
        if self.figures is None:
            if not check.perfdata or not self._figures_max:
                return
            self.figures = Figures(self._figures_max)
        self.figures.take(check.name, check.perfdata)
