"""gcloud's command lines: what stands where, what is refused, and that gcloud itself reads them."""

import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.dataflow import launch
from beam_vision.errors import UsageError

FLEX = Path(__file__).parent.parent.parent / "templates" / "flex"
IMAGES = launch.Images(repository="us-docker.pkg.dev/p/r/beam-vision", tag="0.1.0")
PARAMETERS = {"images": "gs://b/a,gs://b/c", "check_model": "false", "query": "select ';' | x ~ y"}
BUILD = {
    "name": "operations/build/p/1",
    "metadata": {
        "@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata",
        "build": {"id": "1", "status": "QUEUED", "projectId": "p", "logUrl": "http://localhost/log"},
    },
}
JOB = {"job": {"id": "1", "name": "predict-1"}}


def run_of(beam=(), **settings):
    return launch.Run(
        **{"name": "predict-1", "spec": "gs://b/t/predict.json", "parameters": PARAMETERS, **settings},
        beam=[("region", "us-central1"), *beam],
    )


def flags(command):
    return dict(word[2:].partition("=")[::2] for word in command if word.startswith("--"))


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text(alphabet="x,;|~!@%#+-:= ^", max_size=12), min_size=1)
)
def test_values_are_told_apart_whatever_is_in_them(values):
    text = launch.joined(values)
    if text.startswith("^"):
        _, delimiter, rest = text.split("^", 2)
    else:
        delimiter, rest = ",", text
    parts = rest.split(delimiter)
    assert dict(part.partition("=")[::2] for part in parts) == values


def test_values_with_every_separator_are_refused():
    assert launch.joined({"a": ",;|~!@%#+", "b": "x"}) == "^-:-^a=,;|~!@%#+-:-b=x"
    assert launch.joined({"a": ",;|~!@%#+-:", "b": "x"}) == "^~:~^a=,;|~!@%#+-:~:~b=x"
    with pytest.raises(UsageError, match=r"could not tell these values apart.*change one of them"):
        launch.joined({"a": ",;|~!@%#+", "b": "-:-~:~=:=+:+"})


def test_beams_options_become_gclouds_flags():
    beam = [
        *(("max_num_workers", "5"), ("machine_type", "g2-standard-8"), ("experiments", "a,b")),
        *(("experiments", "c"), ("no_use_public_ips", "true"), ("runner", "DataflowRunner")),
        *(("sdk_container_image", "x/y:1"), ("dataflow_service_options", "o1")),
        *(("dataflow_service_options", "o2"), ("worker_disk_type", "ssd")),
    ]
    found = flags(launch.run_command(run_of(beam), known=["sdk_container_image", "dataflow_service_options"]))
    assert (found["max-workers"], found["worker-machine-type"]) == ("5", "g2-standard-8")
    assert found["additional-experiments"] == "a,b,c"
    assert found["disable-public-ips"] == ""
    assert "sdk_container_image=x/y:1" in found["parameters"]
    assert "dataflow_service_options=o1,o2" in found["parameters"]
    assert found["additional-pipeline-options"] == "worker_disk_type=ssd"
    assert found["launcher-machine-type"] == launch.LAUNCHER_MACHINE_TYPE
    assert "runner" not in str(found)


@pytest.mark.parametrize(
    ("beam", "settings", "said"),
    [
        ([("runner", "FlinkRunner")], {}, "--runner FlinkRunner: a template runs on Dataflow only"),
        ([("requirements_file", "r.txt")], {}, "--requirements_file doesn't go with a template"),
        ([("template_location", "gs://b/x")], {}, "--template_location doesn't go with a template"),
        ([], {"name": "Predict_1"}, "--job_name 'Predict_1' must be of lower-case letters"),
        ([], {"spec": "predict.json"}, "the template 'predict.json' must be in a bucket"),
    ],
)
def test_what_can_not_be_is_refused(beam, settings, said):
    with pytest.raises(UsageError, match=said):
        launch.run_command(run_of(beam, **settings))


def test_a_region_must_be_named():
    with pytest.raises(UsageError, match="--region is missing"):
        launch.run_command(launch.Run(name="a", spec="gs://b/a.json", parameters={}))


