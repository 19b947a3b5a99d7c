"""A gunicorn configuration that patches the master, as some do to silence gevent's warning about a late patch."""

from gevent import monkey

monkey.patch_all()


def pre_fork(server, worker):
    from journal import client  # noqa: PLC0415 - importing it builds a client, which preload is to do

    server.log.info("Forks with %d pending", client.queue_size())
