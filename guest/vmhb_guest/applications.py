# SPDX-License-Identifier: Apache-2.0
"""The applications that say by themselves how they are: each is a check `app.NAME`.

An application that closes its connection without deregistering has crashed; one that lets two
intervals pass without a word hangs. Both are critical until it registers, or speaks, again, even
if the agent is started again meanwhile.
"""

import math
import re
from typing import Callable, Dict, List, Optional, Set, Tuple

from . import log
from .directory import CHECKS_MAX
from .line_server import LineServer, Message, Peer
from .memory import Memory, Remembered
from .nagios import TEXT_MAX
from .part import Part
from .status import CheckResult, Status
from .text import clean
from .throttle import Throttle
from .wire import integer

PREFIX = "app."
NAME = re.compile(r"[A-Za-z0-9_.-]{1,44}")
#: Applications of one user who is not root: nobody shall use up what others need.
USER_MAX = 16
INTERVAL_MIN_MS = 200
INTERVAL_MAX_MS = 3600000
#: Seconds for which a deregistered name is kept, good: to take a check away costs a new session,
#: and a program that runs again and again would cost one each time.
LINGER = 10.0
#: Seconds after which a wake-up of ours was so late that others were held up as well.
LATE = 1.0
#: Seconds that an application has at least to come back to an agent that was started again.
COMEBACK = 15.0
#: Seconds between two log lines about one application.
LOG_PERIOD = 1.0


class Application:
    """One registered application and how it stands."""

    def __init__(self, name: str, uid: int, pid: int, interval: float, now: float) -> None:
        self.name = name
        self.uid = uid
        self.pid = pid
        #: Who speaks for it; None once it has gone.
        self.peer: Optional[Peer] = None
        #: Seconds between two words of it; infinite if it has not promised any.
        self.interval = interval
        #: When its name is to be forgotten, because it has deregistered.
        self.forget_at = math.inf
        #: When it went without deregistering; None if it has not.
        self.crashed: Optional[float] = None
        #: Nobody shall fill the agent's log.
        self.log = Throttle(LOG_PERIOD)
        self._heard = now
        self._patience = 2 * interval
        self._said = (Status.OK, "registered by process %d" % pid)

    @property
    def deadline(self) -> float:
        """When its silence has been too long."""
        return self._heard + self._patience

    def heard(self, now: float) -> None:
        """Take it as a beat that it said something."""
        self._heard = now

    def status(self, status: Status, text: str) -> None:
        """Take what it says of itself."""
        self._said = status, text

    def gone(self, now: float) -> None:
        """Take it that its connection has ended, and that it did not say so before."""
        self.peer = None
        self._patience = math.inf
        self.crashed = now
        text = "process %d has ended without deregistering" % self.pid
        if self._said[0] is not Status.OK:
            text += ": %s" % self._said[1]
        self._said = Status.CRITICAL, clean(text, TEXT_MAX)

    def deregister(self, now: float) -> None:
        """Take its leave."""
        self.peer = None
        self._patience = math.inf
        self.forget_at = now + LINGER
        self._said = Status.OK, "deregistered"

    def memory(self) -> Optional[Remembered]:
        """Return what must not be forgotten of it, if anything."""
        known = Remembered(self.name, self.uid, self.pid, self.interval)
        if self.crashed is not None:
            return known._replace(crash=self._said[1], since=self.crashed)
        return known if self._patience < math.inf else None

    def recall(self, remembered: Remembered) -> None:
        """Be as it was when the last agent ended: crashed, or given time to come back."""
        self._patience = math.inf if remembered.crash else max(2 * self.interval, COMEBACK)
        if remembered.crash:
            self.crashed = remembered.since
            self._said = Status.CRITICAL, remembered.crash

    def judge(self, now: float) -> Tuple[Status, str]:
        """Return how it stands."""
        if now < self.deadline:
            return self._said
        # No figure of the silence: the text would be news to the host each time.
        text = "process %d is silent: every %g s was promised" % (self.pid, self.interval)
        return Status.CRITICAL, text


class RefusedError(Exception):
    """What an application asked for is not done; the text says why."""


