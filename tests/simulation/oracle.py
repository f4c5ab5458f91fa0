# SPDX-License-Identifier: Apache-2.0
r"""What should be shown of a VM, by the pages alone, and random stories to hold the engine to it.

`Oracle` knows what happened to the VM, not what went over the wire. It counts no beats: where the
pages leave a moment open (did an answer still get through before the hang?) it allows both. From
docs/operations.md (Faults, Health, Timing) and docs/lifecycle.md.

    PYTHONPATH=.:guest .lab/venv/dev/bin/python -m tests.simulation.oracle \
        [--sequences 1000000] [--seed TEXT] [--first 0] [--processes 1]

plays that many stories on the shipped engine and ends with 1 if one of them is told otherwise, or
breaks the engine or the story-teller. It says which, as soon as it knows; ``--one SEED`` plays and
tells that one again.
"""

from __future__ import annotations

import argparse
import enum
import logging
import math
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import HEARTBEAT_LOST, NOT_ESTABLISHED
from tests.simulation.cloud import Cloud
from tests.simulation.node import Node, played_channels
from tests.simulation.vm import RTT, Vm
from vmhb_guest.status import Status

UUID = "vm"
CHECK = "check.app"
SETTINGS = Settings(
    hold_down=0.0, grace_after_reboot=9.0, grace_after_resume=5.0, reconcile_interval=60.0
)
GRACE_PERIOD = 13.0
MISSES, RECOVERY = 2, 2
INTERVALS = (2.0, 3.0)
#: How many events a story has after the first boot: so few that there can be a million of them.
EVENTS = (2, 5)
#: So many stories are one job of a worker.
BATCH = 1000
#: After what hindered it is gone, a VM is asked and answers within this time.
RETURNS = 3.0
#: An event is known to the engine, and followed, within this time.
REACTS = 0.3
#: A state of the VM is known to it within this time.
SEEN = 0.05


