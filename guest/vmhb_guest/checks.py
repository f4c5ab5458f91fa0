# SPDX-License-Identifier: Apache-2.0
"""Runs the health checks when they are due and says how each of them stands.

Nothing here waits: the caller calls `tick` when a child has ended, when one of `filenos` can be
read, and no later than `deadline`. Times are seconds of one monotonic clock.
"""

import logging
import math
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Set

from . import nagios
from .directory import HealthDirectory
from .process import Process
from .status import CheckResult, Status

LOG = logging.getLogger(__name__)

#: Seconds between two looks for checks that came or went.
SCAN_PERIOD = 10.0


class Schedule(NamedTuple):
    """How a check is run: seconds between starts, seconds it may take, attempts before hard."""

    interval: float = 30.0
    timeout: float = 10.0
    attempts: int = 1


class Check:
    """One health check: its schedule, its run if it has one, and how it stands."""

    def __init__(self, name: str, path: str, schedule: Schedule, due: float) -> None:
        self.name = name
        self.path = path
        self.schedule = schedule
        self.due = due
        self.process: Optional[Process] = None
        self.killed = False
        self._started = due
        self._failures = 0
        self._standing: Optional[CheckResult] = None

    @property
    def running(self) -> bool:
        """Whether a run is under way; one we had to kill is over, even if it lingers."""
        return self.process is not None and not self.killed

    @property
    def timeout_at(self) -> float:
        """When the run under way has taken too long."""
        return self._started + self.schedule.timeout

    def start(self, now: float) -> Optional[CheckResult]:
        """Start a run; return a result at once when it cannot be started."""
        self._started = now
        self.due = now + self.schedule.interval
        try:
            self.process = Process(self.path, self.name)
        except OSError as error:
            return self._judge(nagios.failed("cannot be run: %s" % error.strerror), now)
        return None

    def advance(self, now: float) -> Optional[CheckResult]:
        """Look after the run; return a result when it has just ended or taken too long."""
        if self.process is None:
            return None
        returncode = self.process.poll()
        if returncode is not None:
            output, killed = self.process.output, self.killed
            self.process, self.killed = None, False
            return None if killed else self._judge(nagios.interpret(returncode, output), now)
        if self.killed or now < self.timeout_at:
            return None
        self.process.kill()
        self.killed = True
        return self._judge(nagios.failed("timed out after %g s" % self.schedule.timeout), now)

    def _judge(self, outcome: nagios.Outcome, now: float) -> Optional[CheckResult]:
        """Count attempts: bad news is held back until it has come `attempts` times in a row."""
        self._failures = 0 if outcome.status is Status.OK else self._failures + 1
        if 0 < self._failures < self.schedule.attempts:
            return None
        known = self._standing
        same = known is not None and known.status is outcome.status
        since = known.since if known is not None and same else now
        if not same:
            LOG.info("health check %s: %s: %s", self.name, outcome.status.value, outcome.text)
        self._standing = CheckResult(
            self.name, outcome.status, outcome.text, outcome.perfdata, since, now - self._started
        )
        return self._standing


class Checks:
    """All health checks of a directory, at most `parallel` of them running at a time.

    None starts before the time `not_before`: while a VM boots, what they watch is not up yet.
    """

    def __init__(
        self,
        directory: str,
        schedule: Callable[[str], Schedule],
        parallel: int,
        not_before: float = -math.inf,
    ) -> None:
        self._directory = HealthDirectory(directory)
        self._schedule = schedule
        self._parallel = parallel
        self._not_before = not_before
        self._checks: Dict[str, Check] = {}
        self._leaving: List[Process] = []
        self._scan_due = -math.inf

    @property
    def names(self) -> Set[str]:
        """The names of the checks there are, whether they have a result or not."""
        return set(self._checks)

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        times = [self._scan_due]
        times += [check.timeout_at for check in self._running()]
        if len(self._running()) < self._parallel:
            times += [check.due for check in self._checks.values() if check.process is None]
        return min(times)

    def filenos(self) -> List[int]:
        """Return the descriptors that may have output to read."""
        filenos = [check.process.fileno() for check in self._checks.values() if check.process]
        return [fileno for fileno in filenos if fileno is not None]

    def tick(self, now: float) -> List[CheckResult]:
        """Do all that is due; return the results that came of it."""
        if now >= self._scan_due:
            self._scan(now)
        self._leaving = [process for process in self._leaving if process.poll() is None]
        results = [check.advance(now) for check in self._checks.values()]
        results += [self._start(check, now) for check in self._due(now)]
        return [result for result in results if result is not None]

    def stop(self) -> None:
        """Kill what still runs."""
        processes = self._leaving + [c.process for c in self._checks.values() if c.process]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(1.0)

    def _running(self) -> List[Check]:
        return [check for check in self._checks.values() if check.running]

    def _due(self, now: float) -> List[Check]:
        idle = [c for c in self._checks.values() if c.process is None and now >= c.due]
        free = max(0, self._parallel - len(self._running()))
        return sorted(idle, key=lambda check: check.due)[:free]

    def _start(self, check: Check, now: float) -> Optional[CheckResult]:
        if os.path.lexists(check.path):
            return check.start(now)
        self._scan_due = now  # taken away since we looked: that is no failure of the check
        check.due = now + check.schedule.interval
        return None

    def _scan(self, now: float) -> None:
        self._scan_due = now + SCAN_PERIOD
        found = self._directory.scan()
        for name in self.names - set(found):
            process = self._checks.pop(name).process
            if process is not None:
                process.kill()
                self._leaving.append(process)
        for name in sorted(set(found) - self.names):
            due = max(now, self._not_before)
            self._checks[name] = Check(name, found[name], self._schedule(name), due)
