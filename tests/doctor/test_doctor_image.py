"""The workers' container: asked of a registry on loopback."""

import re
from pathlib import Path

import apache_beam
import pytest

from beam_vision.doctor import image
from beam_vision.doctor.image import BEAM_LABEL, PYTHON_LABEL, Versions

HERE = Versions("3.11", "2.77.0")
OURS = "us-docker.pkg.dev/my-project/repo/beam-vision:1"
LABELS = {BEAM_LABEL: "2.77.0", PYTHON_LABEL: "3.11"}


@pytest.mark.parametrize(
    ("config", "status", "said"),
    [
        ({"Labels": LABELS}, "ok", "Python 3.11, Beam 2.77.0, as here"),
        ({"Labels": {**LABELS, BEAM_LABEL: "2.60.0"}}, "fail", "Beam 2.60.0, here 2.77.0"),
        ({"Labels": {**LABELS, PYTHON_LABEL: "3.10"}}, "fail", "Python 3.10, here 3.11"),
        ({"Env": ["PATH=/bin", "PYTHON_VERSION=3.12.4"]}, "fail", "Python 3.12, here 3.11"),
        ({"Env": ["PYTHON_VERSION=3.11.4"], "Labels": None}, "unknown", "its version of Beam"),
        ({}, "unknown", "its version of Python and Beam"),
    ],
)
def test_an_image_is_asked_for_its_versions(cloud, google, find, config, status, said):
    cloud.images[OURS] = config
    found = find(image.check_image, google, OURS, HERE)["container"]
    assert found.status == status
    assert said in found.said
    assert [path.split("/v2/my-project/repo/beam-vision/")[1] for _, path in cloud.asked] == [
        "manifests/1",
        "manifests/sha256:m0",
        "blobs/sha256:c0",
    ], "the index, the variant for Linux and x86, its config"


def test_an_image_that_is_not_there_fails(cloud, google, find):
    found = find(image.check_image, google, OURS, HERE)["container"]
    assert found.status == "fail"
    assert "beam-vision template build" in found.remedy


def test_a_registry_that_is_not_googles_gets_no_token_of_googles(cloud, google, find):
    found = find(image.check_image, google, "registry.example.org/x/y:1", HERE)["container"]
    assert found.status == "unknown"
    assert found.remedy.startswith("docker run")
    assert (
        find(image.check_image, google, "evil-gcr.io.example.org/x:1", HERE)["container"].status == "unknown"
    )
    assert find(image.check_image, google, "notgcr.io/x:1", HERE)["container"].status == "unknown"
    assert not cloud.asked


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("apache/beam_python3.11_sdk:2.77.0", "ok"),
        ("gcr.io/cloud-dataflow/v1beta3/beam_python3.11_sdk:2.77.0", "ok"),
        ("apache/beam_python3.10_sdk:2.77.0", "fail"),
        ("apache/beam_python3.11_sdk:2.70.0", "fail"),
    ],
)
def test_beams_own_images_say_it_in_their_names(cloud, google, find, name, status):
    assert find(image.check_image, google, name, HERE)["container"].status == status
    assert not cloud.asked


def test_a_registry_that_refuses_is_unknown(cloud, google, find):
    cloud.faults["us-docker.pkg.dev"] = (
        403,
        "Permission artifactregistry.repositories.downloadArtifacts denied",
    )
    (found,) = find(image.check_image, google, OURS, HERE).values()
    assert found.status == "unknown"
    assert "may not look" in found.said


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_images_that_we_build_say_what_is_in_them(kind):
    text = (Path(__file__).parents[2] / "templates" / "flex" / f"Dockerfile.{kind}").read_text()
    (label,) = re.findall(r"^LABEL ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    labels = dict(pair.split("=") for pair in label.replace("\\\n", " ").split())
    there = image.versions_of({"Labels": labels})
    assert there.beam == apache_beam.__version__
    (base,) = re.findall(r"^FROM python:(\d+\.\d+)", text, re.MULTILINE)
    assert there.python == base
