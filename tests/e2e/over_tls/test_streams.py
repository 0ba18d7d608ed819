"""Slow readers, pauses, ends and deadlines once more, with TLS between client and gateway.

The rules are those of test_conformance.py.
"""

from __future__ import annotations

from tests.e2e.test_at_once import *  # noqa: F403
from tests.e2e.test_backpressure import *  # noqa: F403
from tests.e2e.test_closing import *  # noqa: F403
from tests.e2e.test_slow_readers import *  # noqa: F403
from tests.e2e.test_timeouts import *  # noqa: F403
