"""This machine's checks, each with a machine made so that it fails: real files, programs and processes."""

import os
import sys
from pathlib import Path

import pytest

from beam_vision.doctor import environment, libraries


def program(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize(
    ("version", "status"), [((3, 9, 2), "fail"), ((3, 11, 4), "ok"), ((3, 14, 0), "fail")]
)
def test_pythons_that_nothing_has_wheels_for_fail(version, status, find):
    found = find(environment.check_python, version)["Python"]
    assert (found.status, bool(found.remedy)) == (status, status == "fail")


def test_the_limits_of_a_container_count(tmp_path, find):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    found = find(environment.check_machine, tmp_path)
    cores = min(1.5, len(os.sched_getaffinity(0)))
    assert found["processors"].status == "warn"
    assert found["processors"].said.startswith(f"{cores:g} of ")
    assert (found["memory"].status, found["memory"].said[:7]) == ("warn", "1.0 GiB")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    found = find(environment.check_machine, tmp_path)
    assert not found["memory"].said.startswith("1.0 GiB")
    assert environment.cores_allowed(tmp_path) == len(os.sched_getaffinity(0))


def test_few_open_files_are_a_warning(find):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    try:
        found = find(environment.check_machine)["open files"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (found.status, found.said) == ("warn", "at most 512")
    assert found.remedy.startswith("ulimit -n ")


def test_a_folder_to_come_is_looked_at_where_it_will_be(tmp_path, find):
    new = str(tmp_path / "not" / "yet" / "there")
    assert find(environment.check_disk, [new])[f"disk {new}"].status in ("ok", "warn")
    assert not (tmp_path / "not").exists()
    file = tmp_path / "file"
    file.write_text("")
    found = find(environment.check_disk, [str(file / "table")])[f"disk {file / 'table'}"]
    assert (found.status, found.said) == ("fail", f"{file} is no folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_fails(tmp_path, find):
    tmp_path.chmod(0o500)
    found = find(environment.check_disk, [str(tmp_path)])[f"disk {tmp_path}"]
    assert found.status == "fail"


def test_java_is_missed_where_it_is_needed(path, find):
    assert find(environment.check_java)["Java"].status == "warn"
    found = find(environment.check_java, needed_by="--write_method storage_write_api")["Java"]
    assert found.status == "fail"
    assert "--write_method storage_write_api needs it" in found.said
    program(path, "java", "echo 'openjdk version \"1.8.0_392\"' >&2")
    assert find(environment.check_java)["Java"].status == "warn"
    program(path, "java", "echo 'openjdk version \"17.0.9\" 2023-10-17' >&2")
    found = find(environment.check_java)["Java"]
    assert (found.status, found.said) == ("ok", 'openjdk version "17.0.9" 2023-10-17')


def test_gcloud_that_does_not_run_is_none(path, find):
    assert find(environment.check_gcloud)["gcloud"].status == "warn"
    program(path, "gcloud", "echo broken; exit 3")
    assert find(environment.check_gcloud)["gcloud"].status == "warn"
    program(path, "gcloud", "echo Google Cloud SDK 528.0.0; echo more")
    assert find(environment.check_gcloud)["gcloud"].said == "Google Cloud SDK 528.0.0"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of libraries, in front of all others, here and in processes."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def distribution(site, name, version="1.0", requires=()):
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    (folder / "METADATA").write_text("\n".join(lines + [f"Requires-Dist: {one}" for one in requires]) + "\n")


def test_packages_are_held_against_what_is_required(site, find):
    distribution(site, "old", "1.4.1")
    distribution(site, "right", "2.0")
    needs = [
        "old<2,>=1.4.2",
        "right>=2",
        "absent>=3",
        "never; sys_platform == 'plan9'",
        "extra; extra == 'x'",
    ]
    distribution(site, "made", requires=needs)
    found = find(libraries.check_packages, "made")["packages"]
    assert found.status == "fail"
    assert found.said == "old is 1.4.1, <2,>=1.4.2 is needed; absent is missing, >=3 is needed"
    assert found.remedy == "pip install 'old<2,>=1.4.2' 'absent>=3'"
    distribution(site, "fine", requires=["right>=2"])
    assert find(libraries.check_packages, "fine")["packages"].status == "ok"
    assert find(libraries.check_packages, "nothing-of-this-name")["packages"].status == "unknown"


def test_our_own_packages_are_there(find):
    assert find(libraries.check_packages)["packages"].status == "ok"


def test_a_library_that_kills_its_process_is_named_and_the_next_is_tried(site, find):
    (site / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (site / "keras.py").write_text("raise ValueError('no backend')\n")
    found = find(libraries.check_libraries, libraries.probe(("onnxruntime", "keras", "crc32c")))
    assert [(one.name, one.status) for one in found.values()] == [
        ("crc32c", "ok"),
        ("ONNX Runtime", "fail"),
        ("Keras", "fail"),
    ]
    assert "was ended by SIGSEGV" in found["ONNX Runtime"].said
    assert "ValueError: no backend" in found["Keras"].said


def test_a_library_that_never_ends_is_given_up(site, find):
    (site / "onnxruntime.py").write_text("import time\ntime.sleep(600)\n")
    probed = libraries.probe(("onnxruntime",), timeout_sec=0.5)
    assert find(libraries.check_libraries, probed)["ONNX Runtime"].said.endswith("took more than 0.5 s")


def test_what_can_be_done_without_is_a_warning(find):
    lacking = libraries.Probed(
        facts={"scann": {"found": False, "installed": True}},
        broken={"onnxruntime": "onnxruntime is needed for this and is not installed: pip install x"},
    )
    found = find(libraries.check_libraries, lacking)
    assert [one.status for one in found.values()] == ["warn", "warn"]
    assert "not approximate" in found["ScaNN"].said


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"implementation": "c", "checksum": 0xE3069283}, "ok"),
        ({"implementation": "python", "checksum": 0xE3069283}, "warn"),
        ({"implementation": "c", "checksum": 1}, "fail"),
    ],
)
def test_checksums_are_computed_and_quickly(facts, status, find):
    found = find(libraries.check_libraries, libraries.Probed(facts={"crc32c": facts}))
    assert found["crc32c"].status == status


@pytest.mark.parametrize(
    ("gpus", "driver", "needs_gpu", "status"),
    [
        (["NVIDIA L4"], "NVIDIA L4, 550", True, "ok"),
        ([], "NVIDIA L4, 550", False, "warn"),
        ([], "NVIDIA L4, 550", True, "fail"),
        ([], "", False, "ok"),
        ([], "", True, "fail"),
    ],
)
def test_a_gpu_that_tensorflow_does_not_see_is_said(gpus, driver, needs_gpu, status, find):
    facts = {"gpus": gpus, "cuda_version": "12.5.1"}
    found = libraries.check_gpu(facts, needs_gpu=needs_gpu, driver=driver)
    assert found.status == status
    if driver and not gpus:
        assert "tensorflow[and-cuda]" in found.remedy


def test_the_drivers_own_list_is_read(path):
    assert libraries.driver() == ""
    program(path, "nvidia-smi", "echo 'NVIDIA L4, 550.54'; echo 'NVIDIA L4, 550.54'")
    assert libraries.driver() == "NVIDIA L4, 550.54; NVIDIA L4, 550.54"
    program(path, "nvidia-smi", 'echo "couldn\'t communicate with the driver"; exit 9')
    assert libraries.driver() == ""


def test_the_interpreter_that_is_probed_is_this_one():
    assert Path(sys.executable).exists()
    assert libraries.probe(("crc32c",)).facts["crc32c"]["implementation"] == "c"
