"""A lake of files for the tests of this room."""

import pytest

from beam_vision.testing.images import make_lake


@pytest.fixture
def lake(tmp_path):
    """Three classes of eight images each, of all formats."""
    make_lake(tmp_path / "lake", per_class=8)
    return tmp_path / "lake"
