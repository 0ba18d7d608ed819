"""Programs of other people that a test needs: promtool, prometheus, and the like.

Rules of this file: where one is missing the test is skipped and says what to install; with
GATEWAY_REQUIRE_PROGRAMS=1 it fails instead, so that a machine that should have them all can not
pass by skipping.
"""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "openssl": "openssl",
    "curl": "curl",
    "htpasswd": "apache2-utils",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
}
"""The Debian package of each program that is not called like it, or whose name should be told."""


def need(name: str) -> str:
    """The path of a program; skips the test (or fails it) where there is none."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/bin")
    if found is not None:
        return found
    message = f"{name} is not installed (Debian package {PACKAGES.get(name, name)})"
    if os.environ.get("GATEWAY_REQUIRE_PROGRAMS") == "1":
        pytest.fail(message)
    pytest.skip(message)
