"""An asynchronous reverse proxy and API gateway on aiohttp."""

__version__ = "0.1.0"
