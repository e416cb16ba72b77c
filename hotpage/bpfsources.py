# SPDX-License-Identifier: Apache-2.0
"""Where the BPF programs are: beside the package in a checkout, inside it when installed from a wheel."""

from pathlib import Path

from hotpage.errors import MissingDependencyError

_PACKAGE = Path(__file__).resolve().parent


def bpf_source_directory() -> Path:
    """Return the directory that holds ``hotpage.h``, the ``*.bpf.c`` programs and ``include/``.

    Raises MissingDependencyError when neither place has them (a damaged installation).
    """
    for directory in (_PACKAGE.parent / "bpfprog", _PACKAGE / "bpfprog"):
        if (directory / "hotpage.h").is_file():
            return directory
    raise MissingDependencyError(
        f"the BPF sources are missing beside {_PACKAGE}",
        "reinstall hotpage with pip install --force-reinstall",
    )
