"""What the images of flex templates are built from: versions agree, sources are there, all is locked."""

import ast
import importlib.metadata
import io
import re
import runpy
import zipfile
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from beam_vision.errors import UsageError
from beam_vision.pipelines.template_context import FILES, build_wheel, flex_folder, make_context
from beam_vision.pipelines.template_jobs import template_jobs

ROOT = Path(__file__).parent.parent.parent
FLEX = ROOT / "templates" / "flex"
DOCKERFILES = {"Dockerfile.cpu": "requirements.txt", "Dockerfile.gpu": "requirements-gpu.txt"}
WHEEL = "beam_vision-0.1.0-py3-none-any.whl"
LINUX = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux"}
LINUX |= {"platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython"}


def said_in_setup(name):
    """A list or a dict of ``setup.py``."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (value,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == name
    ]
    return ast.literal_eval(value)


def locked(name):
    """``{package: (version, hashes)}`` of a locked file."""
    text = (FLEX / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for line in lines:
        stated, *hashes = line.split("--hash=")
        requirement = Requirement(stated.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        found[requirement.name] = (pin.version, [one.strip() for one in hashes])
    return found


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A folder as ``template context`` makes it."""
    folder = tmp_path_factory.mktemp("context")
    (folder / WHEEL).write_bytes(b"")
    list(make_context(str(folder / "made"), wheel=str(folder / WHEEL)))
    return folder / "made"


def read_dockerfile(name):
    return DockerfileParser(fileobj=io.BytesIO((FLEX / name).read_bytes()))


@pytest.fixture(params=DOCKERFILES)
def name(request):
    """Of a Dockerfile."""
    return request.param


@pytest.fixture
def dockerfile(name):
    return read_dockerfile(name)


def instructions(dockerfile, name):
    return [one["value"] for one in dockerfile.structure if one["instruction"] == name]


def minor_of(version):
    return ".".join(version.split(".")[:2])


