# SPDX-License-Identifier: Apache-2.0
"""A session in a thread of its own, for what goes on beside it: whoever is slow there loses no events."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.snapshot import RunInfo
from hotpage.recording.recorder import Options, Recorder
from hotpage.recording.session import ProfileSink, Progress


class SessionThread(ABC):
    """Records until ``stop`` is called or ``should_stop`` gives a reason. It heeds both by itself, whatever
    the others are doing. ``error`` is what ended it before its time.
    """

    def __init__(self, options: Options, should_stop: Callable[[], str | None] = lambda: None) -> None:
        self.error: BaseException | None = None
        self._reason: str | None = None
        self._should_stop = should_stop
        self._recorder = Recorder(options, self._open)
        self._thread = threading.Thread(target=self._run, name="session")

    @property
    def progress(self) -> Progress:
        """Totals so far; the session's thread writes them."""
        return self._recorder.progress

    @property
    def is_running(self) -> bool:
        """Whether the session has begun and not ended."""
        return self._thread.is_alive()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start; on leaving, however that is, the session has ended and the system is as it was before.

        Raises what ended the session early, unless something else is on its way.
        """
        self._thread.start()
        try:
            yield
        finally:
            self.stop("complete")
            self._thread.join()
        if self.error is not None:
            raise self.error

    def stop(self, reason: str) -> None:
        """Ask the session to end, with this as its status."""
        if self._reason is None:
            self._reason = reason

    @abstractmethod
    def _open(self, run: RunInfo) -> ProfileSink:
        """Where intervals go; called once everything else is open."""

    @abstractmethod
    def _ended(self) -> None:
        """The session has ended, well or not."""

    def _run(self) -> None:
        try:
            self._recorder.run(lambda: self._reason or self._should_stop())
        except BaseException as error:
            self.error = error
        finally:
            self._ended()


class BackgroundSession(SessionThread):
    """Into a WatchedProfile, for a view beside it."""

    def __init__(self, options: Options, should_stop: Callable[[], str | None] = lambda: None) -> None:
        super().__init__(options, should_stop)
        self.profile: WatchedProfile | None = None

    def _open(self, run: RunInfo) -> WatchedProfile:
        self.profile = WatchedProfile(run)
        return self.profile

    def _ended(self) -> None:
        if self.profile is not None:
            self.profile.stop_recording()
