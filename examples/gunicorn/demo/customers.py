"""The load: a few customers who click through the shop at the same time, a bounded number of times."""

import collections
import http.client
import threading
import time
import urllib.parse

# One customer's way through the shop, over and over; a new one signs up at each round.
ROUND = (
    ("POST", "/signup"),
    ("GET", "/"),
    ("GET", "/products/tea"),
    ("POST", "/cart/tea"),
    ("GET", "/products/pot"),
    ("POST", "/cart/pot"),
    ("GET", "/products/cup"),
    ("POST", "/checkout"),
)
REQUEST_SECONDS = 15


class Customers:
    """Threads that send requests until enough are answered, or time is up, or they are told to stop."""

    def __init__(self, port: int, *, requests: int, seconds: float, concurrency: int = 8) -> None:
        self.answers: collections.Counter[str] = collections.Counter()  # status class or exception -> number
        self._port = port
        self._left = requests
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._shop, args=(n,)) for n in range(concurrency)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let each customer finish the request it is at, and send no further one."""
        with self._lock:
            self._left = 0
        for thread in self._threads:
            thread.join()

    def busy(self) -> bool:
        """Whether requests are still being sent."""
        return any(thread.is_alive() for thread in self._threads)

    def done(self) -> int:
        """How many requests have been sent and have ended, well or not."""
        with self._lock:
            return self.answers.total()

    def _shop(self, number: int) -> None:
        cookie, step = "", 0
        while self._may_go_on():
            method, path = ROUND[step % len(ROUND)]
            form = {"email": f"{number}-{step}@example.com", "company": f"Company {number}"}
            outcome, cookie = self._request(method, path, form if path == "/signup" else {}, cookie)
            step += 1
            with self._lock:
                self.answers[outcome] += 1

    def _may_go_on(self) -> bool:
        with self._lock:
            if self._left <= 0 or time.monotonic() > self._deadline:
                return False
            self._left -= 1
            return True

    def _request(self, method: str, path: str, form: dict[str, str], cookie: str) -> tuple[str, str]:
        """Send one request on its own connection (a sync worker keeps none); return outcome and cookie."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_SECONDS)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        try:
            connection.request(method, path, urllib.parse.urlencode(form) if form else None, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, cookie
        finally:
            connection.close()
        fresh = (answer.headers.get("Set-Cookie") or "").partition(";")[0]
        return f"{answer.status // 100}xx", fresh or cookie
