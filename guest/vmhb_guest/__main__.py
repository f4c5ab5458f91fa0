# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-guest`: reads flags and settings, builds the agent and runs it."""

import argparse
import logging
import os
import socket
import sys
import time
from typing import Callable, List, Optional

from . import __version__, config
from .checks import Checks
from .directory import HealthDirectory
from .loop import WAKE_SIGNALS, Loop
from .notify import notify
from .port import Port
from .session import Session
from .signals import SignalPipe

#: Exit code for settings that are wrong, the same as argparse's.
USAGE = 2


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the agent until it is told to stop; return the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="vmhb-guest: %(levelname)s: %(message)s"
    )
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
    except config.ConfigError as error:
        sys.stderr.write("vmhb-guest: %s\n" % error)
        return USAGE
    if options.check_config:
        _describe(settings)
    else:
        _run(settings)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-guest",
        description="Answers the compute node's heartbeat challenges and reports health checks.",
    )
    parser.add_argument(
        "--port-name", type=_flag(config.port_name), help="virtio port (org.openstack.vmhb.0)"
    )
    parser.add_argument(
        "--port-path", type=_flag(config.absolute_path), help="device to use instead of a port"
    )
    parser.add_argument(
        "--health-dir", type=_flag(config.absolute_path), help="(/etc/vmhb-guest/health.d)"
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
    flags = {key: getattr(options, key) for key in ("port_name", "port_path", "health_dir")}
    return settings._replace(**{key: flag for key, flag in flags.items() if flag is not None})


def _describe(settings: config.Settings) -> None:
    checks = HealthDirectory(settings.health_dir).scan()
    lines = ["port %s" % (settings.port_path or settings.port_name)]
    for name in sorted(checks):
        schedule = settings.schedule_of(name)
        lines.append(
            "check %s: every %g s, at most %g s, hard after %d"
            % (name, schedule.interval, schedule.timeout, schedule.attempts)
        )
    lines += [
        "check %s: no such file" % name for name in sorted(settings.schedules) if name not in checks
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _run(settings: config.Settings) -> None:
    signals = SignalPipe(WAKE_SIGNALS)
    try:
        loop = Loop(
            Port(settings.port_name, settings.port_path or None),
            Session(socket.gethostname(), settings.interval),
            # Linux counts its monotonic clock from the boot, so a delay after that is a time.
            Checks(
                settings.health_dir,
                settings.schedule_of,
                settings.parallel,
                not_before=settings.boot_delay,
            ),
            time.monotonic,
        )
        notify("READY=1")
        loop.run(signals)
        notify("STOPPING=1")
    finally:
        signals.close()


if __name__ == "__main__":
    sys.exit(main())
