"""Findings as people and programs read them."""

import pytest

from beam_vision.doctor.base import STATUSES, Check, Finding, examine
from beam_vision.doctor.render import render, to_json
from beam_vision.errors import JobError, UsageError

LONG = "gcloud projects add-iam-policy-binding " + "a-project-with-a-long-name " * 6 + "--role roles/x"
FOUND = [
    Finding("Python", "ok", "3.11.4", group="this machine"),
    Finding("Java", "warn", "not found " * 20, "install it", group="this machine"),
    Finding("APIs", "fail", "off", LONG, group="Google Cloud"),
    Finding("roles", "unknown", "off", LONG, group="Google Cloud"),
]


def test_text_is_broken_and_commands_are_not_and_none_is_said_twice():
    lines = render(FOUND, width=80).splitlines()
    assert lines[0] == "this machine"
    assert lines[lines.index("") + 1] == "Google Cloud"
    assert [line for line in lines if "add-iam-policy-binding" in line] == [f"{' ' * 19}-> {LONG}"]
    assert all(len(line) <= 80 for line in lines if LONG not in line)
    assert lines[-1] == "1 ok, 1 warn, 1 fail, 1 unknown"
    assert render([]).endswith("nothing to look at")


def test_programs_get_all_of_it():
    answer = to_json(FOUND, job="predict")
    assert (answer["job"], answer["ok"]) == ("predict", False)
    assert answer["counts"] == dict.fromkeys(STATUSES, 1)
    assert answer["findings"][2] == {
        "group": "Google Cloud",
        "name": "APIs",
        "status": "fail",
        "said": "off",
        "remedy": LONG,
    }
    assert to_json([FOUND[1], FOUND[3]])["ok"], "what is not known is not wrong"


@pytest.mark.parametrize("error", [UsageError("--output is empty"), JobError("it ended")])
def test_what_we_refuse_ourselves_fails_and_the_next_is_asked(error):
    def refuse():
        yield Finding("part", "ok", "said before")
        raise error

    checks = [Check("first", "a", refuse), Check("second", "b", lambda: [Finding("x", "ok", "y")])]
    found = examine(checks)
    assert [(one.group, one.name, one.status, one.said) for one in found] == [
        ("a", "part", "ok", "said before"),
        ("a", "first", "fail", str(error)),
        ("b", "x", "ok", "y"),
    ]