@pytest.mark.parametrize("name", ["beam-vision", "us-docker.pkg.dev/p/r/a:1", "us-docker.pkg.dev/P/r/a", ""])
def test_an_image_is_named_whole_and_without_a_tag(name):
    with pytest.raises(UsageError, match="--image"):
        launch.Images(repository=name, tag="1")


def test_images_with_cuda_have_names_of_their_own():
    gpu = launch.Images(repository=IMAGES.repository, tag="0.1.0", gpu=True)
    assert IMAGES.of("predict") == "us-docker.pkg.dev/p/r/beam-vision/predict:0.1.0"
    assert gpu.of("predict") == "us-docker.pkg.dev/p/r/beam-vision/predict:0.1.0-gpu"
    assert gpu.base == "us-docker.pkg.dev/p/r/beam-vision:0.1.0-gpu"
    assert launch.spec_path("gs://b/t/", "predict", gpu=True) == "gs://b/t/predict-gpu.json"
    with pytest.raises(UsageError, match="--templates 't' must be a folder in a bucket"):
        launch.spec_path("t", "predict")


def test_a_command_that_is_shown_reads_back_as_the_same():
    command = launch.run_command(run_of())
    typed = f"printf '%s\\0' {launch.shell(command)}"
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\0")[:-1] == command


class Service(http.server.BaseHTTPRequestHandler):
    """Takes what gcloud posts."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.posted.append((self.path.partition("?")[0], body))
        answer = json.dumps(BUILD if "/builds" in self.path else JOB).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        pass


@pytest.fixture
def gcloud(tmp_path):
    """``gcloud(command)`` runs Google's own program against a service here: what it printed and posted."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed here")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.posted = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    names = ("API_ENDPOINT_OVERRIDES_DATAFLOW", "API_ENDPOINT_OVERRIDES_CLOUDBUILD")
    environ = {
        **os.environ,
        **{f"CLOUDSDK_{name}": address for name in names},
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_PROJECT": "p",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }

    def run(command):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, server.posted

    yield run
    server.shutdown()
    server.server_close()


def test_gcloud_launches_the_job_with_what_was_asked_for(gcloud):
    beam = [("max_num_workers", "5"), ("experiments", "a,b"), ("enable_streaming_engine", "true")]
    beam += [("labels", "team=vision"), ("temp_location", "gs://b/temp"), ("num_workers", "2")]
    _, posted = gcloud(launch.run_command(run_of(beam)))
    ((path, body),) = posted
    assert path == "/v1b3/projects/p/locations/us-central1/flexTemplates:launch"
    asked = body["launchParameter"]
    assert asked["parameters"] == PARAMETERS
    assert (asked["jobName"], asked["containerSpecGcsPath"]) == ("predict-1", "gs://b/t/predict.json")
    environment = asked["environment"]
    assert (environment["maxWorkers"], environment["numWorkers"]) == (5, 2)
    assert environment["additionalExperiments"] == ["a", "b"]
    assert environment["enableStreamingEngine"] is True
    assert environment["additionalUserLabels"] == {"team": "vision"}
    assert environment["launcherMachineType"] == launch.LAUNCHER_MACHINE_TYPE


def test_gcloud_writes_the_template_with_every_parameter(gcloud):
    command = launch.spec_command(IMAGES, "predict", str(FLEX), "gs://b/t", project="p")
    printed, _ = gcloud([*command, "--print-only", "--format=value(.)"])
    spec = json.loads(printed)
    written = json.loads((FLEX / "predict" / "metadata.json").read_text(encoding="utf-8"))
    assert spec["image"] == IMAGES.of("predict")
    assert spec["sdkInfo"] == {"language": "PYTHON"}
    assert spec["metadata"]["parameters"] == written["parameters"]


def test_gcloud_takes_the_build(gcloud):
    command = launch.image_command(IMAGES, ["predict", "stream"], str(FLEX), project="p")
    here = [word for word in command if word != str(FLEX)]
    _, posted = gcloud([*here, "--no-source", "--async"])
    ((path, body),) = posted
    assert path.startswith("/v1/projects/p/locations/")
    assert path.endswith("/builds")
    assert body["substitutions"] == {
        "_IMAGE": IMAGES.repository,
        "_TAG": "0.1.0",
        "_DOCKERFILE": "Dockerfile.cpu",
        "_JOBS": "predict stream",
    }
    assert [step["id"] for step in body["steps"]] == ["shared", "jobs"]
