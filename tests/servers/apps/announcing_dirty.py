"""A gunicorn configuration with the hook that dirty workers need, and with workers that say when they are there."""

from announcing import post_worker_init  # noqa: F401 - found by name

from klime_mp.integrations.gunicorn import dirty_worker_init  # noqa: F401 - found by name
