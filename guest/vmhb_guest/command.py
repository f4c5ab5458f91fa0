# SPDX-License-Identifier: Apache-2.0
"""Becomes a program, in a child: with a clean environment, and as the user it shall run as."""

import os
from typing import List, NamedTuple

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CRITICAL = 2


class Command(NamedTuple):
    """A health check's program as the body of a child."""

    arguments: List[str]
    #: The check's name, which the program finds in VMHB_CHECK.
    name: str
    #: Whom it runs as; empty for the agent's own user.
    user: str = ""

    def run(self) -> int:
        """Become the program; come back only when that fails, which is critical."""
        try:
            home = _become(self.user) if self.user else "/"
            environment = {"PATH": _PATH, "LC_ALL": "C", "HOME": home, "VMHB_CHECK": self.name}
            environment["VMHB_LEVEL"] = os.environ.get("VMHB_LEVEL", "quick")
            os.execve(self.arguments[0], self.arguments, environment)  # noqa: S606
        except OSError as error:
            reason = error.strerror
        except KeyError:
            reason = "there is no user %s" % self.user
        os.write(1, ("cannot be run: %s" % reason).encode("utf-8"))
        return _CRITICAL


def shell(line: str, name: str, user: str = "") -> Command:
    """Return the command that runs a line of shell."""
    return Command(["/bin/sh", "-c", line], name, user)


def _become(user: str) -> str:
    """Give up all rights but those of `user`; return the home directory."""
    import pwd  # which Windows lacks

    entry = pwd.getpwnam(user)
    if entry.pw_uid != os.geteuid():
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    return entry.pw_dir