class Sure(enum.Enum):
    """Is it so?"""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class Oracle:
    """Follows one VM event by event; `judge` and `raised` return what is wrong, or ""."""

    def __init__(self, required: bool) -> None:
        self.required = required
        self.interval = INTERVALS[0]
        #: The engine is there, and is told of events.
        self.up = True
        self.told = True
        self.enabled = True
        self.off = True
        self.paused = False
        #: Why the guest cannot answer.
        self.mute: set[str] = set()
        #: From when on it answers, if it does.
        self.calm_from = math.inf
        #: When the present silence began: not before, and not after.
        self.quiet_since = 0.0
        self.quiet_at_last = 0.0
        #: While it establishes, silence is forgiven: at least until the first, and then no longer
        #: than until the second.
        self.forgiven_for_sure = -math.inf
        self.forgiven_until = -math.inf
        #: The first, and when the silence began, before the flavor changed.
        self.forgiven_before_change = self.quiet_before_change = -math.inf
        #: The same, as seconds left when the engine saw it paused.
        self.left_for_sure = self.left_at_most = -math.inf
        #: When the first boot began that no answer has followed.
        self.boots_since = math.inf
        self.boots_over = False
        #: It answered in this run; it is held to answer.
        self.answered = Sure.NO
        self.owes = Sure.NO
        #: The loss was told, and nothing happened that could have ended it.
        self.lost = False
        #: The check is bad; whether the engine knows.
        self.sick = False
        self.known_sick = Sure.NO
        #: When its agent last said goodbye, and when it last booted: that may not be on disk.
        self.left = self.booted = -math.inf
        #: Timeouts are longer until then: the host was late.
        self.lenient_until = -math.inf
        self.changed = 0.0

    # -- what happens -----------------------------------------------------------------------

    def start(self, now: float) -> None:
        """A run of the VM begins; it is to boot."""
        self._step(now)
        self.off = self.paused = False
        self.mute = {"booting"}
        self._new_run(now, Sure.NO)
        self._silent(now)

    def restore(self, now: float) -> None:
        """Another run begins, of a guest that goes on as it was."""
        self._step(now)
        self.off = self.paused = False
        # The pages do not say whether it has to answer.
        self._new_run(now, Sure.MAYBE)
        self._again(now)

    def stop(self, now: float) -> None:
        """The run ends."""
        self._step(now)
        self.off = True
        self.lost = False
        self.known_sick = Sure.NO

    def boot(self, now: float) -> None:
        """The guest is up."""
        self._able(now, "booting", "agent")

    def unable(self, now: float, why: str) -> None:
        """From now on it cannot answer."""
        self._step(now)
        if not self.mute:
            self._silent(now)
        self.mute.add(why)

    def able(self, now: float, why: str) -> None:
        """That reason is gone."""
        self._able(now, why)

    def goodbye(self, now: float) -> None:
        """The agent leaves on purpose: nobody has to answer until it is back, or a reboot."""
        heard = self.up and self.enabled and not self.paused and not self.mute
        sure = heard and self._calm(now) >= self.interval
        self.unable(now, "agent")
        self.left = now
        if sure:
            self.owes = Sure.NO
            self.lost = False
            self._forgiven(now + SETTINGS.grace_after_reboot)
            self.boots_since = math.inf
        elif heard:
            self.owes = self._maybe(self.owes)
            self.lost = False
            self.boots_over = True
            self.forgiven_until = now + SETTINGS.grace_after_reboot

    def reboot(self, now: float) -> None:
        """The guest boots again in the same QEMU."""
        self._step(now)
        if not self.mute:
            self._silent(now)
        self.mute = {"booting"}
        if not self.told:
            return
        self.booted = now
        if self.boots_since == math.inf:
            self.boots_over = False
            self.boots_since = now
        longest = max(SETTINGS.grace_after_reboot, GRACE_PERIOD)
        until = min(now + SETTINGS.grace_after_reboot, self.boots_since + longest)
        if until > now + SEEN:
            # What is over before the engine knows of the reboot forgives nothing.
            self.forgiven_for_sure = max(self.forgiven_for_sure, until)
        self.forgiven_until = max(self.forgiven_until, until)
        if self.boots_over:
            self.forgiven_until = now + SETTINGS.grace_after_reboot
        self.owes = self.answered

    def pause(self, now: float) -> None:
        self._step(now)
        self.paused = True
        self.lost = False
        # What passes before the engine knows may be used up.
        self.left_for_sure = self.forgiven_for_sure - now - SEEN
        self.left_at_most = self.forgiven_until - now

    def resume(self, now: float) -> None:
        unseen, before = now - self.changed < REACTS, self.forgiven_for_sure
        self._step(now)
        self.paused = False
        self._forgive(now)
        self.forgiven_until = max(self.forgiven_until, now + self.left_at_most)
        if unseen:
            # As short as that, the engine may not have known of the pause.
            self.forgiven_for_sure = before
        elif self.up:
            self.forgiven_for_sure = max(self.forgiven_for_sure, now + self.left_for_sure)
        self._again(now)

    def disturb(self, now: float) -> None:
        """The way to the guest is interrupted for a moment."""
        self._step(now)
        self._again(now)

    def stall(self, now: float, seconds: float) -> None:
        """The engine, or the whole host, stands still for so long."""
        if now - self.changed < SEEN:
            # A start of just before may be known only now, and is forgiven from now on.
            self.forgiven_until += seconds
        self.disturb(now)
        self.lenient_until = now + seconds + 30.0
        self.changed = now + seconds
        # Of all that time only one challenge can be missed.
        self.quiet_at_last = now + seconds
        if not self.mute:
            self.calm_from += seconds

    def move(self, now: float) -> None:
        """It arrives on another host, which does not know it."""
        self._step(now)
        self._new_run(now, Sure.MAYBE)
        self._again(now)

    def change_interval(self, now: float, interval: float) -> None:
        unseen = now - self.changed < SEEN
        if not unseen:
            self._keep_for_a_change_back()
        self._step(now)
        self._forget_past()
        self.interval = interval
        self._forgive(now)
        if unseen:
            self._perhaps_changed_back()
        self._again(now)

    def enable(self, now: float, enabled: bool) -> None:
        """Monitoring is switched on or off in the flavor."""
        unseen = now - self.changed < SEEN
        if not unseen:
            self._keep_for_a_change_back()
        self._step(now)
        self.enabled = enabled
        # The pages do not say whether what was seen before counts.
        self._new_run(now, Sure.MAYBE)
        if unseen:
            self._perhaps_changed_back()
        self._again(now)

    def engine_ends(self, now: float) -> None:
        """collectd stops, or is killed."""
        if self._calm(now) < 2 * self.interval + 1.5:
            # What it saw last may not be on disk.
            self.owes, self.answered = self._maybe(self.owes), self._maybe(self.answered)
            self.known_sick = Sure.MAYBE
            self.lost = False
        if now - self.left < 1.5:
            self.owes = Sure.MAYBE
        if now - max(self.left, self.booted) < 1.5:
            self.forgiven_for_sure = -math.inf
        self._step(now)
        self._forget_past()
        self.up = self.told = False

    def engine_begins(self, now: float) -> None:
        self._step(now)
        self.up = self.told = True
        self._forgive(now)
        # Of a pause, it knows what it sees.
        self.left_for_sure = self.forgiven_for_sure - now
        self._again(now)

    def check(self, now: float, sick: bool) -> None:
        """The health check has another result."""
        self._step(now)
        self.sick = sick
        self.known_sick = Sure.MAYBE
        if not self.mute:
            self.calm_from = max(self.calm_from, now)

    # -- what follows -----------------------------------------------------------------------

    def _calm(self, now: float) -> float:
        """For how long it has answered; negative while it does not."""
        watched = self.up and self.enabled and not (self.off or self.paused or self.mute)
        return now - self.calm_from if watched else -math.inf

    def _maybe(self, sure: Sure) -> Sure:
        return Sure.NO if sure is Sure.NO else Sure.MAYBE

    def _step(self, now: float) -> None:
        """Takes in what the time since the last event has brought."""
        self.changed = now
        calm = self._calm(now)
        if calm >= self.interval:
            self.owes = self.answered = Sure.YES
            self.boots_since = math.inf
            self.lost = False
            self.quiet_since = now
            self._forgiven(-math.inf)
            if self.sick is not (self.known_sick is Sure.YES):
                self.known_sick = Sure.MAYBE
        elif not self.mute and self.up and self.enabled and not (self.off or self.paused):
            # Perhaps it answered, perhaps not.
            self.owes = Sure.MAYBE if self.owes is Sure.NO else self.owes
            self.answered = Sure.MAYBE if self.answered is Sure.NO else self.answered
            self.lost = False
            self.forgiven_for_sure = -math.inf
            self.boots_over = True
            self.known_sick = Sure.MAYBE if self.sick or self.known_sick is not Sure.NO else Sure.NO
        if calm >= self._settles:
            self.known_sick = Sure.YES if self.sick else Sure.NO

    def _forget_past(self) -> None:
        """Who perhaps need not answer now may not have to after a reboot: what was is not kept."""
        if self.owes is not Sure.YES:
            self.answered = self._maybe(self.answered)

    def _silent(self, now: float) -> None:
        if self._calm(now) >= self.interval or self.calm_from == math.inf:
            self.quiet_since = now
        self.quiet_at_last = now
        self.calm_from = math.inf

    def _able(self, now: float, *why: str) -> None:
        self._step(now)
        self.mute -= set(why)
        self._again(now)

    def _again(self, now: float) -> None:
        """If nothing hinders it, it answers soon; a silence that was short may go on until then."""
        if self.mute:
            return
        if self._calm(now) >= self.interval:
            self.quiet_since = now
        self.calm_from = now + RETURNS

    def _forgive(self, now: float) -> None:
        """Silence is forgiven for a while, again."""
        grace = GRACE_PERIOD if self.owes is Sure.NO else SETTINGS.grace_after_resume
        self.forgiven_until = max(now + grace, self.forgiven_until)
        self.forgiven_for_sure = max(now + SETTINGS.grace_after_resume, self.forgiven_for_sure)
        self.quiet_at_last = now
        self.boots_over = self.owes is Sure.MAYBE
        self.boots_since = math.inf if self.owes is Sure.NO else now

    def _forgiven(self, until: float) -> None:
        self.forgiven_for_sure = self.forgiven_until = until

    def _keep_for_a_change_back(self) -> None:
        self.forgiven_before_change = self.forgiven_for_sure
        self.quiet_before_change = self.quiet_since

    def _perhaps_changed_back(self) -> None:
        """The flavor is as it was, perhaps before anybody looked: as if nothing had been."""
        self.forgiven_for_sure = self.forgiven_before_change
        self.quiet_since = self.quiet_before_change

    def _new_run(self, now: float, owes: Sure) -> None:
        self.owes = self.answered = owes
        self.lost = False
        self.known_sick = Sure.NO
        self._forgiven(now + GRACE_PERIOD)
        if owes is not Sure.NO:
            self.forgiven_for_sure = now + SETTINGS.grace_after_resume
        self.boots_since = math.inf
        self.quiet_since = self.quiet_at_last = now

    # -- what should be seen ----------------------------------------------------------------

    @property
    def _timeout(self) -> float:
        return 0.9 * self.interval

    @property
    def _settles(self) -> float:
        """Who answers for so long is well, whatever was before."""
        return (RECOVERY + 1) * self.interval

    def raised(self, at: float, fault: str) -> str:
        """Judges that a fault was told."""
        if at - self.changed < REACTS:
            return ""
        if not self.up or self.off or self.paused or not self.enabled:
            return f"{fault} of a VM that nobody watches"
        if fault == HEARTBEAT_LOST:
            return self._judge_loss(at)
        if fault == NOT_ESTABLISHED:
            return self._judge_not_established(at)
        if fault != CHECK:
            return f"{fault} for no reason"
        well = not self.sick and self.known_sick is not Sure.MAYBE
        return "the check is well" if well else ""

    def _judge_loss(self, at: float) -> str:
        # Longer timeouts let the next challenge follow a miss at once.
        period = self._timeout if at < self.lenient_until else self.interval
        soonest = max(
            self.quiet_since + (MISSES - 1) * period + self._timeout - RTT,
            self.forgiven_for_sure + (MISSES - 1) * self._timeout,
        )
        if self.owes is Sure.NO:
            return "lost, and nothing was to be expected"
        if at > self.calm_from:
            return "lost, and it answers"
        return f"lost {soonest - at:.2f} s too early" if at < soonest - 0.02 else ""

    def _judge_not_established(self, at: float) -> str:
        if not self.required:
            return "not established, and nobody asked for that"
        if self.owes is Sure.YES or at > self.calm_from:
            return "not established, and it answered"
        early = self.forgiven_for_sure - at
        return f"not established {early:.2f} s too early" if early > 0.02 else ""

    def judge(self, now: float, shown: str, faults: set[str]) -> str:
        """Judges what is shown now, and which faults are open."""
        if not self.up or now - self.changed < REACTS:
            return ""
        if self.off or not self.enabled:
            return "" if (shown, faults) == ("", set()) else "nobody is to watch it"
        if self.paused:
            return "" if shown == "paused" and not faults - {CHECK} else "it is paused"
        if self._calm(now) >= self._settles:
            well = "unhealthy" if self.sick else "healthy"
            return (
                ""
                if (shown, faults) == (well, {CHECK} & ({CHECK} if self.sick else set()))
                else f"it is {well}"
            )
        return self._judge_silence(now, shown, faults) if self.mute else ""

    def _judge_silence(self, now: float, shown: str, faults: set[str]) -> str:
        counts = max(self.quiet_at_last, self.forgiven_until)
        patience = (MISSES + 1) * self.interval + self._timeout + 0.7
        if now < self.lenient_until:
            patience *= 3
        due = now > counts + patience
        if self.owes is Sure.YES and due:
            self.lost = True
        if self.lost and (shown != "failed" or HEARTBEAT_LOST not in faults):
            return "it is lost"
        if self.owes is Sure.NO:
            if HEARTBEAT_LOST in faults or shown not in ("establishing", "unknown"):
                return "nothing is to be expected of it"
            overdue = self.required and now > self.forgiven_until + 0.5
            if overdue and NOT_ESTABLISHED not in faults:
                return "it is required to answer, and never did"
        if self.known_sick is Sure.YES and CHECK not in faults:
            return "its check was bad when it was last heard"
        if self.known_sick is Sure.NO and CHECK in faults:
            return "its check was well when it was last heard"
        return ""


