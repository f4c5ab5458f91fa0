#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Looks at a compute node without changing it, and prints what it saw as one line of JSON.

Usage: probe.py COLLECTD CONFIG CONFIG_DIR LIBVIRT_URI OUR_DROP_IN
"""

from __future__ import annotations

import glob
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

# collectd parses a whole configuration before it acts on its first line. That line imports this,
# which ends the process: no other plugin of the configuration is even loaded.
_MODULE = """\
import os, sys
with open({answer!r}, "w") as answer:
    answer.write("%d.%d" % sys.version_info[:2])
os._exit(0)
"""
_CONF = """\
LoadPlugin python
<Plugin python>
  ModulePath "{directory}"
  Import "vmhb_probe"
</Plugin>
"""
# Its Python finds its home by the first python3 of the PATH, which is the system's in a service.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
#: Seconds that collectd or libvirt may be silent.
_PATIENCE = 20


def try_collectd(collectd: str, rest: str) -> tuple[str, str]:
    """Returns the Python that collectd embeds ("" if none), and what it says."""
    with tempfile.TemporaryDirectory() as directory:
        answer = os.path.join(directory, "answer")
        conf = os.path.join(directory, "probe.conf")
        with open(os.path.join(directory, "vmhb_probe.py"), "w") as module:
            module.write(_MODULE.format(answer=answer))
        with open(conf, "w") as file:
            file.write(_CONF.format(directory=directory) + rest)
        try:
            run = subprocess.run(
                [collectd, "-T", "-C", conf],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                timeout=_PATIENCE,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return "", str(error)
        said = " ".join(run.stdout.decode("utf-8", "replace").split())
        try:
            with open(answer) as file:
                return file.read(), said
        except FileNotFoundError:
            return "", said


def configuration(path: str) -> str:
    """Returns the text of a configuration with what it includes."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return ""
    for included in re.findall(r'^\s*<?Include\s+"([^"]+)"', text, re.MULTILINE | re.IGNORECASE):
        text += f"\n# includes {included}\n"
        for found in sorted(glob.glob(included)):
            inside = [found] if os.path.isfile(found) else sorted(glob.glob(found + "/*"))
            text += "\n".join(configuration(each) for each in inside)
    return text


def hostname(text: str) -> str:
    """Returns the host name that collectd gives its values."""
    named = re.findall(r'^\s*Hostname\s+"?([^"\s]+)', text, re.MULTILINE | re.IGNORECASE)
    if named:
        return str(named[-1])
    lookup = re.findall(r'^\s*FQDNLookup\s+"?(\w+)', text, re.MULTILINE | re.IGNORECASE)
    if lookup and lookup[-1].lower() in ("false", "no", "off"):
        return socket.gethostname()
    return socket.getfqdn()


def libvirt_trouble(uri: str) -> str:
    """Returns why libvirt does not answer, "" when it does."""
    try:
        import libvirt
    except ImportError:
        return "" if uri != "qemu:///system" else socket_trouble()
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        libvirt.openReadOnly(uri).close()
    except libvirt.libvirtError as error:
        return str(error)
    return ""


def socket_trouble() -> str:
    """Returns why no daemon of libvirt is there, for as long as its binding is not installed."""
    trouble = "there is no socket in /run/libvirt"
    for name in ("virtqemud-sock-ro", "libvirt-sock-ro"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            try:
                connection.connect("/run/libvirt/" + name)
            except FileNotFoundError:
                continue
            except OSError as error:
                trouble = f"/run/libvirt/{name}: {error}"
            else:
                return ""
    return trouble


def unit_text(ours: str) -> str:
    """Returns collectd's unit with its drop-ins, but for `ours`; "" without systemd."""
    try:
        run = subprocess.run(
            ["systemctl", "cat", "collectd.service"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    parts = re.split(r"^# (?=/)", run.stdout.decode("utf-8", "replace"), flags=re.MULTILINE)
    return "".join(part for part in parts if not part.startswith(ours + "\n"))


def may_override(unit: str) -> bool:
    """Whether the unit leaves CAP_DAC_OVERRIDE, without which root may not open a channel."""
    sets = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    if not sets:
        return True
    return any(
        ("CAP_DAC_OVERRIDE" in each) != each.lstrip().startswith("~") for each in sets if each
    )


def descriptors(unit: str) -> int:
    """Returns the hard limit of open files that collectd gets; 0: not known."""
    limits = re.findall(r"^LimitNOFILE=(?:\S*:)?(\d+|infinity)\s*$", unit, re.MULTILINE)
    try:
        limit = (
            limits[-1]
            if limits
            else subprocess.check_output(
                ["systemctl", "show", "--value", "--property=DefaultLimitNOFILE"],
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE,
            ).decode()
        )
        return 2**30 if limit == "infinity" else int(limit)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def main() -> None:
    """Looks, and prints."""
    collectd, config, config_dir, uri, drop_in = sys.argv[1:]
    python, said = try_collectd(collectd, "")
    trouble = ""
    if python and config:
        _, trouble = try_collectd(collectd, f'Include "{config}"\n')
        trouble = "" if "rror" not in trouble else trouble
    text = configuration(config)
    unit = unit_text(drop_in)
    included = re.findall(r"^# includes (.*)$", text, re.MULTILINE)
    seen = {
        "collectd": os.access(collectd, os.X_OK),
        "python": python,
        "said": said,
        "syntax": trouble,
        "hostname": hostname(text),
        "included": any(os.path.join(each, "").startswith(config_dir + "/") for each in included),
        "libvirt": libvirt_trouble(uri),
        "capable": may_override(unit),
        "descriptors": descriptors(unit),
    }
    sys.stdout.write(json.dumps(seen) + "\n")


main()
