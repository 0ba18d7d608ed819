"""Debian's Chromium, headless: one run, one address, and the page that it ends at.

Rules of this file: it needs nothing but the program. What a profile's folder holds (cookies) outlives a run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.programs import need
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


async def visit(folder: Path, url: str, *more: str) -> str:
    """What the page that a real browser ends at says; its cookies stay in `folder`."""
    process = await asyncio.create_subprocess_exec(
        need("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--virtual-time-budget=20000", f"--user-data-dir={folder}", *more, "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(4 * PATIENCE):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode()
