"""An asynchronous reverse proxy and API gateway on aiohttp.

    async with gateway.Gateway("gateway.yaml"):        # in an event loop that runs already
        ...
    web.run_app(gateway.application("gateway.yaml"))   # as an aiohttp application

Rules of this file: names are imported when they are asked for, so that `import gateway` costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.config import ConfigError, load
    from gateway.runtime.embedding import application, runner
    from gateway.runtime.gateway import Gateway

__version__ = "0.1.0"
__all__ = ["ConfigError", "Gateway", "__version__", "application", "load", "runner"]

_HOMES = {
    "ConfigError": "gateway.config",
    "Gateway": "gateway.runtime.gateway",
    "application": "gateway.runtime.embedding",
    "load": "gateway.config",
    "runner": "gateway.runtime.embedding",
}


def __getattr__(name: str) -> Any:
    """A public name, imported now (PEP 562)."""
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
