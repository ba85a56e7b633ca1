"""A small Google Cloud on loopback, for tests of what asks it before a job.

It has a project with its APIs, permissions and quota, buckets, a registry of containers, and gives tokens.

>>> with FakeCloud() as cloud:
...     os.environ.update(cloud.environment)
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from beam_vision.doctor.google import EMULATOR_REST, KEY_FILE

NUMBER = "123456789012"
WORKER = f"{NUMBER}-compute@developer.gserviceaccount.com"
AGENT = f"service-{NUMBER}@dataflow-service-producer-prod.iam.gserviceaccount.com"
TOKEN = "a-token-of-the-fake-cloud"
EMAIL = "tester@my-project.iam.gserviceaccount.com"

Answer = tuple[int, Any]


def _region() -> dict[str, Any]:
    quotas = {"INSTANCES": (100, 0), "CPUS": (200, 8), "IN_USE_ADDRESSES": (50, 0), "N2_CPUS": (100, 0)}
    quotas |= {"NVIDIA_T4_GPUS": (4, 1), "NVIDIA_L4_GPUS": (2, 2), "DISKS_TOTAL_GB": (4096, 0)}
    return {
        "status": "UP",
        "zones": [f"https://www.example.org/zones/us-central1-{letter}" for letter in "abc"],
        "quotas": [{"metric": name, "limit": limit, "usage": used} for name, (limit, used) in quotas.items()],
    }


@dataclass
class FakeCloud:
    """The services; a context manager.

    Attributes:
      project: the only one there is; its number is :data:`NUMBER`.
      state: its state.
      enabled: APIs that are enabled.
      denied: permissions that the caller lacks.
      roles: of the project's policy, by member without ``serviceAccount:``.
      regions: what ``regions.get`` gives, by name.
      global_quotas: limit and usage of the whole project, by metric.
      offered: zones that have a GPU type or a machine type, by its name.
      buckets: what ``buckets.get`` gives, by name.
      images: by ``HOST/NAME:TAG``, the config of a container.
      faults: by service, the status and the message that it answers everything with.
      silent: services that take a request and never answer.
      asked: what was asked for, in order: method and path.
      needs_token: whether requests without the token are refused; :meth:`key_file` makes one who gets it.
      refused: why no token is given, such as ``invalid_grant``.
    """

    project: str = "my-project"
    state: str = "ACTIVE"
    enabled: set[str] = field(default_factory=lambda: {"dataflow", "compute", "logging", "storage", "pubsub"})
    denied: set[str] = field(default_factory=set)
    roles: dict[str, set[str]] = field(
        default_factory=lambda: {WORKER: {"roles/editor"}, AGENT: {"roles/dataflow.serviceAgent"}}
    )
    regions: dict[str, dict[str, Any]] = field(default_factory=lambda: {"us-central1": _region()})
    global_quotas: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"GPUS_ALL_REGIONS": (8, 1)}
    )
    offered: dict[str, set[str]] = field(default_factory=dict)
    buckets: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    images: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    needs_token: bool = False
    refused: str = ""

    def __enter__(self) -> FakeCloud:
        handler = type("Handler", (_Handler,), {"cloud": self})
        self.ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What points clients here."""
        return {EMULATOR_REST: self.address}

    def key_file(self, path: str) -> dict[str, str]:
        """Writes the key of a service account whose tokens come from here; what points clients to it.

        Their login also asks a service of Google's own beside the work; a proxy that isn't there keeps that
        on this machine.
        """
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        facts = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "1",
            "client_id": "1",
        }
        facts |= {"private_key": pem, "client_email": EMAIL, "token_uri": f"{self.address}/oauth2/token"}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        return {KEY_FILE: path, "HTTPS_PROXY": "http://127.0.0.1:9"}

    def answer(self, service: str, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
        """A status and what is answered with it."""
        if service in self.faults:
            code, said = self.faults[service]
            return code, _error(code, said)
        if service not in _SERVICES and "." not in service:
            return 404, _error(404, f"no such service: {service}")
        return _SERVICES.get(service, _registry(service))(self, path, query, body)


def _error(code: int, said: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": said}}


def _held(cloud: FakeCloud, wanted: list[str]) -> Answer:
    return 200, {"permissions": [one for one in wanted if one not in cloud.denied]}


def _resource_manager(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    name, _, method = path.removeprefix("/v3/projects/").partition(":")
    if name != cloud.project:
        return 403, _error(403, f"The caller does not have permission on {name}, or it does not exist")
    if method == "testIamPermissions":
        return _held(cloud, body["permissions"])
    if method == "getIamPolicy":
        roles = sorted(set().union(*cloud.roles.values()))
        members = {
            role: [f"serviceAccount:{one}" for one, held in cloud.roles.items() if role in held]
            for role in roles
        }
        return 200, {"bindings": [{"role": role, "members": found} for role, found in members.items()]}
    return 200, {"name": f"projects/{NUMBER}", "projectId": name, "state": cloud.state}


def _service_usage(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    states = [
        {
            "name": name.replace(cloud.project, NUMBER),
            "state": "ENABLED" if name.rpartition("/")[2].partition(".")[0] in cloud.enabled else "DISABLED",
        }
        for name in query["names"]
    ]
    return 200, {"services": states}


def _iam(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    return _held(cloud, body["permissions"])


def _compute(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    below = path.removeprefix(f"/compute/v1/projects/{cloud.project}")
    if below.startswith("/regions/"):
        name = below.removeprefix("/regions/")
        if name not in cloud.regions:
            return 404, _error(404, f"The resource 'projects/{cloud.project}/regions/{name}' was not found")
        return 200, {"name": name, **cloud.regions[name]}
    if below.startswith("/aggregated/"):
        return _aggregated(cloud, below.removeprefix("/aggregated/"), query)
    quotas = [
        {"metric": n, "limit": limit, "usage": used} for n, (limit, used) in cloud.global_quotas.items()
    ]
    return 200, {"name": cloud.project, "quotas": quotas}


def _aggregated(cloud: FakeCloud, kind: str, query: Mapping[str, list[str]]) -> Answer:
    """A zone a page, and zones that have nothing too, with the warning that Compute Engine gives."""
    name = query["filter"][0].partition("=")[2].strip()
    having = cloud.offered.get(name, set())
    zones = sorted({"europe-west4-a", *having})
    at = int(query.get("pageToken", ["0"])[0])
    found = {kind: [{"name": name}]} if zones[at] in having else {"warning": {"code": "NO_RESULTS_ON_PAGE"}}
    answer: dict[str, Any] = {"items": {f"zones/{zones[at]}": found}}
    return 200, answer | ({"nextPageToken": str(at + 1)} if at + 1 < len(zones) else {})


def _storage(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    name, _, part = path.removeprefix("/storage/v1/b/").partition("/")
    if name not in cloud.buckets:
        return 404, _error(404, "The specified bucket does not exist.")
    return _held(cloud, query["permissions"]) if part else (200, {"name": name, **cloud.buckets[name]})


def _oauth(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
    if cloud.refused:
        return 400, {"error": cloud.refused, "error_description": "Account has been deleted"}
    if body.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
        return 400, {"error": "unsupported_grant_type"}
    return 200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}


def _registry(host: str) -> Callable[..., Answer]:
    """A registry of containers; each image is an index of one variant."""

    def ask(cloud: FakeCloud, path: str, query: Mapping[str, list[str]], body: Any) -> Answer:
        matched = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(.+)", path)
        assert matched is not None
        name, kind, reference = matched.groups()
        digests = {
            f"sha256:{level}{index}": (level, image)
            for index, image in enumerate(cloud.images)
            for level in "mc"
        }
        level, image = digests.get(reference, ("i", f"{host}/{name}:{reference}"))
        if image not in cloud.images or (kind == "blobs") != (level == "c"):
            return 404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": f"no {reference}"}]}
        index = list(cloud.images).index(image)
        if level == "i":
            platform = {"os": "linux", "architecture": "amd64"}
            other = {"digest": "sha256:none", "platform": {"os": "linux", "architecture": "arm64"}}
            return 200, {"manifests": [other, {"digest": f"sha256:m{index}", "platform": platform}]}
        if level == "m":
            return 200, {"config": {"digest": f"sha256:c{index}"}}
        return 200, {"config": cloud.images[image]}

    return ask


_SERVICES: dict[str, Callable[..., Answer]] = {
    "cloudresourcemanager": _resource_manager,
    "serviceusage": _service_usage,
    "iam": _iam,
    "compute": _compute,
    "storage": _storage,
    "oauth2": _oauth,
}


class _Handler(BaseHTTPRequestHandler):
    cloud: FakeCloud

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"])).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        self._answer(json.loads(data) if is_json else parse_qs(data))

    def _answer(self, body: Any) -> None:
        url, cloud = urlsplit(self.path), self.cloud
        service, _, path = unquote(url.path).removeprefix("/").partition("/")
        cloud.asked.append((self.command, f"{service}/{path}"))
        if service in cloud.silent:
            cloud.ending.wait()
            return
        if cloud.needs_token and service != "oauth2" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            code, value = 401, _error(401, "Request is missing required authentication credential.")
        else:
            code, value = cloud.answer(service, f"/{path}", parse_qs(url.query), body)
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