class Story:
    """A random life of one VM, played on the engine and told to the oracle alike."""

    def __init__(self, seed: str) -> None:
        self.cloud = Cloud(seed)
        self.rng = self.cloud.rng
        self.detached = 0
        self.nodes = [Node(self.cloud, SETTINGS)]
        self.node = self.nodes[0]
        required = self.rng.random() < 0.3
        self.specs = {
            "vmhb:enabled": "true",
            "vmhb:interval": str(INTERVALS[0]),
            "vmhb:miss_threshold": str(MISSES),
            "vmhb:recovery_threshold": str(RECOVERY),
            "vmhb:grace_period": str(GRACE_PERIOD),
            "vmhb:required": str(required).lower(),
        }
        self.vm = Vm(self.node, UUID, self.specs)
        self.oracle = Oracle(required)
        self.saved = False
        self.told: list[str] = []
        self.away_since = math.inf
        self._seen = 0
        self.node.start()

    def play(self, events: int) -> str:
        """Returns what is wrong with what the engine shows or tells, or ""."""
        wrong = self._happens("start") or self._passes(self.rng.uniform(0.0, 4.0))
        wrong = wrong or self._happens("boot") or self._passes(6.0)
        for _ in range(events):
            if wrong:
                break
            wrong = self._happens(self.rng.choice(self._possible())) or self._passes(self._gap())
        return wrong

    def _gap(self) -> float:
        shortest, longest = self.rng.choice(((0.0, 2.0), (0.0, 4.0), (4.0, 10.0), (10.0, 16.0)))
        return self.rng.uniform(shortest, longest)

    def _possible(self) -> list[str]:
        o = self.oracle
        if not o.up:
            anywhere = ["engine_begins"] * 4
        else:
            anywhere = ["engine_killed", "engine_stopped", "stall", "freeze"]
        if o.off:
            return [*anywhere, *(["restore"] if self.saved else ["start"]) * 4]
        if o.up and not o.told:
            anywhere = ["libvirt_back"] * 3
        # Who detaches a channel again and again is given in to, which is another story.
        detach = ["detach"] if o.told and not self.detached else []
        inside = [*anywhere, "sick" if not o.sick else "well"]
        if o.paused:
            return [*inside, *["resume"] * 5, "stop", *detach]
        if "hung" in o.mute:
            inside += ["thaw"] * 4
        else:
            inside += ["hang", "hang"]
            if "booting" in o.mute:
                inside += ["boot"] * 6
            elif "agent" in o.mute:
                inside += ["agent_started"] * 4
            else:
                inside += ["agent_killed", "agent_stopped"]
        inside += ["reboot", "reboot"]
        if o.told or not o.up:
            inside += ["pause", "pause", "stop", "save"]
        if o.told:
            inside += [*detach, "interval", "enable" if not o.enabled else "disable"]
            inside += ["migrate", "migrate"]
            # Nobody can attach what is missing then.
            inside += ["libvirt_gone"] if self.vm.port is not None else []
        return inside

    def _happens(self, event: str) -> str:
        self.told.append(f"{event} at {self.cloud.now - 1000:.2f}")
        getattr(self, "_" + event)(self.cloud.now)
        return ""

    def _passes(self, seconds: float) -> str:
        self.cloud.run(seconds)
        alarms = self.node.alarms
        new, self._seen = alarms.raised[self._seen :], len(alarms.raised)
        for at, uuid, fault, reason in new:
            if uuid:
                wrong = self.oracle.raised(at, fault)
            else:
                away = at - self.away_since
                wrong = "" if away > 60.0 else f"{fault} of the host ({reason}) for no reason"
            if wrong:
                return f"{wrong} (at {at - 1000:.2f})"
        if len(set(alarms.open.values())) < len(alarms.open):
            return "one fault has two incidents"
        shown, faults = self.node.health(UUID), alarms.of(UUID)
        wrong = self.oracle.judge(self.cloud.now, shown, faults)
        if wrong:
            return f"{wrong}; shown {shown!r}, faults {sorted(faults)}"
        settled = self.cloud.now - self.oracle.changed >= REACTS
        for node in self.nodes:
            if settled and node is not self.node and node.alarms.open:
                return f"left behind on another host: {sorted(node.alarms.of(UUID))}"
        return ""

    # -- events -----------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        self.saved = False
        self.vm.start(None)
        self.oracle.start(now)

    def _boot(self, now: float) -> None:
        self.vm.start_agent()
        self.oracle.boot(now)

    def _stop(self, now: float) -> None:
        self.vm.stop()
        if self.rng.random() < 0.5:
            self.vm.undefine()
            self.node.vms[UUID] = self.vm
        self.oracle.stop(now)

    def _save(self, now: float) -> None:
        self.saved = True
        self.vm.save()
        self.oracle.stop(now)

    def _restore(self, now: float) -> None:
        self.saved = False
        self.vm.restore()
        self.oracle.restore(now)

    def _pause(self, now: float) -> None:
        self.vm.pause()
        self.oracle.pause(now)

    def _resume(self, now: float) -> None:
        self.vm.resume()
        self.oracle.resume(now)

    def _hang(self, now: float) -> None:
        self.vm.hang()
        self.oracle.unable(now, "hung")

    def _thaw(self, now: float) -> None:
        self.vm.thaw()
        self.oracle.able(now, "hung")

    def _reboot(self, now: float) -> None:
        self.vm.reset(None)
        self.oracle.reboot(now)

    def _agent_killed(self, now: float) -> None:
        self.vm.kill_agent()
        self.oracle.unable(now, "agent")

    def _agent_stopped(self, now: float) -> None:
        self.vm.stop_agent()
        self.oracle.goodbye(now)

    def _agent_started(self, now: float) -> None:
        self.vm.start_agent()
        self.oracle.able(now, "agent")

    def _detach(self, now: float) -> None:
        self.detached += 1
        self.vm.detach()
        self.oracle.disturb(now)

    def _migrate(self, now: float) -> None:
        other = next((node for node in self.nodes if node is not self.node), None)
        if other is None:
            other = Node(self.cloud, SETTINGS)
            other.start()
            self.nodes.append(other)
        self.vm.pause()
        self.oracle.pause(now)
        self._passes(self.rng.uniform(0.4, 1.5))
        self.vm.move(other)
        self.node, self._seen = other, len(other.alarms.raised)
        self.oracle.paused = False
        self.oracle.move(self.cloud.now)

    def _interval(self, now: float) -> None:
        interval = INTERVALS[self.oracle.interval == INTERVALS[0]]
        self.specs = {**self.specs, "vmhb:interval": str(interval)}
        self.vm.change_flavor(self.specs)
        self.oracle.change_interval(now, interval)

    def _disable(self, now: float) -> None:
        self.specs = {**self.specs, "vmhb:enabled": "false"}
        self.vm.change_flavor(self.specs)
        self.oracle.enable(now, False)

    def _enable(self, now: float) -> None:
        self.specs = {**self.specs, "vmhb:enabled": "true"}
        self.vm.change_flavor(self.specs)
        self.oracle.enable(now, True)

    def _sick(self, now: float) -> None:
        self.vm.check("app", Status.CRITICAL)
        self.oracle.check(now, True)

    def _well(self, now: float) -> None:
        self.vm.check("app", Status.OK)
        self.oracle.check(now, False)

    def _engine_killed(self, now: float) -> None:
        self.node.kill()
        self.oracle.engine_ends(now)

    def _engine_stopped(self, now: float) -> None:
        self.node.stop()
        self.oracle.engine_ends(now)

    def _engine_begins(self, now: float) -> None:
        self.node.start()
        self.oracle.engine_begins(now)

    def _libvirt_gone(self, now: float) -> None:
        # What it did not tell before it went, nobody knows.
        self.cloud.run(REACTS)
        self.node.lose_libvirt()
        self.away_since = self.cloud.now
        self.oracle.disturb(self.cloud.now)
        self.oracle.told = False

    def _libvirt_back(self, now: float) -> None:
        self.node.find_libvirt()
        self.away_since = math.inf
        self.oracle.told = True

    def _stall(self, now: float) -> None:
        seconds = self.rng.uniform(0.2, 12.0)
        self.node.stall(seconds)
        self.oracle.stall(now, seconds)
        self.cloud.run(seconds)

    def _freeze(self, now: float) -> None:
        seconds = self.rng.uniform(0.2, 12.0)
        self.node.freeze(seconds)
        self.oracle.stall(now, seconds)
        self.cloud.run(seconds)


