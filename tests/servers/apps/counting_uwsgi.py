"""What `counting.py` is, with a hand in uWSGI's own hooks, as the environment says:

UWSGI_HOOKS=postfork    `uwsgidecorators`, imported last, and its decorator on a call of `klime_mp.restart()`
UWSGI_HOOKS=overwrite   `uwsgidecorators`, imported last, so that it overwrites what was in the slot, and no more
UWSGI_HOOKS=install     our own `install()`, twice, between hooks of the application's
"""

import os

import counting
from journal import track

import klime_mp
from klime_mp.integrations import uwsgi as klime_uwsgi

application = counting.application
hooks = os.environ["UWSGI_HOOKS"]

if hooks == "install":
    import uwsgi

    uwsgi.post_fork_hook = lambda: track("Forked")
    uwsgi.atexit = lambda: track("Ended")
    klime_uwsgi.install()
    klime_uwsgi.install()
else:
    import uwsgidecorators

    if hooks == "postfork":

        @uwsgidecorators.postfork
        def restart():
            klime_mp.restart()
            track("Forked")
