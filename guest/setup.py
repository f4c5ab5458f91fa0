# SPDX-License-Identifier: Apache-2.0
"""Installs the guest agent alone: a VM needs nothing else of the project."""

from setuptools import setup

setup(
    name="vmhb-guest",
    version="0.1.0",
    description="Answers VM heartbeat challenges over virtio-serial and reports health checks",
    license="Apache-2.0",
    packages=["vmhb_guest", "vmhb_conformance"],
    package_data={"vmhb_conformance": ["guest.jsonl", "protocol.schema.json"]},
    python_requires=">=3.6",
    entry_points={
        "console_scripts": [
            "vmhb-guest = vmhb_guest.__main__:main",
            "vmhb-conformance = vmhb_conformance.__main__:main",
        ]
    },
)
