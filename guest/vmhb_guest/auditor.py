# SPDX-License-Identifier: Apache-2.0
"""Has checks run when the host asks for it, and collects what comes of it."""

import math
from typing import Dict, List, Optional, Sequence

from .applications import Applications
from .checks import Checks
from .part import Part
from .session import AuditRequest, Session
from .status import CheckResult


class Auditor(Part):
    """Serves the audits that the session takes. Applications answer with how they stand."""

    def __init__(
        self, session: Session, checks: Sequence[Checks], applications: Applications
    ) -> None:
        self._session = session
        self._checks = checks
        self._applications = applications
        self._request: Optional[AuditRequest] = None
        self._asked = 0.0
        self._names: List[str] = []

    @property
    def deadline(self) -> float:
        """When the audit under way has taken too long."""
        return math.inf if self._request is None else self._asked + self._request.timeout

    def tick(self, now: float) -> List[CheckResult]:
        """Take up an audit, or see whether the one under way is over."""
        if self._session.audit is not self._request:
            self._request = self._session.audit
            if self._request is not None:
                self._begin(self._request, now)
        if self._request is not None:
            self._look(now)
        return []

    def _begin(self, request: AuditRequest, now: float) -> None:
        known = {name for part in (*self._checks, self._applications) for name in part.names}
        self._asked = now
        self._names = sorted(known & {request.check} if request.check else known)
        for part in self._checks:
            part.ask(self._names, request.level, now)

    def _look(self, now: float) -> None:
        answers = self._answers()
        missing = [name for name in self._names if name not in answers]
        results = [answers[name] for name in sorted(answers)]
        if self._request is not None and self._request.check and not self._names:
            self._end("unknown_check", [], "there is no check of that name", now)
        elif not missing:
            self._end("done", results, "", now)
        elif now >= self.deadline:
            self._end("timeout", results, "no result of %s" % ", ".join(missing), now)

    def _answers(self) -> Dict[str, CheckResult]:
        answers = {result.name: result for result in self._applications.results}
        for part in self._checks:
            for name in part.names:
                result = part.answer(name, self._asked)
                if result is not None:
                    answers[name] = result
        return {name: answers[name] for name in self._names if name in answers}

    def _end(self, outcome: str, results: List[CheckResult], text: str, now: float) -> None:
        self._request = None
        self._session.audit_done(outcome, results, text, now)
