"""How often each client may ask: a bucket of tokens for every address."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from time import monotonic

MOST_ADDRESSES = 10_000
"""Addresses that are remembered. Of more, the one not seen for the longest time starts anew."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that name a network. Who has one may use any address in it."""


class Rates:
    """Lets each address ask `rate` times a second, and `burst` times at once after a pause."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def seconds_to_wait(self, address: str) -> float:
        """0 if this address may ask now, which counts as asking. Otherwise the seconds until it may."""
        key, now = _network(address), self._clock()
        with self._lock:
            left, before = self._left.pop(key, (self._burst, now))
            left = min(self._burst, left + self._rate * (now - before))
            allowed = left >= 1
            self._left[key] = (left - allowed, now)
            if len(self._left) > MOST_ADDRESSES:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), IPV6_PREFIX), strict=False))
