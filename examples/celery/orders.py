# mypy: disallow-untyped-decorators=False
# (Celery has no types of its own.)
"""A shop's background work, which tells Klime what becomes of its orders.

Klime is set up by two environment variables, `KLIME_WRITE_KEY` and `KLIME_ENDPOINT`. No line here knows which pool
the tasks run in, that its processes are forked, or how they end.
"""

from celery import Celery

import klime_mp

app = Celery("orders")
app.config_from_object("celeryconfig")

# At import: in the worker itself, before it forks its pool. A group_id alone is enough.
klime_mp.track("Worker Started", group_id="shop")


@app.task
def ship(order: int, user_id: str, company_id: str) -> None:
    """Send an order on its way."""
    # Queued, and sent from the background: the task neither waits for it nor fails with it.
    klime_mp.track("Order Shipped", {"order": order}, user_id=user_id, group_id=company_id)


@app.task
def upgrade(company_id: str, plan: str) -> None:
    """Put a company on another plan."""
    klime_mp.group(company_id, {"plan": plan})
