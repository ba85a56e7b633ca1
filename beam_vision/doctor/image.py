"""The workers' container: whether it is there, and has the Python and the Beam of the one who submits.

An image in Artifact Registry is asked itself, by the Docker Registry API: for its labels, and for the
``PYTHON_VERSION`` that Python's official images, and so Beam's, have in their environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from beam_vision.doctor.base import FAIL, OK, UNKNOWN, Finding
from beam_vision.doctor.google import Google

BEAM_LABEL = "beam-vision.beam"
PYTHON_LABEL = "beam-vision.python"
"""Labels of an image that say the version of Beam and the ``MAJOR.MINOR`` of Python in it."""

_REFERENCE = re.compile(
    r"(?P<host>[\w.-]+\.[\w.-]+)/(?P<name>[^:@]+)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:\w+))?"
)
_BEAM_IMAGE = re.compile(r"(?:.*/)?beam_python(?P<python>\d\.\d+)_sdk:(?P<beam>\d[\w.]*)")
_KINDS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_GOOGLES = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io")
"""Registries that are asked with the login to Google Cloud; no other may see its token."""


class Versions(NamedTuple):
    """Of Python (``MAJOR.MINOR``) and of Beam; ``""``: not known."""

    python: str
    beam: str


def check_image(google: Google, image: str, here: Versions) -> Iterator[Finding]:
    """Whether a container goes with the one who submits.

    Args:
      google: connections.
      image: as ``--sdk_container_image`` has it.
      here: the versions of this process.
    """
    from google.api_core import exceptions

    parsed = _REFERENCE.fullmatch(image)
    named = _BEAM_IMAGE.fullmatch(image)
    if named:
        yield compare(image, Versions(named["python"], named["beam"]), here)
        return
    if parsed is None or not _GOOGLES.fullmatch(parsed["host"]):
        said = f"{image} is in a registry that is not asked: its versions are not known"
        yield Finding("container", UNKNOWN, said, _look(image))
        return
    try:
        config = config_of(
            google, parsed["host"], parsed["name"], parsed["digest"] or parsed["tag"] or "latest"
        )
    except exceptions.NotFound:
        remedy = "build it: beam-vision template build; or correct --sdk_container_image"
        yield Finding("container", FAIL, f"{image} is not there", remedy)
        return
    yield compare(image, versions_of(config), here)


def _look(image: str) -> str:
    command = "python -c 'import apache_beam, sys; print(sys.version, apache_beam.__version__)'"
    return f'docker run --rm --entrypoint sh {image} -c "{command}"'


def config_of(google: Google, host: str, name: str, reference: str) -> dict[str, Any]:
    """The ``config`` of an image, of its Linux and x86 variant where there are several.

    Raises:
      Exception: one of :func:`~beam_vision.doctor.google.errors`.
    """
    headers = {"Accept": ", ".join(_KINDS)}
    manifest = google.get(host, f"/v2/{name}/manifests/{reference}", headers=headers)
    if "manifests" in manifest:
        wanted = {"os": "linux", "architecture": "amd64"}
        variants = [one for one in manifest["manifests"] if wanted.items() <= one.get("platform", {}).items()]
        chosen = (variants or manifest["manifests"])[0]["digest"]
        manifest = google.get(host, f"/v2/{name}/manifests/{chosen}", headers=headers)
    return google.get(host, f"/v2/{name}/blobs/{manifest['config']['digest']}").get("config", {})


def versions_of(config: Mapping[str, Any]) -> Versions:
    """What the labels of an image say of it, else its environment."""
    labels = config.get("Labels") or {}
    environment = dict(one.partition("=")[::2] for one in config.get("Env") or ())
    python = labels.get(PYTHON_LABEL) or ".".join(environment.get("PYTHON_VERSION", "").split(".")[:2])
    return Versions(python, labels.get(BEAM_LABEL, ""))


def compare(image: str, there: Versions, here: Versions) -> Finding:
    """Whether an image's versions are those of this process; both must be, for pickles cross between them."""
    parts = [
        (name, ours, theirs)
        for name, ours, theirs in (("Python", here.python, there.python), ("Beam", here.beam, there.beam))
        if theirs != ours
    ]
    different = [f"{name} {theirs}, here {ours}" for name, ours, theirs in parts if theirs]
    if different:
        remedy = "build it anew from this environment: beam-vision template build"
        return Finding("container", FAIL, f"{image} has {'; '.join(different)}", remedy)
    if parts:
        unsaid = " and ".join(name for name, _, _ in parts)
        return Finding("container", UNKNOWN, f"{image} doesn't say its version of {unsaid}", _look(image))
    return Finding("container", OK, f"{image}: Python {there.python}, Beam {there.beam}, as here")