@dataclass(frozen=True)
class Disagreement:
    """A story that the engine tells otherwise than the oracle."""

    seed: str
    wrong: str
    story: tuple[str, ...]

    def __str__(self) -> str:
        again = f"again with: python -m tests.simulation.oracle --one {self.seed}"
        return "\n  ".join((f"seed {self.seed}: {self.wrong}", *self.story, again))


def play(seed: str) -> Disagreement | None:
    """Plays the story of a seed."""
    with played_channels():
        story = Story(seed)
        try:
            wrong = story.play(story.rng.randint(*EVENTS))
        except Exception:
            wrong = f"it broke\n{traceback.format_exc()}"
    return Disagreement(seed, wrong, tuple(story.told)) if wrong else None


def play_many(seed: str, first: int, count: int) -> list[Disagreement]:
    """Plays the stories ``seed/first`` and those that follow it."""
    logging.disable(logging.CRITICAL)
    found = (play(f"{seed}/{number}") for number in range(first, first + count))
    return [each for each in found if each is not None]


def main(argv: list[str] | None = None) -> int:
    """Plays stories until one is told otherwise, or all were played."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.oracle")
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    parser.add_argument("--first", type=int, default=0, help="the number of the first story")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one", metavar="SEED", help="play one story and tell it")
    options = parser.parse_args(argv)
    say = sys.stdout.write
    if options.one:
        disagreement = play(options.one)
        say(f"{disagreement or 'agreed'}\n")
        return int(disagreement is not None)
    say(f"seed {options.seed}, {options.sequences} sequences from {options.first} on\n")
    sys.stdout.flush()
    done, wrong = 0, 0
    began = time.monotonic()
    end = options.first + options.sequences
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {}
        for first in range(options.first, end, BATCH):
            count = min(BATCH, end - first)
            jobs[pool.submit(play_many, options.seed, first, count)] = first, count
        for job in as_completed(jobs):
            first, count = jobs[job]
            try:
                found: list[object] = [*job.result()]
            except Exception as error:
                found = [f"{error!r}: again with --seed {options.seed} --first {first}"]
            done += count
            wrong += len(found)
            for each in found:
                say(f"{each}\n")
            say(f"{done} played, {wrong} told otherwise, {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
