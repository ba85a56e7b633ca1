"""A model is tried in a child process: its crash is told in words and hurts nobody."""

import io
import json
import re
import sys

import pytest

from beam_vision.errors import UsageError
from beam_vision.inference import check
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.loader import load
from beam_vision.testing import models


@pytest.mark.usefixtures("warm_children")
def test_a_model_that_kills_its_process_is_told_in_words(tmp_path):
    path = models.save_troubled(str(tmp_path / "m"), "abort")
    with pytest.raises(UsageError) as caught:
        check.checked(path, read_bundle(path, {}))
    assert f"the model {path} fails on generated images" in str(caught.value)
    assert "killed its process (SIGABRT)" in str(caught.value)
    assert "TF_ENABLE_ONEDNN_OPTS=0" in str(caught.value)


def test_the_child_tells_of_a_model_that_fails(tmp_path, monkeypatch, capsys):
    path = models.save_troubled(str(tmp_path / "m"), "short")
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(read_bundle(path, {}).to_json())))
    assert check.main([path]) == 0
    report = json.loads(capsys.readouterr().out.strip().removeprefix("beam-vision check: "))
    assert not report["ok"]
    assert re.search(
        r"bad_model_output: output '\w+' has shape \[3, (4|12)\] for a batch of 4", report["detail"]
    )


def test_a_model_that_never_answers_is_told_in_words(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    report = check.try_apart(path, read_bundle(path, {}), timeout_sec=0.05)
    assert (report.ok, report.detail) == (False, "the model did not answer within 0.05 s")


@pytest.mark.usefixtures("warm_children")
def test_a_good_model_completes_its_spec(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    spec, report = check.checked(path, read_bundle(path, {}))
    assert report.ok
    assert spec.freeze
    assert report.shapes == {"scores": [4, 4], "embedding": [4, 12]}
    assert (spec.classes, spec.embedding_dim, spec.activation, spec.multi_label) == (4, 12, "softmax", False)


def test_trying_here_says_the_same(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    report = check.try_here(load(path, read_bundle(path, {})))
    assert (report.ok, report.images, report.embedding_dim) == (True, 4, 12)


@pytest.mark.parametrize(
    ("number", "words"), [(9, "probably because memory ran out"), (11, "SIGSEGV"), (6, "SIGABRT")]
)
def test_signals_in_words(number, words):
    assert words in check._in_words(number, "first\n\nlast words\n")
    assert "last words" in check._in_words(number, "first\n\nlast words\n")
