"""Clients that ask a server over HTTP, from a process of their own."""

import http.client
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from urllib.parse import urlencode


@dataclass(frozen=True)
class Load:
    """What the clients saw: seconds of each answer, the number of refused requests, and the seconds that it took in all."""

    seconds: list[float]
    refused: int
    wall_s: float

    def percentile_ms(self, percent: int) -> float:
        """A percentile of the time of an answer."""
        return 1000 * statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


def drive(address: str, queries: Sequence[str], clients: int) -> Load:
    """Ask all queries, with so many clients that each wait for an answer before they ask again."""
    # From another process, so that this one's share of the processor is not taken for the server's.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_drive, address, queries, clients).result()


def _drive(address: str, queries: Sequence[str], clients: int) -> Load:
    waiting = iter(queries)
    seconds: list[float] = []
    statuses: list[int] = []

    def client(_: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        for query in waiting:
            start = time.perf_counter()
            connection.request("GET", "/results?" + urlencode({"q": query}))
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            if answer.status == 200:
                seconds.append(time.perf_counter() - start)
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    wall_s = time.perf_counter() - start
    refused = statuses.count(503)
    assert len(seconds) + refused == len(queries), statuses
    return Load(seconds, refused, wall_s)
