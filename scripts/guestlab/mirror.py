# SPDX-License-Identifier: Apache-2.0
"""One Debian suite through apt, with sources, lists and state of its own: the system's are only read."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from guestlab.errors import LabError, MirrorError

# Through the system's own apt.conf, so that its proxy and certificates hold; its hooks are not for us.
_CONFIGURATION: Final = """\
Dir::State "{directory}/state";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
_DEBIAN_SUITES: Final = re.compile(
    r"(bullseye|bookworm|trixie|forky|duke|sid|oldstable|stable|testing|unstable)(-updates|-backports)?"
)


class Mirror:
    """A suite's packages. Raises LabError where the system's apt names no Debian mirror."""

    def __init__(self, suite: str, directory: Path) -> None:
        self._suite = suite
        self._file = directory / "apt.conf"
        if re.search(r'["\n]', str(directory)):
            raise LabError(f"apt cannot work in {str(directory)!r}; set HOTPAGE_LAB_CACHE")
        mirror = find_mirror()
        for part in ("state/lists/partial", "cache/archives/partial"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(f"deb{_keyring()} {mirror} {suite} main\n")
        self._file.write_text(_CONFIGURATION.format(directory=directory))

    def update(self) -> None:
        """Bring the suite's package list up to date. Raises MirrorError if the mirror cannot be reached."""
        try:
            self._apt("apt-get", "-q", "--error-on=any", "update")
        except LabError as error:
            raise MirrorError(f"no package mirror gives the list of {self._suite} ({error})") from error

    def names(self, prefix: str) -> list[str]:
        """Names of all packages that begin so."""
        return self._apt("apt-cache", "--generate", "pkgnames", prefix).split()

    def depends(self, package: str) -> list[str]:
        """Names of what a package depends on, alternatives included."""
        lines = self._apt("apt-cache", "depends", "--important", package).splitlines()
        return [line.split(":", 1)[1].strip(" <>") for line in lines if "Depends:" in line]

    def version(self, package: str) -> str:
        """The version that ``download`` fetches."""
        lines = self._apt("apt-cache", "show", "--no-all-versions", package).splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("Version: "))

    def download(self, packages: list[str], directory: Path) -> list[Path]:
        """Fetch packages, verified against the signed list, into a directory."""
        self._apt("apt-get", "-q", "download", *packages, directory=directory)
        return sorted(directory.glob("*.deb"))

    def _apt(self, program: str, *words: str, directory: Path | None = None) -> str:
        command = [program, "-c", str(self._file), *words]
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise LabError(
                f"{program} {words[0]} for {self._suite}: {(errors or ['E: failed'])[0][2:].strip()}"
            )
        return done.stdout


def find_mirror() -> str:
    """$HOTPAGE_LAB_MIRROR, else where the system's own apt gets Debian from."""
    if own := os.environ.get("HOTPAGE_LAB_MIRROR"):
        return own
    layout = "$(CREATED_BY) $(CODENAME) $(REPO_URI)"
    done = subprocess.run(["apt-get", "indextargets", "--format", layout], capture_output=True, text=True)
    return choose_mirror(done.stdout)


def choose_mirror(targets: str) -> str:
    """The URI of the first Debian mirror among apt's index targets, one a line: kind, suite, URI."""
    for line in targets.splitlines():
        kind, suite, uri = line.split(" ", 2)
        if kind == "Packages" and _DEBIAN_SUITES.fullmatch(suite):
            return uri
    raise LabError(
        "this system's apt has no Debian mirror: name one, HOTPAGE_LAB_MIRROR=URL, or --kernel PATH"
    )


def _keyring() -> str:
    """What to trust, where the distribution keeps Debian's keys in a file; else apt knows."""
    places = (Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg"))
    return next((f" [signed-by={place}]" for place in places if place.exists()), "")
