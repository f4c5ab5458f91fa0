# SPDX-License-Identifier: Apache-2.0
"""Runs the health checks when they are due and says how each of them stands.

Nothing here waits: the caller calls `tick` when a child has ended, when one of `filenos` can be
read, and no later than `deadline`. Times are seconds of one monotonic clock.
"""

import functools
import math
import os
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set

from . import log, nagios
from .part import Part
from .process import Process
from .status import SEVERITY, CheckResult, Status

#: Seconds between two looks for checks that came or went.
SCAN_PERIOD = 10.0
#: How thoroughly a check is to look, which it finds in VMHB_LEVEL.
QUICK, DETAILED = "quick", "detailed"


class Schedule(NamedTuple):
    """How a check is run: seconds between starts, seconds it may take, attempts before hard."""

    interval: float = 30.0
    timeout: float = 10.0
    attempts: int = 1
    #: The worst that the check may say.
    severity: Status = Status.CRITICAL


class Job(NamedTuple):
    """What a check does: the body of a child, which ends as a monitoring plugin does."""

    body: Callable[[], int]
    schedule: Schedule
    #: The file that is run, if it is one: the check goes when the file does.
    path: str = ""


class Check:
    """One health check: its job, its run if it has one, and how it stands."""

    def __init__(self, name: str, job: Job, due: float) -> None:
        self.name = name
        self.job = job
        self.due = due
        self.process: Optional[Process] = None
        self.killed = False
        #: How the last run that ended went, and when it was started.
        self.last: Optional[CheckResult] = None
        self.last_started = -math.inf
        self._level = QUICK
        self._started = due
        self._failures = 0
        #: Its last result that counts.
        self.standing: Optional[CheckResult] = None

    @property
    def running(self) -> bool:
        """Whether a run is under way; one we had to kill is over, even if it lingers."""
        return self.process is not None and not self.killed

    @property
    def deadline(self) -> float:
        """When there is something to do: a run to start, to end, or one that lingers to tell of."""
        return self._started + self.job.schedule.timeout if self.running else self.due

    def start(self, now: float) -> Optional[CheckResult]:
        """Start a run; return a result at once when it cannot be started."""
        self._started = now
        self.due = now + self.job.schedule.interval
        body, self._level = functools.partial(_at_level, self._level, self.job.body), QUICK
        try:
            self.process = Process(body)
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
        if now < self.deadline:
            return None
        reason = "timed out after %g s" % self.job.schedule.timeout
        if self.killed:
            self.due = now + self.job.schedule.interval
            return self._judge(nagios.failed(reason + ", and cannot be killed"), now)
        self.process.kill()
        self.killed = True
        return self._judge(nagios.failed(reason), now)

    def ask(self, level: str, now: float) -> None:
        """Run as soon as there is room, out of turn."""
        self.due, self._level = now, level

    def _judge(self, outcome: nagios.Outcome, now: float) -> Optional[CheckResult]:
        """Count attempts: bad news is held back until it has come `attempts` times in a row."""
        status = min(outcome.status, self.job.schedule.severity, key=SEVERITY.index)
        duration = now - self._started
        result = CheckResult(self.name, status, outcome.text, outcome.perfdata, now, duration)
        self.last, self.last_started = result, self._started
        self._failures = 0 if outcome.status is Status.OK else self._failures + 1
        if 0 < self._failures < self.job.schedule.attempts:
            return None
        known = self.standing
        same = known is not None and known.status is status
        if not same:
            log.info("health check %s: %s: %s", self.name, status.value, outcome.text)
        self.standing = result._replace(since=known.since) if known and same else result
        return self.standing


class Checks(Part):
    """All checks that `scan` finds, by name, at most `parallel` of them running at a time.

    None starts before the time `not_before`: while a VM boots, what they watch is not up yet.
    """

    def __init__(
        self, scan: Callable[[], Dict[str, Job]], parallel: int, not_before: float = -math.inf
    ) -> None:
        self._look = scan
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
    def results(self) -> List[CheckResult]:
        """How those of them stand that have a result."""
        standings = [check.standing for _, check in sorted(self._checks.items())]
        return [standing for standing in standings if standing is not None]

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        full = len(self._running()) >= self._parallel
        waiting = [check for check in self._checks.values() if check.process or not full]
        return min([self._scan_due] + [check.deadline for check in waiting])

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

    def ask(self, names: Iterable[str], level: str, now: float) -> None:
        """Run those of the given checks that are ours as soon as there is room."""
        for name in self.names.intersection(names):
            self._checks[name].ask(level, now)

    def answer(self, name: str, asked: float) -> Optional[CheckResult]:
        """Return the result of a run that began at `asked` or later, None if there is none yet.

        A check whose last run we could not even kill does not run again: it answers as it stands.
        """
        check = self._checks[name]
        return check.last if check.last_started >= asked or check.killed else None

    def reload(self, scan: Callable[[], Dict[str, Job]], parallel: int) -> None:
        """Go by other settings from now on; what runs, runs on."""
        self._look, self._parallel = scan, parallel
        self._scan_due = -math.inf

    def stop(self) -> None:
        """Kill what still runs."""
        processes = self._leaving + [c.process for c in self._checks.values() if c.process]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(0.2)

    def _running(self) -> List[Check]:
        return [check for check in self._checks.values() if check.running]

    def _due(self, now: float) -> List[Check]:
        idle = [c for c in self._checks.values() if c.process is None and now >= c.due]
        free = max(0, self._parallel - len(self._running()))
        return sorted(idle, key=lambda check: check.due)[:free]

    def _start(self, check: Check, now: float) -> Optional[CheckResult]:
        path = check.job.path
        if not path or os.path.lexists(path):
            return check.start(now)
        self._scan_due = now  # taken away since we looked: that is no failure of the check
        check.due = now + check.job.schedule.interval
        return None

    def _scan(self, now: float) -> None:
        self._scan_due = now + SCAN_PERIOD
        found = self._look()
        for name in self.names - set(found):
            process = self._checks.pop(name).process
            if process is not None:
                process.kill()
                self._leaving.append(process)
        for name, job in sorted(found.items()):
            if name in self._checks:
                self._checks[name].job = job
            else:
                self._checks[name] = Check(name, job, max(now, self._not_before))


def _at_level(level: str, body: Callable[[], int]) -> int:
    os.environ["VMHB_LEVEL"] = level  # in the child
    return body()
