"""Events by HTTP: a POST of JSON each."""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sdi.runtime.common.errors import InputError
from sdi.runtime.sinks.outbox import Courier, Refused, Undelivered

__all__ = ["WebhookCourier"]

# Repeating cannot mend these. Somebody may mend all others meanwhile, also a wrong address or login.
_FINAL = {400, 413, 415, 422}


class WebhookCourier(Courier):
    """POSTs to an http or https URL; an answer 2xx means that the event has arrived. Redirects are not followed.

    SDI_WEBHOOK_TOKEN in the environment, if there is one, is sent as a bearer token.

    Args:
        timeout_s: for connecting, and for each read and write.
    Raises:
        InputError: the URL is malformed.
    """

    kind = "webhook"

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        parts = _parts(url)
        if parts.username is not None or parts.password is not None:
            raise InputError("--webhook takes no login in its URL; put a token in the environment: SDI_WEBHOOK_TOKEN")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--webhook '{url}' is no URL of a web service; e.g. https://mes.example/hooks/strip")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InputError(f"--webhook '{url}' holds letters that no URL may; write them as %XX")
        self.name = f"webhook {parts.scheme}://{parts.netloc}{parts.path}"  # what follows '?' is often a secret
        self._url = url
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "sdi-run"}
        if token := os.environ.get("SDI_WEBHOOK_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def deliver(self, kind: str, body: bytes, give_up: threading.Event) -> None:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            self._opener.open(request, timeout=self._timeout_s).close()
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"it answered {error.code} {error.reason}"
            raise (Refused if error.code in _FINAL else Undelivered)(answer) from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise Undelivered(f"it cannot be reached ({getattr(error, 'reason', None) or error!r})") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, which delivers nothing."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _parts(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise InputError(f"--webhook is no URL: {error}") from error
    return parts
