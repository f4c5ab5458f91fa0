# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-vitrage`: what there is to do about Vitrage besides sending alarms.

Exit status: 0 done, 1 not done (one line on stderr says why), 2 wrong usage. `reconcile` has its
own: 0 equal, 1 different, 2 cannot tell.
"""

from __future__ import annotations

import argparse
import math
import socket
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from vitrage_notifier.engine_socket import EngineError, ask
from vitrage_notifier.lease_file import knows_host
from vitrage_notifier.rca_templates import DEFAULT, TemplateError
from vitrage_notifier.reconcile import CANNOT_TELL, DIFFERENT, EQUAL, compare, table
from vitrage_notifier.sender import ADVICE, NotSentError, Transport
from vitrage_notifier.settings import Settings, with_url
from vitrage_notifier.sweep import GRACE, SEND_TIMEOUT
from vitrage_notifier.verify import LONGEST, BrokenLinkError, Verification, Way
from vitrage_notifier.vitrage_api import VitrageError, connect

#: Where our documents put the broker's URL on a compute node, and on the controller.
NODE_URL_FILE = Path("/etc/collectd/vitrage-transport-url")
SWEEP_URL_FILE = Path("/etc/vmhb/transport-url")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (LibraryError, TemplateError, UrlError, VitrageError) as problem:
        sys.stderr.write(f"vmhb-vitrage: {problem}\n")
        return 1
    except NotSentError as problem:
        sys.stderr.write(f"vmhb-vitrage: cannot send: {problem}; {ADVICE[problem.kind]}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-vitrage", description="VM heartbeat alarms and Vitrage: proof, care, templates."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_verify(commands)
    _add_reconcile(commands)
    _add_templates(commands)
    _add_sweep(commands)
    return parser


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser(
        "verify", help="send an alarm from this node to Vitrage, or name the broken link"
    )
    whose = verify.add_mutually_exclusive_group()
    whose.add_argument("--vm", default="", metavar="UUID", help="on this VM of this node")
    whose.add_argument("--host", action="store_true", help="on this node itself (default)")
    verify.add_argument(
        "--timeout",
        type=_seconds(1, LONGEST),
        default=60.0,
        metavar="S",
        help="how long Vitrage may take, each way (default: %(default)g)",
    )
    verify.add_argument(
        "--state-dir",
        type=Path,
        default=Settings.state_dir,
        metavar="DIR",
        help="the notifier's StateDir (default: %(default)s)",
    )
    _add_engine(verify)
    _add_bus(verify, NODE_URL_FILE)
    verify.set_defaults(run=_verify)


def _add_reconcile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reconcile = commands.add_parser(
        "reconcile", help="what this node believes, beside what Vitrage shows of it"
    )
    reconcile.add_argument(
        "--hostname",
        default=socket.gethostname(),
        help="collectd's Hostname (default: %(default)s)",
    )
    _add_engine(reconcile)
    reconcile.set_defaults(run=_reconcile)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control-socket",
        type=Path,
        default=Path("/run/vmhb/control.sock"),
        metavar="PATH",
        help="the engine's ControlSocket (default: %(default)s)",
    )


def _seconds(least: float, most: float) -> Callable[[str], float]:
    """Return what reads an option of so many seconds."""

    def read(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not least <= seconds <= most:
            raise argparse.ArgumentTypeError(f"takes seconds from {least:g} to {most:g}")
        return seconds

    return read


def _verify(options: argparse.Namespace) -> int:
    way = Way(
        options.control_socket,
        options.state_dir / "outbox.sqlite",
        _bus(options),
        connect,
        options.vm.lower(),
        options.timeout,
    )
    try:
        Verification(way, say).run()
    except BrokenLinkError as problem:
        say(f"broken link: {problem}")
        return 1
    say("the way to Vitrage is whole")
    return 0


def _bus(options: argparse.Namespace) -> Transport | None:
    if options.transport_url_file == NODE_URL_FILE and not NODE_URL_FILE.exists():
        return None
    url = _url(options)
    return _transport(url, options)


def _transport(url: str, options: argparse.Namespace) -> Transport:
    try:
        with warnings.catch_warnings():
            # oslo.messaging brings eventlet along, which warns of itself.
            warnings.simplefilter("ignore")
            from vitrage_notifier.transport import OsloTransport
    except ImportError as problem:
        raise LibraryError(
            f"oslo.messaging cannot be imported ({problem}): install python3-oslo.messaging, or "
            "collectd-vmhb[notifier] with pip"
        ) from None
    return OsloTransport(url, options.topic, SEND_TIMEOUT)


def _reconcile(options: argparse.Namespace) -> int:
    try:
        status = ask(options.control_socket, {"command": "status"})
        lines = compare(status, connect().alarms(), options.hostname)
    except (EngineError, VitrageError) as problem:
        sys.stderr.write(f"vmhb-vitrage: cannot tell: {problem}\n")
        return CANNOT_TELL
    say(table(lines))
    return DIFFERENT if any(line.differs for line in lines) else EQUAL


def _add_templates(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    templates = commands.add_parser("templates", help="our RCA templates in Vitrage")
    actions = templates.add_subparsers(metavar="ACTION", required=True, dest="action")
    install = actions.add_parser("install", help="validate and add them, or bring them up to date")
    install.add_argument(
        "--workflow", default="", help="Mistral workflow that vmhb_workflow starts"
    )
    install.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(DEFAULT)}")
    actions.add_parser("list", help="what there is, and how it stands in Vitrage")
    remove = actions.add_parser("remove", help="remove ours, and nothing else")
    remove.add_argument("names", nargs="*", metavar="NAME", help="default: all of ours")
    templates.set_defaults(run=_templates, names=(), workflow="")


def _add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sweep = commands.add_parser(
        "sweep", help="the service that clears what no host can clear any more"
    )
    _add_bus(sweep, SWEEP_URL_FILE)
    sweep.add_argument("--pool", default="vmhb-sweep", help="our queue (default: %(default)s)")
    sweep.add_argument("--state-dir", type=Path, default=Path("/var/lib/vmhb-sweep"), metavar="DIR")
    sweep.add_argument(
        "--repeat",
        type=_seconds(1, 600),
        default=60.0,
        metavar="S",
        help="period of re-sending (default: 60)",
    )
    sweep.add_argument(
        "--repeat-for",
        type=_seconds(0, 86400),
        default=900.0,
        metavar="S",
        help="how long an OK is repeated (default: 900)",
    )
    sweep.add_argument(
        "--grace",
        type=_seconds(0, 3600),
        default=GRACE,
        metavar="S",
        help="how long notifiers may take to come back after an outage (default: %(default)g)",
    )
    sweep.add_argument(
        "--retire", metavar="HOST", help="tell the running service that a host is gone for good"
    )
    sweep.set_defaults(run=_sweep)


def _add_bus(parser: argparse.ArgumentParser, url_file: Path) -> None:
    parser.add_argument(
        "--transport-url-file",
        type=Path,
        default=url_file,
        metavar="PATH",
        help="holds the URL of the broker that Vitrage listens on (default: %(default)s)",
    )
    parser.add_argument(
        "--topic", default=Settings.topic, help="Vitrage's topic (default: %(default)s)"
    )


def _url(options: argparse.Namespace) -> str:
    try:
        return with_url(Settings(transport_url_file=options.transport_url_file)).transport_url
    except ValueError as problem:
        raise UrlError(str(problem).replace("TransportUrlFile", "--transport-url-file")) from None


class LibraryError(Exception):
    """What a command needs is not installed; says what is."""


class UrlError(Exception):
    """The file with the broker's URL is of no use; says why."""


def _sweep(options: argparse.Namespace) -> int:
    from vitrage_notifier import sweep

    url = _url(options)
    transport = _transport(url, options)
    if options.retire:
        path = options.state_dir / sweep.FILE
        known = knows_host(path, options.retire)
        sweep.retire(transport, options.retire)
        say(f"{options.retire}: the sweep is told")
        if known is False:
            say(f"{path} has no such host: is this the Hostname of its collectd?")
        return 0
    return sweep.run(
        sweep.Options(
            url,
            options.topic,
            options.pool,
            options.state_dir,
            options.repeat,
            options.repeat_for,
            options.grace,
        )
    )


def _templates(options: argparse.Namespace) -> int:
    from vitrage_notifier import rca_templates

    rca_templates.run(connect(), options.action, options.names, options.workflow, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
