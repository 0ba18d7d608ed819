"""The most important rules of HTTP once more, with TLS between client and gateway.

Rules of this file: a test is another file's, taken over by name; here it finds this folder's `gateway` and `raw`. What is
chosen assumes most of a socket: framing and its attacks, ends of connections, pauses, deadlines, tunnels.
"""

from __future__ import annotations

from tests.e2e.conformance.conftest import refused, through  # noqa: F401 - fixtures
from tests.e2e.conformance.test_connections import *  # noqa: F403
from tests.e2e.conformance.test_expect import *  # noqa: F403
from tests.e2e.conformance.test_framing_requests import *  # noqa: F403
from tests.e2e.conformance.test_framing_responses import *  # noqa: F403
from tests.e2e.conformance.test_websocket import *  # noqa: F403
