# SPDX-License-Identifier: Apache-2.0
"""Says what the settings ask to be run: files of the health directory, commands, audits."""

import os
from typing import Callable, Dict

from . import audits
from .checks import Job
from .command import Command, shell
from .config import OwnCheck, Settings
from .directory import HealthDirectory

Scan = Callable[[], Dict[str, Job]]
#: Windows cannot fork, and no check is run in another way.
CAN_RUN = hasattr(os, "fork")


def health_checks(settings: Settings) -> Scan:
    """Return what finds the health checks that there are now; a command wins over a file."""
    directory = HealthDirectory(settings.health_dir)

    def scan() -> Dict[str, Job]:
        jobs = {}
        for name, path in directory.scan().items():
            user = settings.own_checks.get(name, OwnCheck()).user
            jobs[name] = Job(Command([path], name, user).run, settings.schedule_of(name), path)
        commands = {name: own for name, own in settings.own_checks.items() if own.command}
        for name, own in commands.items():
            jobs[name] = Job(shell(own.command, name, own.user).run, settings.schedule_of(name))
        return jobs

    return scan if CAN_RUN else dict


def os_audits(settings: Settings) -> Scan:
    """Return what names the audits that are switched on and that this system can answer."""

    def scan() -> Dict[str, Job]:
        return {
            audits.PREFIX + kind: Job(audits.Audit(kind, limits).run, settings.audit_schedule)
            for kind, limits in settings.audits.items()
            if audits.available(kind)
        }

    return scan if CAN_RUN else dict
