"""Speaks to the API processes. What is refused or unanswered while things break is counted and goes on."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import requests

_TIMEOUT_SECONDS = (1.0, 4.0)
# What may be answered while servers are away, or two actions cross.
_EXPECTED = frozenset((200, 201, 202, 204, 404, 409, 412, 503))


class Api:
    """Speaks to one of the API processes, another each time."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = urls
        self._numbers = count()
        self.answers: Counter[str] = Counter()
        self.surprises: list[str] = []

    def call(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        tries: int = 1,
    ) -> Any:
        """The answer's document ({} for none), or None if it was no success. Asks again where nobody answered.

        `key` is an Idempotency-Key.
        """
        for _ in range(tries):
            response = self._send(method, path, document, key)
            if response is not None and response.status_code < 500:
                break
            time.sleep(0.5 if tries > 1 else 0)
        if response is None or not response.ok:
            return None
        return response.json() if response.content else {}

    def handlers(self) -> set[str]:
        """The names of those that workers have announced."""
        return {found["name"] for found in self.call("GET", "/handlers") or ()}

    def _send(
        self, method: str, path: str, document: Mapping[str, Any] | None, key: str | None
    ) -> requests.Response | None:
        url = self.urls[next(self._numbers) % len(self.urls)]
        verb = f"{method} {'/'.join(part for part in path.split('/') if '-' not in part)}"
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        headers |= {"Idempotency-Key": key} if key else {}
        try:
            response = requests.request(method, url + path, json=document, headers=headers, timeout=_TIMEOUT_SECONDS)
        except requests.RequestException:
            self.answers[f"{verb}: none"] += 1
            return None
        self.answers[f"{verb}: {response.status_code}"] += 1
        if response.status_code not in _EXPECTED and "has passed" not in response.text:  # while the answer took long
            self.surprises.append(f"{verb} {document}: {response.status_code} {response.text[:300]}")
        return response
