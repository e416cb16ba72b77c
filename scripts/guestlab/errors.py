# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the lab, in one line, and the console if there was a guest."""


class LabError(Exception):
    """Something that whoever runs the lab can do something about; the message says what."""


class MirrorError(LabError):
    """A kernel is not cached, and no package mirror can be reached."""


class GuestError(LabError):
    """A guest did not boot, died, or hung. ``console``: what it printed there, the end last."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(message)
        self.console = console
