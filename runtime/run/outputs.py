"""The sinks of `sdi-run`, made from its options."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdi.runtime.common.console import log
from sdi.runtime.common.errors import InputError

if TYPE_CHECKING:
    from sdi.runtime.inspection.defects import DefectRule
    from sdi.runtime.sinks.base import Sink
    from sdi.runtime.sinks.outbox import Courier, Outbox
    from sdi.runtime.sinks.page import PageSink
    from sdi.runtime.sources.base import Source

__all__ = ["Outputs"]

_MB = 1_000_000


@dataclass(frozen=True)
class Outputs:
    """The options of `sdi-run` that name outputs; None: not wanted."""

    masks: Path | None = None
    overlay: Path | None = None
    jsonl: str | None = None
    jsonl_mb: float | None = None
    jsonl_keep: int = 5
    show: bool = False
    keep_defects: Path | None = None
    keep_mb: float = 1000
    mqtt: str | None = None
    webhook: str | None = None
    queue: Path | None = None
    queue_mb: float = 64
    http: str | None = None
    token: str | None = None
    station: str | None = None
    overwrite: bool = False

    @property
    def paths(self) -> list[str]:
        """Files and folders that are written."""
        return [str(path) for _, path in self._files() if path != "-"]

    def check(self, sources: Sequence[Source]) -> None:
        """Make sure that no output would overwrite an input or another output.

        Raises:
            InputError: one would.
        """
        inputs = [path for source in sources for path in source.inputs]
        folders = {folder.resolve() for folder in {file.parent for file in inputs}}
        taken: dict[Path, str] = {}
        for flag, given in self._files():
            if given == "-":
                continue
            path = Path(given).resolve()
            if path in folders:
                raise InputError(f"{flag} {path} is where the source's pictures lie; choose another folder")
            if any(file.name == path.name and file.resolve() == path for file in inputs):
                raise InputError(f"{flag} {path} is what the source reads; choose another name")
            if path in taken:
                raise InputError(f"{taken[path]} and {flag} need folders of their own")
            taken[path] = flag

    def open(self, stack: ExitStack, sources: Sequence[Source], rule: DefectRule) -> list[Sink]:
        """Make the sinks; `stack` closes them, also when one of them cannot be made.

        Raises:
            InputError: one cannot write to its file or folder, or cannot listen at its address.
        """
        from sdi.runtime.sinks.evidence import EvidenceSink
        from sdi.runtime.sinks.jsonl import JsonlSink
        from sdi.runtime.sinks.masks import MasksSink
        from sdi.runtime.sinks.overlay import OverlayFolderSink, OverlayVideoSink, WindowSink, is_video_path

        sinks: list[Sink] = []

        def add(sink: Sink) -> None:
            sinks.append(stack.enter_context(sink))

        if self.masks is not None:
            add(MasksSink(self.masks, overwrite=self.overwrite))
        if self.overlay is not None and is_video_path(self.overlay):
            rates = {source.name: source.fps for source in sources}
            add(OverlayVideoSink(self.overlay, rule, rates, overwrite=self.overwrite))
        elif self.overlay is not None:
            add(OverlayFolderSink(self.overlay, rule, overwrite=self.overwrite))
        if self.jsonl is not None:
            limit = None if self.jsonl_mb is None else int(self.jsonl_mb * _MB)
            add(JsonlSink(self.jsonl, max_bytes=limit, keep=self.jsonl_keep))
        if self.keep_defects is not None:
            add(EvidenceSink(self.keep_defects, int(self.keep_mb * _MB), overwrite=self.overwrite))
        if self.mqtt is not None:
            from sdi.runtime.sinks.mqtt import MqttCourier

            add(self._outbox(MqttCourier(self.mqtt, self._station)))
        if self.webhook is not None:
            from sdi.runtime.sinks.webhook import WebhookCourier

            add(self._outbox(WebhookCourier(self.webhook)))
        if self.show:
            add(WindowSink(rule))
        if self.http is not None:
            add(self._page([source.name for source in sources], rule, sinks))
        return sinks

    @property
    def _station(self) -> str:
        return self.station or socket.gethostname()

    def _files(self) -> list[tuple[str, str]]:
        """What is written, with its option."""
        given = (
            ("--masks", self.masks),
            ("--overlay", self.overlay),
            ("--jsonl", self.jsonl),
            ("--keep-defects", self.keep_defects),
        )
        return [(flag, str(path)) for flag, path in given if path is not None]

    def _outbox(self, courier: Courier) -> Outbox:
        from sdi.runtime.sinks.outbox import Outbox
        from sdi.runtime.sinks.spool import Spool, default_spool_folder, spool_path

        try:
            path = spool_path(self.queue or default_spool_folder(), courier.kind, courier.name)
            return Outbox(courier, Spool(path, max_bytes=int(self.queue_mb * _MB)), self._station)
        except BaseException:
            courier.close()
            raise

    def _page(self, names: list[str], rule: DefectRule, sinks: Sequence[Sink]) -> PageSink:
        from sdi.runtime.sinks.board import Board
        from sdi.runtime.sinks.metrics import Metrics
        from sdi.runtime.sinks.page import PageSink, parse_address

        try:
            metrics = Metrics(names, sinks)
        except ModuleNotFoundError:  # the page itself needs no package
            metrics = None
        page = PageSink(Board(names, rule, self._station), metrics, parse_address(self.http or ""), self.token)
        log.print(f"page: {page.url}")
        return page
