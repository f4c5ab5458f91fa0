# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-guest`: reads flags and settings, builds the agent and runs it."""

import argparse
import functools
import gc
import math
import os
import sys
from typing import Callable, List, Optional

from . import __version__, client, config, jobs, tty, wrapper
from .agent import Agent
from .checks import Schedule
from .loop import WAKE_SIGNALS
from .notify import notify
from .signals import SignalPipe

#: Exit code for settings that are wrong, the same as argparse's.
USAGE = 2
#: Exit code of --check-config where a check would not run.
FLAWED = 1
#: Exit code when there was no port in time: EX_UNAVAILABLE of sysexits.h.
NO_PORT = 69
_COMMANDS = {"run": wrapper.main, "status": client.status, "busy": client.busy}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the agent until it is told to stop, or another command; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _COMMANDS:
        if not jobs.CAN_RUN:
            sys.stderr.write("vmhb-guest: there is no `%s` on this system\n" % arguments[0])
            return USAGE
        return _COMMANDS[arguments[0]](arguments[1:])
    return _be_agent(arguments)


def _be_agent(arguments: List[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
    except config.ConfigError as error:
        sys.stderr.write("vmhb-guest: %s\n" % error)
        return USAGE
    if options.check_config:
        return FLAWED if _describe(settings) else 0
    if settings.port_path and tty.lacks_pyserial(settings.port_path):
        sys.stderr.write("vmhb-guest: %s\n" % (tty.MISSING % settings.port_path))
        return USAGE
    agent = Agent(settings, functools.partial(_settings, options), options.exit_without_port)
    return 0 if _run(agent) else NO_PORT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-guest",
        description="Answers the compute node's heartbeat challenges and reports health checks.",
        epilog="Other commands, each with --help: status, busy, run.",
    )
    parser.add_argument(
        "--port-name", type=_flag(config.port_name), help="virtio port (org.openstack.vmhb.0)"
    )
    parser.add_argument(
        "--port-path", type=_flag(config.device), help="device to use instead of a port"
    )
    parser.add_argument(
        "--health-dir", type=_flag(config.absolute_path), help="(/etc/vmhb-guest/health.d)"
    )
    parser.add_argument(
        "--run-dir", type=_flag(config.absolute_path), help="for sockets (/run/vmhb-guest)"
    )
    parser.add_argument(
        "--exit-without-port",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="end with exit code %d if there is no port within so many seconds" % NO_PORT,
    )
    parser.add_argument("--config", help="settings file (%s, if there)" % config.DEFAULT_PATH)
    parser.add_argument("--check-config", action="store_true", help="say what would run, and exit")
    parser.add_argument("--version", action="version", version="vmhb-guest " + __version__)
    return parser


def _flag(parse: Callable[[str], str]) -> Callable[[str], str]:
    """Let argparse show the words of our own ValueError."""

    def parse_flag(text: str) -> str:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError("%s: %s" % (text, error)) from None

    return parse_flag


def _settings(options: argparse.Namespace) -> config.Settings:
    settings = config.Settings()
    if options.config is not None or os.path.exists(config.DEFAULT_PATH):
        settings = config.load(options.config or config.DEFAULT_PATH)
    flags = {
        key: getattr(options, key) for key in ("port_name", "port_path", "health_dir", "run_dir")
    }
    return settings._replace(**{key: flag for key, flag in flags.items() if flag is not None})


def _describe(settings: config.Settings) -> bool:
    """Say what would run; return whether something would not."""
    found = jobs.health_checks(settings)()
    flaws = dict.fromkeys(set(settings.schedules) - set(found), "no such file, and no command")
    for name, job in found.items():
        if job.path and not os.access(job.path, os.X_OK):
            flaws[name] = "%s cannot be run: is it executable?" % job.path
    found.update(jobs.os_audits(settings)())
    lines = ["port %s" % (settings.port_path or settings.port_name)]
    lines += ["check %s: %s" % (name, _words(job.schedule)) for name, job in sorted(found.items())]
    lines += ["check %s: %s" % flaw for flaw in sorted(flaws.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(flaws)


def _words(schedule: Schedule) -> str:
    words = "every %g s, at most %g s, hard after %d"
    return words % (schedule.interval, schedule.timeout, schedule.attempts)


def _run(agent: Agent) -> bool:
    signals = SignalPipe(WAKE_SIGNALS)
    # What is there now stays: no search for rubbish writes to it, so children go on sharing it.
    gc.collect()
    getattr(gc, "freeze", gc.collect)()  # since Python 3.7
    try:
        notify("READY=1")
        return agent.run(signals)
    finally:
        notify("STOPPING=1")
        signals.close()


if __name__ == "__main__":
    sys.exit(main())
