"""What stands around every route's answer: one module each, and this the one place that says in which order.

The order is the product's promise, not the user's list; `gateway pipeline ROUTE` prints it. Each group is written outermost
first.
"""

from gateway.middleware import (
    access_log,
    allow,
    auth,
    body_limit,
    cors,
    csrf,
    deadline,
    fault,
    metrics,
    mirror,
    rate_limit,
    shed,
    timeout,
)
from gateway.middleware.base import Layer

COUNTED: tuple[Layer, ...] = (
    ("metrics", metrics.wrap),
    ("access_log", access_log.wrap),
    ("shed", shed.wrap),
)
TIMED: tuple[Layer, ...] = (("timeout", timeout.wrap), ("deadline", deadline.wrap))
"""What an upstream may have a say in: once for each branch of a split whose upstreams say different things."""
ADMITTED: tuple[Layer, ...] = (
    ("body_limit", body_limit.wrap),
    ("addresses", allow.wrap_addresses),
    ("cors", cors.wrap),
    ("rate_limit", rate_limit.by_address),
    ("auth", auth.wrap),
    ("csrf", csrf.wrap),
    ("allow", allow.wrap),
    ("rate_limit", rate_limit.by_identity),
)
"""Who may come in. What needs no credentials comes before what does, and what is cheap before what is dear."""
GUARDED: tuple[Layer, ...] = (("fault", fault.wrap), ("mirror", mirror.wrap))
"""Innermost."""