def python_minor():
    (version,) = set(re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    return version


def test_versions_are_those_of_setup_py_and_of_the_lock(dockerfile):
    sdk, launcher, python, last = dockerfile.parent_images
    beam, minor = locked("requirements.txt")["apache-beam"][0], python_minor()
    assert sdk == f"apache/beam_python{minor}_sdk:{beam}"
    assert f"/python{minor.replace('.', '')}-template-launcher-base:" in launcher
    assert not launcher.endswith(":latest")
    assert python.startswith(f"python:{minor}-slim")
    assert last == "base"
    (wanted,) = [one for one in said_in_setup("REQUIRES") if one.startswith("apache-beam")]
    assert beam in Requirement(wanted).specifier
    supported = re.search(r'python_requires="([^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert f"{minor}.0" in SpecifierSet(supported.group(1))


def test_every_source_of_a_copy_is_there(dockerfile, context):
    copies = [value.split() for value in instructions(dockerfile, "COPY")]
    own = [words[:-1] for words in copies if not words[0].startswith("--from=")]
    assert len(own) == 3
    for sources in own:
        for source in sources:
            assert list(context.glob(source)), source
    stages = {line.split(" AS ")[1] for line in instructions(dockerfile, "FROM")}
    assert {words[0].removeprefix("--from=") for words in copies if words[0].startswith("--from=")} <= stages


def test_the_image_is_a_workers_and_a_launchers(dockerfile, context):
    (entry,) = instructions(dockerfile, "ENTRYPOINT")
    assert entry == '["/opt/apache/beam/boot"]'
    copied = {tuple(value.split()[-2:]) for value in instructions(dockerfile, "COPY")}
    launcher = "/opt/google/dataflow/python_template_launcher"
    assert {("/opt/apache/beam", "/opt/apache/beam"), (launcher, launcher)} <= copied
    said = " ".join(instructions(dockerfile, "ENV"))
    (folder,) = instructions(dockerfile, "WORKDIR")
    assert f"FLEX_TEMPLATE_PYTHON_PY_FILE={folder}/launch.py" in said
    assert ("launch.py", "./") in copied
    assert not {"FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE", "FLEX_TEMPLATE_PYTHON_SETUP_FILE"} & set(
        re.findall(r"FLEX_\w+", said)
    ), "nothing is installed at launch"
    assert "BEAM_VISION_JOB=${JOB}" in said
    assert "BEAM_VISION_IMAGE=${IMAGE}" in said
    assert instructions(dockerfile, "ARG") == ["JOB", "IMAGE"]


def test_all_is_installed_by_hash_and_checked(dockerfile, name):
    installs = [value for value in instructions(dockerfile, "RUN") if "pip install" in value]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert installs[0].endswith(f"--requirement {DOCKERFILES[name]}")
    assert "--no-index" in installs[1]
    assert installs[1].endswith("&& pip check")


@pytest.mark.parametrize("name", DOCKERFILES.values())
def test_every_locked_package_has_its_hashes_and_no_place_to_get_it_from(name):
    text = (FLEX / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--find-links|--extra|--trusted| @ ", text)
    for package, (version, hashes) in locked(name).items():
        assert hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), (package, version)


@pytest.mark.parametrize(
    ("name", "extras"), [("requirements.txt", ["onnx"]), ("requirements-gpu.txt", ["onnx", "gpu"])]
)
def test_the_lock_is_what_setup_py_asks_for(name, extras):
    found, offered = locked(name), said_in_setup("EXTRAS")
    wanted = [*said_in_setup("REQUIRES"), *(one for extra in extras for one in offered[extra])]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(LINUX):
            assert found[requirement.name][0] in requirement.specifier, text


def test_the_lock_for_gpus_adds_cuda_and_nothing_else():
    cpu, gpu = locked("requirements.txt"), locked("requirements-gpu.txt")
    assert {name: gpu[name] for name in cpu} == cpu
    assert {name.split("-")[0] for name in set(gpu) - set(cpu)} == {"nvidia"}


def test_cuda_is_that_of_tensorflow():
    gpu = locked("requirements-gpu.txt")
    tensorflow = importlib.metadata.distribution("tensorflow")
    assert minor_of(tensorflow.version) == minor_of(gpu["tensorflow"][0])
    built = runpy.run_path(str(tensorflow.locate_file("tensorflow/python/platform/build_info.py")))
    facts = dict(built["build_info"])
    minor = minor_of(facts["cuda_version"])
    for name in ("cuda-runtime", "cuda-nvcc", "cuda-nvrtc", "cuda-cupti", "nvjitlink", "cublas"):
        assert gpu[f"nvidia-{name}-cu12"][0].startswith(f"{minor}."), name
    assert gpu["nvidia-cudnn-cu12"][0].split(".")[0] == facts["cudnn_version"].split(".")[0]
    needed = [Requirement(one) for one in tensorflow.requires if "and-cuda" in one]
    assert len(needed) > 8
    for requirement in needed:
        assert gpu[requirement.name][0] in requirement.specifier


def test_workers_with_gpus_find_the_driver_that_dataflow_mounts():
    said = " ".join(instructions(read_dockerfile("Dockerfile.gpu"), "ENV"))
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in said


def test_the_build_uses_each_of_its_substitutions_and_both_stages():
    build = yaml.safe_load((FLEX / "cloudbuild.yaml").read_text(encoding="utf-8"))
    scripts = [step["args"][1] for step in build["steps"]]
    used = set(re.findall(r"(?<!\$)\$\{(_[A-Z]+)\}", " ".join(scripts)))
    assert used == set(build["substitutions"])
    assert "--target base" in scripts[0]
    assert "--target template" in scripts[1]
    assert build["substitutions"]["_DOCKERFILE"] in FILES
    local = set(re.findall(r"\$\$\{(\w+)\}", scripts[1]))
    assert local == {"job", "image"}, "Cloud Build takes $$ for the shell's own"


def test_a_context_holds_all_and_replaces_an_earlier_one(context, tmp_path):
    assert {one.name for one in context.iterdir()} == {*FILES, *template_jobs(), WHEEL}
    for job in template_jobs():
        made = (context / job / "metadata.json").read_text(encoding="utf-8")
        assert made == (FLEX / job / "metadata.json").read_text(encoding="utf-8")
    newer = tmp_path / "beam_vision-0.2.0-py3-none-any.whl"
    newer.write_bytes(b"new")
    again = tmp_path / "again"
    for wheel in (context / WHEEL, newer):
        list(make_context(str(again), wheel=str(wheel)))
    assert [one.name for one in again.glob("*.whl")] == [newer.name]


@pytest.mark.parametrize(
    ("there", "wheel", "said"),
    [
        ("notes.txt", WHEEL, "holds notes.txt, which is no part of a build"),
        ("", "other-1.whl", "is no wheel of beam-vision"),
        ("", "beam_vision-9-py3-none-any.whl", "is no wheel of beam-vision"),
    ],
)
def test_a_context_that_can_not_be_is_refused(there, wheel, said, tmp_path):
    (tmp_path / WHEEL).write_bytes(b"")
    (tmp_path / "other-1.whl").write_bytes(b"")
    folder = tmp_path / "context"
    folder.mkdir()
    if there:
        (folder / there).write_text("")
    with pytest.raises(UsageError, match=said):
        list(make_context(str(folder), wheel=str(tmp_path / wheel)))


def test_our_wheel_holds_the_jobs_and_the_templates(tmp_path):
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 71:
        pytest.skip("the installed setuptools makes no wheels by itself")
    names = set(zipfile.ZipFile(build_wheel(tmp_path, isolated=False)).namelist())
    flex = {f"beam_vision/templates/flex/{name}" for name in FILES}
    flex |= {f"beam_vision/templates/flex/{job}/metadata.json" for job in template_jobs()}
    assert flex <= names
    assert {"beam_vision/pipelines/template_launch.py", "beam_vision/types.py"} <= names
    tracked = ("beam_vision", "templates")
    data = {
        f"{one.relative_to(ROOT)}" for name in tracked for one in (ROOT / name).rglob("*") if one.is_file()
    }
    data = {name for name in data if not name.endswith((".py", ".pyc"))}
    packed = {f"beam_vision/{name}" if name.startswith("templates") else name for name in data}
    assert "beam_vision/planning/prices.json" in packed
    assert packed <= names, "what the package reads beside its modules"
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "build"))]
    assert flex_folder().samefile(FLEX)
