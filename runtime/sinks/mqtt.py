"""Events by MQTT."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from sdi.runtime.common.errors import InputError
from sdi.runtime.sinks.outbox import Courier, Undelivered

__all__ = ["MqttCourier"]

_KEEPALIVE_S = 20
_TICK_S = 0.2  # `deliver` looks this often whether it should give up


class MqttCourier(Courier):
    """Publishes to PREFIX/event/KIND with QoS 1: an event has arrived when the broker acknowledges it.

    PREFIX/status, retained, is `online` while the run is connected and `offline` after it. Where the run was killed or
    cut off, the broker itself sets it to `offline` (last will). Where the URL has no password, that in
    SDI_MQTT_PASSWORD is used.

    Args:
        url: mqtt://[USER[:PASSWORD]@]HOST[:PORT][/PREFIX], or mqtts:// for TLS; PREFIX is `sdi/STATION` by default.
        answer_s: after so long without an answer the event counts as undelivered.
        reconnect_s: the longest wait before the client connects again, whole seconds.
    Raises:
        InputError: the URL is malformed.
    """

    kind = "mqtt"

    def __init__(self, url: str, station: str, *, answer_s: float = 10.0, reconnect_s: int = 30) -> None:
        import paho.mqtt.client as mqtt  # an extra
        from paho.mqtt.enums import CallbackAPIVersion

        broker = _parse(url, station)
        self.prefix = broker.prefix
        self._ticks = max(1, round(answer_s / _TICK_S))
        self.name = f"broker {broker.host}:{broker.port}/{broker.prefix}"
        # The client's own thread sets these. Plain values: the client calls back under its own locks, so a lock of ours
        # around its `publish` could cause a deadlock.
        self._trouble = "it does not answer"
        self._acknowledged: set[int] = set()
        self._news = threading.Event()
        self._pending: tuple[int, bytes] | None = None  # published, and not known to have arrived
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.secure:
            self._client.tls_set()  # the system's authorities, or those that SSL_CERT_FILE names
        self._client.will_set(f"{self.prefix}/status", "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, reconnect_s)
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        self._client.loop_start()

    def deliver(self, kind: str, body: bytes, give_up: threading.Event) -> None:
        for _ in range(self._ticks):
            # The client itself sends again what was published before the connection was lost.
            if (self._pending is None or self._pending[1] != body) and self._client.is_connected():
                self._acknowledged.clear()
                self._pending = (self._client.publish(f"{self.prefix}/event/{kind}", body, qos=1).mid, body)
            if self._pending is not None and self._pending[0] in self._acknowledged:
                self._pending = None
                return
            if give_up.is_set():
                break
            self._news.wait(_TICK_S)
            self._news.clear()
        raise Undelivered(self._trouble)

    def close(self) -> None:
        if not self._client.is_connected():
            self._client.disconnect()  # its thread may wait for a name server: it ends with the process
            return
        self._client.publish(f"{self.prefix}/status", "offline", qos=1, retain=True).wait_for_publish(5 * _TICK_S)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._trouble = f"it refuses the connection: {reason}"
            return
        self._trouble = "it does not answer"
        client.publish(f"{self.prefix}/status", "online", qos=1, retain=True)
        self._news.set()

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._trouble = f"it cannot be reached ({sys.exc_info()[1]})"  # called where the client caught it

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not self._trouble.startswith("it refuses"):
            self._trouble = "it closed the connection"

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, properties: Any) -> None:
        self._acknowledged.add(number)
        self._news.set()


class _Broker(NamedTuple):
    host: str
    port: int
    secure: bool
    user: str | None
    password: str | None
    prefix: str


def _parse(url: str, station: str) -> _Broker:
    what = "expected mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts:// for TLS"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise InputError(f"--mqtt: no such address can be ({error}); {what}") from error
    if parts.scheme not in ("mqtt", "mqtts") or not host:
        raise InputError(f"--mqtt is no address of a broker; {what}")  # not shown: it may hold a password
    prefix = unquote(parts.path).strip("/") or f"sdi/{station}"
    if parts.query or "#" in url or any(letter in prefix for letter in "+#\0"):
        raise InputError(f"--mqtt: a prefix holds none of + # ?, which are no part of a topic's name; {what}")
    user = None if parts.username is None else unquote(parts.username)
    password = os.environ.get("SDI_MQTT_PASSWORD") if parts.password is None else unquote(parts.password)
    secure = parts.scheme == "mqtts"
    return _Broker(host, port or (8883 if secure else 1883), secure, user, password, prefix)
