"""What a region has, and how many workers its quota leaves room for."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.dataflow.machines import GPUS
from beam_vision.doctor import quota
from beam_vision.doctor.job import Uses

L4 = Uses(
    on_dataflow=True,
    project="my-project",
    region="us-central1",
    accelerator="nvidia-l4",
    accelerators=1,
    machine_type="g2-standard-8",
)
ZONES = {"us-central1-a", "us-central1-f"}


def test_a_gpu_is_looked_for_in_the_regions_zones_over_all_pages(cloud, google, find):
    cloud.offered = {"nvidia-l4": {"asia-east1-a", "us-central1-b"}, "g2-standard-8": {"us-central1-b"}}
    found = find(quota.check_region, google, L4)
    assert (found["region"].status, found["GPU type"].status) == ("ok", "ok")
    assert found["GPU type"].said == "nvidia-l4 in us-central1-b"
    assert found["machine type"].said == "g2-standard-8 in us-central1-b"
    pages = [path for _, path in cloud.asked if path.endswith("acceleratorTypes")]
    assert len(pages) == 3, "a zone a page"


def test_a_region_without_the_gpu_names_those_that_have_it(cloud, google, find):
    cloud.offered = {"nvidia-l4": {"asia-east1-a"}, "g2-standard-8": ZONES}
    found = find(quota.check_region, google, L4)["GPU type"]
    assert (found.status, found.remedy) == ("fail", "choose --region of asia-east1")
    cloud.offered = {}
    found = find(quota.check_region, google, L4)["GPU type"]
    assert found.remedy == "look whether the name is right"


def test_a_region_that_is_not_there_ends_the_question(cloud, google, find):
    uses = dataclasses.replace(L4, region="us-middle1")
    found = find(quota.check_region, google, uses)
    assert [(one.name, one.status) for one in found.values()] == [("region", "fail")]


def test_a_quota_that_is_used_up_fails_and_a_small_one_warns(cloud, google, find):
    cloud.offered = {
        "nvidia-l4": ZONES,
        "g2-standard-8": ZONES,
        "nvidia-tesla-t4": ZONES,
        "n1-standard-8": ZONES,
    }
    found = find(quota.check_region, google, L4)
    assert found["quota NVIDIA_L4_GPUS"].status == "fail"
    assert "room for 0 workers" in found["quota NVIDIA_L4_GPUS"].said
    t4 = dataclasses.replace(L4, accelerator="nvidia-tesla-t4", machine_type="n1-standard-8", workers=10)
    found = find(quota.check_region, google, t4)
    assert found["quota NVIDIA_T4_GPUS"].status == "warn"
    assert found["quota NVIDIA_T4_GPUS"].remedy.startswith("--max_num_workers=3")
    assert found["quota CPUS"].status == "ok"
    assert "room for 24 workers" in found["quota CPUS"].said
    assert found["quota GPUS_ALL_REGIONS"].status == "warn"


def test_each_family_takes_from_its_own_metric(cloud, google, find):
    cloud.offered = {"n2-standard-4": ZONES, "e2-standard-4": ZONES}
    for machine, metric, room in (("n2-standard-4", "N2_CPUS", 25), ("e2-standard-4", "CPUS", 48)):
        uses = dataclasses.replace(L4, accelerator="", accelerators=0, machine_type=machine)
        found = find(quota.check_region, google, uses)
        assert f"room for {room} workers" in found[f"quota {metric}"].said


def test_workers_without_addresses_need_none(cloud, google, find):
    uses = Uses(on_dataflow=True, project="my-project", region="us-central1")
    assert "quota IN_USE_ADDRESSES" in find(quota.check_region, google, uses)
    uses = dataclasses.replace(uses, public_ips=False)
    assert "quota IN_USE_ADDRESSES" not in find(quota.check_region, google, uses)


def test_what_compute_engine_does_not_list_is_unknown(cloud, google, find):
    cloud.offered = {"nvidia-h100-80gb": ZONES, "a3-highgpu-1g": ZONES}
    uses = dataclasses.replace(L4, accelerator="nvidia-h100-80gb", machine_type="a3-highgpu-1g")
    found = find(quota.check_region, google, uses)["quota GPUS_PER_GPU_FAMILY"]
    assert found.status == "unknown"
    assert "project=my-project" in found.remedy
    del cloud.regions["us-central1"]["quotas"][:]
    found = find(quota.check_region, google, L4)
    assert found["quota NVIDIA_L4_GPUS"].status == "unknown"


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_every_gpu_has_a_metric_or_is_counted_by_family(gpu, find):
    uses = dataclasses.replace(L4, accelerator=gpu.accelerator)
    found = find(quota.read_quota, uses, {}, None)
    by_family = gpu.name.startswith("h")
    assert ("quota GPUS_PER_GPU_FAMILY" in found) == by_family
    assert any(name.startswith("quota NVIDIA_") for name in found) != by_family


@given(
    limit=st.floats(0, 1e6), usage=st.floats(0, 1e6), each=st.integers(1, 16), workers=st.integers(0, 5000)
)
def test_the_room_that_is_said_fits_and_one_more_does_not(limit, usage, each, workers):
    uses = dataclasses.replace(L4, accelerators=each, workers=workers)
    quotas = {"NVIDIA_L4_GPUS": {"limit": limit, "usage": usage}}
    (found,) = quota.read_quota(uses, quotas, None)
    room = int(found.said.rpartition("room for ")[2].split()[0].replace(",", ""))
    left = max(limit - usage, 0)
    assert room * each <= left < (room + 1) * each
    assert found.status == ("fail" if room == 0 else "warn" if workers > room else "ok")


@pytest.mark.parametrize(("workers", "status"), [(0, "ok"), (3, "ok"), (4, "warn")])
def test_as_many_workers_as_there_is_room_for_are_fine(workers, status, find):
    uses = dataclasses.replace(L4, workers=workers)
    found = find(quota.read_quota, uses, {"NVIDIA_L4_GPUS": {"limit": 4, "usage": 1}}, None)
    assert found["quota NVIDIA_L4_GPUS"].status == status
