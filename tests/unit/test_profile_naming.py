# SPDX-License-Identifier: Apache-2.0
"""The name that record gives is the one that report finds."""

import pytest

from hotpage.errors import ProfileError
from hotpage.profile.disk.naming import default_directory, newest_profile


def test_the_newest_default_name_is_found(tmp_path):
    old, new = (tmp_path / default_directory(started_s) for started_s in (1_700_000_000.0, 1_800_000_000.0))
    new.mkdir()
    old.mkdir()
    (tmp_path / "hotpage-99999999-999999.tar").write_text("")
    assert newest_profile(tmp_path) == new


def test_none_is_an_error_that_names_record(tmp_path):
    (tmp_path / default_directory(0.0)).write_text("a file, not a profile")
    with pytest.raises(ProfileError, match="hotpage record"):
        newest_profile(tmp_path)
