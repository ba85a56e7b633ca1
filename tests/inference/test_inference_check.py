"""A model is tried in a child process: its crash is told in words and hurts nobody."""

import pytest

from beam_vision.errors import UsageError
from beam_vision.inference import check
from beam_vision.inference.bundle import read_bundle
from beam_vision.testing import models


def test_a_model_that_kills_its_process_is_told_in_words(tmp_path):
    path = models.save_troubled(str(tmp_path / "m"), "abort")
    report = check.try_apart(path, read_bundle(path, {}))
    assert not report.ok
    assert "killed its process (SIGABRT)" in report.detail
    assert "TF_ENABLE_ONEDNN_OPTS=0" in report.detail


def test_a_model_that_fails_is_told_in_words(tmp_path):
    path = models.save_troubled(str(tmp_path / "m"), "short")
    with pytest.raises(UsageError, match=r"fails on generated images: bad_model_output.*\[3, (4|12)\]"):
        check.checked(path, read_bundle(path, {}))


def test_a_model_that_never_answers_is_told_in_words(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    report = check.try_apart(path, read_bundle(path, {}), timeout_sec=0.05)
    assert (report.ok, report.detail) == (False, "the model did not answer within 0.05 s")


def test_a_good_model_completes_its_spec(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    spec, report = check.checked(path, read_bundle(path, {}))
    assert report.ok
    assert report.shapes == {"scores": [4, 4], "embedding": [4, 12]}
    assert (spec.classes, spec.embedding_dim, spec.activation, spec.multi_label) == (4, 12, "softmax", False)


def test_trying_here_says_the_same(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    report = check.try_here(path, read_bundle(path, {}))
    assert (report.ok, report.images, report.embedding_dim) == (True, 4, 12)


@pytest.mark.parametrize(
    ("number", "words"), [(9, "probably because memory ran out"), (11, "SIGSEGV"), (6, "SIGABRT")]
)
def test_signals_in_words(number, words):
    assert words in check._in_words(number, "first\n\nlast words\n")
    assert "last words" in check._in_words(number, "first\n\nlast words\n")
