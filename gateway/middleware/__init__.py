"""What stands around every route's answer: one module each, and this the one place that says in which order.

The order is the product's promise, not the user's list; `gateway pipeline ROUTE` prints it.
"""

from gateway.middleware import (
    access_log,
    body_limit,
    deadline,
    fault,
    metrics,
    mirror,
    shed,
    timeout,
)

BUILTIN = (metrics, access_log, shed, timeout, deadline, body_limit, fault, mirror)
"""Outermost first."""
