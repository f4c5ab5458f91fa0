# SPDX-License-Identifier: Apache-2.0
"""`vmhb-guest run NAME -- COMMAND`: watches a program that cannot be changed.

The program is the application NAME for as long as it runs. If it ends with exit code 0 it has
deregistered; with any other, or by a signal, it has crashed.
"""

import argparse
import os
import signal
import sys
from typing import List

from .application import SOCKET, Application
from .signals import known

#: Seconds between two looks for an agent that was started again.
LOOK = 5.0
_PASSED_ON = set(known("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"))


def main(arguments: List[str]) -> int:
    """Run the command; return its exit code, or 128 and the number of the signal."""
    parser = argparse.ArgumentParser(
        prog="vmhb-guest run",
        usage="vmhb-guest run [--socket PATH] NAME -- COMMAND [ARGUMENT ...]",
        description="Runs COMMAND as the application NAME.",
    )
    parser.add_argument("--socket", default=SOCKET, help="(%s)" % SOCKET)
    parser.add_argument("name", metavar="NAME", help="of the check, which is app.NAME")
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at])
    command = arguments[at + 1 :]
    if not command:
        parser.error("say what to run after --")
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    pid = _start(command)
    application = Application(options.name, path=options.socket)
    return _leave(application, _wait(pid, application))


def _start(command: List[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write("vmhb-guest: cannot run %s: %s\n" % (command[0], error.strerror))
        sys.stderr.flush()
    finally:
        os._exit(127)


def _wait(pid: int, application: Application) -> int:
    """Pass signals on until the program ends; return how, as waitpid says it."""
    said = ""
    while True:
        taken = signal.sigtimedwait(_PASSED_ON | {signal.SIGCHLD}, LOOK)
        if taken is not None and taken.si_signo != signal.SIGCHLD:
            os.kill(pid, taken.si_signo)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if taken is None:
            application.beat()
        if application.error != said:
            said = application.error
            sys.stderr.write("vmhb-guest: not watched: %s\n" % said if said else "")


def _leave(application: Application, status: int) -> int:
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        how = "exit code %d" % code
    else:
        code = 128 + os.WTERMSIG(status)
        how = signal.Signals(os.WTERMSIG(status)).name
    if code == 0:
        application.close()
    else:
        application.status("critical", how)
    return code
