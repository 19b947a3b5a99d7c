"""A mule: a process beside uWSGI's workers, forked from the same master, that does not serve requests."""

import uwsgi
from journal import track

for _ in range(5):
    track("Worked")
while True:
    uwsgi.mule_get_msg()
    track("Worked")