class Applications(Part):
    """All applications that have registered at `server`; they are who the kernel says they are."""

    def __init__(
        self,
        server: LineServer,
        others: Callable[[], int] = lambda: 0,
        memory: Optional[Memory] = None,
    ) -> None:
        """Take what counts the checks beside the applications, and what outlives the agent."""
        self._server = server
        self._memory = memory or Memory()
        self._recalled = False
        self._others = others
        self._forget_next = -math.inf
        self._applications: Dict[str, Application] = {}
        self._registered: Dict[Peer, Application] = {}
        self._results: Dict[str, CheckResult] = {}
        self._receivers = {
            "register": self._register,
            "beat": self._beat,
            "status": self._status,
            "deregister": self._deregister,
        }

    @property
    def names(self) -> Set[str]:
        """The names of the checks."""
        return {PREFIX + name for name in self._applications}

    @property
    def results(self) -> List[CheckResult]:
        """How all of them stand."""
        return [result for _, result in sorted(self._results.items())]

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        times = [max(each.forget_at, self._forget_next) for each in self._applications.values()]
        times += [application.deadline for application in self._well()]
        return min([*times, self._server.deadline])

    def filenos(self) -> List[int]:
        """Return what to poll for reading."""
        return self._server.filenos()

    def tick(self, now: float) -> List[CheckResult]:
        """Hear what the applications say, and who of them says nothing; return what changed."""
        if not self._recalled:
            self._recall(now)
        if now > self.deadline + LATE:
            # It was this agent that slept, and perhaps the whole VM: nobody can be blamed.
            for application in self._well():
                application.heard(now)
        for peer, message in self._server.receive(now):
            if message is None:
                self._hung_up(peer, now)
            else:
                self._receive(peer, message, now)
        if now >= self._forget_next:
            self._forget(now)
        news = [self._judge(application, now) for application in self._applications.values()]
        memories = [application.memory() for application in self._applications.values()]
        self._memory.save([memory for memory in memories if memory is not None])
        return [result for result in news if result is not None]

    def stop(self) -> None:
        """Hang up on all."""
        self._server.close()

    def _recall(self, now: float) -> None:
        self._recalled = True
        for known in self._memory.load():
            application = Application(known.name, known.uid, known.pid, known.interval, now)
            application.recall(known)
            self._applications[known.name] = application

    def _forget(self, now: float) -> None:
        """Forget all whose time has come, together: it costs one new session."""
        past = [name for name, each in self._applications.items() if now >= each.forget_at]
        for name in past:
            del self._applications[name], self._results[name]
        if past:
            self._forget_next = now + LINGER

    def _well(self) -> List[Application]:
        """Return those whose silence would be news."""
        bad = {name for name, each in self._results.items() if each.status is Status.CRITICAL}
        return [each for name, each in self._applications.items() if name not in bad]

    def _judge(self, application: Application, now: float) -> Optional[CheckResult]:
        name, (status, text) = application.name, application.judge(now)
        known = self._results.get(name)
        if known is not None and (known.status, known.text) == (status, text):
            return None
        since = known.since if known is not None and known.status is status else now
        if application.crashed is not None:
            since = application.crashed
        if (known is None or known.status is not status) and application.log.allows(now):
            log.info("application %s: %s: %s", name, status.value, text)
        self._results[name] = CheckResult(PREFIX + name, status, text, "", since, 0.0)
        return self._results[name]

    def _receive(self, peer: Peer, message: Message, now: float) -> None:
        receiver = self._receivers.get(str(message.get("msg_type")))
        try:
            if receiver is None:
                raise RefusedError(
                    "msg_type must be one of %s" % ", ".join(sorted(self._receivers))
                )
            receiver(peer, message, now)
        except RefusedError as refused:
            peer.refuse(str(refused))

    def _hung_up(self, peer: Peer, now: float) -> None:
        application = self._registered.pop(peer, None)
        if application is not None:
            application.gone(now)

    def _register(self, peer: Peer, message: Message, now: float) -> None:
        name = message.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise RefusedError("name must match %s" % NAME.pattern)
        if peer in self._registered:
            raise RefusedError("this connection is that of %s" % self._registered[peer].name)
        interval = math.inf
        if "interval_ms" in message:
            wanted = integer(message, "interval_ms", INTERVAL_MIN_MS, INTERVAL_MAX_MS)
            if wanted is None:
                limits = (INTERVAL_MIN_MS, INTERVAL_MAX_MS)
                raise RefusedError("interval_ms must be an integer from %d to %d" % limits)
            interval = wanted / 1000.0
        self._admit(name, peer)
        application = Application(name, peer.uid, peer.pid, interval, now)
        application.peer = peer
        self._applications[name] = self._registered[peer] = application
        peer.keep = True
        peer.accept()

    def _admit(self, name: str, peer: Peer) -> None:
        known = self._applications.get(name)
        if known is not None:
            if known.peer is not None:
                raise RefusedError("%s is registered by process %d" % (name, known.pid))
            if peer.uid not in (0, known.uid):
                raise RefusedError("%s belongs to user %d" % (name, known.uid))
            return
        if len(self._applications) + self._others() >= CHECKS_MAX:
            raise RefusedError("there are %d checks: the host takes no more" % CHECKS_MAX)
        of_user = [each for each in self._applications.values() if each.uid == peer.uid]
        if peer.uid != 0 and len(of_user) >= USER_MAX:
            raise RefusedError("user %d has %d applications: no more" % (peer.uid, USER_MAX))

    def _speaker(self, peer: Peer) -> Application:
        application = self._registered.get(peer)
        if application is None:
            raise RefusedError("register first")
        return application

    def _beat(self, peer: Peer, _: Message, now: float) -> None:
        self._speaker(peer).heard(now)  # without an answer: it costs a beat of ours

    def _status(self, peer: Peer, message: Message, now: float) -> None:
        application = self._speaker(peer)
        text = message.get("text", "")
        try:
            status = Status(message.get("status"))
        except ValueError:
            words = ", ".join(status.value for status in Status)
            raise RefusedError("status must be one of %s" % words) from None
        if not isinstance(text, str):
            raise RefusedError("text must be a string")
        application.heard(now)
        application.status(status, clean(text, TEXT_MAX) or "no text")
        peer.accept()

    def _deregister(self, peer: Peer, _: Message, now: float) -> None:
        self._speaker(peer).deregister(now)
        del self._registered[peer]
        peer.accept()
