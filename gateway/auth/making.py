"""From a policy's settings to its authenticator: which module does what.

Rules of this file: a method's module is imported when a configuration has such a policy, for some need packages that are
not installed otherwise.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gateway.auth import Authenticator, Tools
    from gateway.config import model

MODULES = {
    "api_key": "api_key",
    "basic": "basic",
    "jwt": "jwt",
    "introspection": "introspection",
    "oidc": "oidc",
    "forward_auth": "forward_auth",
    "hmac": "signed",
    "mtls": "mtls",
}
"""The key of a policy, and the module of this folder that is for it: each has `make(name, settings, tools)`."""


def make(name: str, policy: model.AuthPolicy, tools: Tools) -> Authenticator:
    """The authenticator of the policy `name`.

    Raises ValueError or OSError, with a sentence for the user, for a file that can not be used or a package that is missing.
    """
    for key, module in MODULES.items():
        settings = getattr(policy, key)
        if settings is None:
            continue
        try:
            maker = importlib.import_module(f"gateway.auth.{module}").make
        except ModuleNotFoundError as missing:
            raise ValueError(
                f"auth.{name}: {key} needs the package {missing.name}: pip install 'gateway[auth]'"
            ) from missing
        return cast("Authenticator", maker(name, settings, tools))
    raise ValueError(f"auth.{name}: no method")
