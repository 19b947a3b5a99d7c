"""A gunicorn configuration with our hooks, and with workers that say when they have loaded the application."""

from announcing import post_worker_init  # noqa: F401 - found by name
from hooks import child_exit, post_fork, worker_exit  # noqa: F401 - found by name
