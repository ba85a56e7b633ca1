"""TensorFlow's start-up lines are kept from the terminal, and nothing else is."""

import os

import pytest

from beam_vision import deps


def test_only_the_banner_is_left_out(capfd):
    with deps._without_banner():
        os.write(
            2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        )
        os.write(
            2, b"I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on.\nE0000 an error\n12 images\n"
        )
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "E0000 an error\n12 images\nafter\n"


def test_what_was_said_before_an_error_is_passed_on(capfd):
    with pytest.raises(ImportError), deps._without_banner():
        os.write(2, b"libfoo.so is missing\n")
        raise ImportError
    assert capfd.readouterr().err == "libfoo.so is missing\n"
