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

COUNTED = (metrics, access_log, shed)
"""Outermost; in each of the three the first one is outermost, too."""
TIMED = (timeout, deadline)
"""What an upstream may have a say in: once for each branch of a split whose upstreams say different things."""
GUARDED = (body_limit, fault, mirror)
"""Innermost."""
