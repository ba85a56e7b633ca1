"""GPUs and the machines that carry them: the table against itself and against what Compute Engine says."""

import re

import pytest

from beam_vision.dataflow.machines import GPUS, MACHINES, carrier, gpu_of_accelerator, machine_of
from beam_vision.errors import UsageError


@pytest.mark.parametrize("name", GPUS)
def test_each_gpu_has_a_machine_for_each_count(name):
    gpu = GPUS[name]
    assert gpu_of_accelerator(gpu.accelerator) is gpu
    for count in gpu.counts:
        machine = carrier(gpu, count)
        assert machine.vcpus >= 4 * min(count, 4)
        assert machine.memory_gb >= 2 * machine.vcpus
        assert carrier(gpu, count, machine.name) == machine


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda one: one.name)
def test_machines_with_gpus_say_in_their_names_what_they_have(machine):
    counted = re.search(r"-(\d+)g\Z", machine.name)
    sized = re.search(r"\Ag2-standard-(\d+)\Z", machine.name)
    assert counted or sized
    assert (int(counted[1]) == machine.gpu_count) if counted else (int(sized[1]) == machine.vcpus)
    assert machine.gpu_count in GPUS[machine.gpu].machine


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gb"),
    [
        ("n1-standard-8", 8, 30),
        ("n1-highmem-16", 16, 104),
        ("n1-custom-6-20480", 6, 20),
        ("custom-6-20480", 6, 20),
        ("e2-standard-4", 4, 16),
        ("a2-highgpu-1g", 12, 85),
        ("a3-highgpu-8g", 208, 1872),
    ],
)
def test_what_a_machine_has(name, vcpus, memory_gb):
    machine = machine_of(name)
    assert (machine.vcpus, machine.memory_gb) == (vcpus, memory_gb)


@pytest.mark.parametrize(
    "name", ["", "tpu", "z9-standard-8", "n1-standard", "g2-standard-5", "a2-highgpu-3g"]
)
def test_what_is_not_in_the_table_is_not_guessed(name):
    assert machine_of(name) is None


@pytest.mark.parametrize(
    ("gpu", "count", "machine", "said"),
    [
        ("l4", 1, "n1-standard-8", "doesn't carry nvidia-l4; only g2-standard-12"),
        ("l4", 1, "g2-standard-24", "comes with 2 GPUs, not with 1"),
        ("l4", 3, "", "can have 1, 2, 4, 8"),
        ("a100", 1, "a2-ultragpu-1g", "doesn't carry nvidia-tesla-a100"),
        ("a100_80gb", 16, "", "--gpu_count is 16"),
        ("h100_mega", 1, "", "can have 8 of them"),
        ("t4", 1, "n1-standard-64", "at most 48 and 312 GB"),
        ("v100", 1, "n1-standard-16", "at most 12 and 78 GB"),
        ("p100", 1, "n1-highmem-32", "at most 16 and 104 GB"),
        ("t4", 1, "e2-standard-8", "only N1 machines can"),
        ("t4", 1, "n9-standard-8", "only N1 machines can"),
    ],
)
def test_a_machine_that_cannot_have_the_gpu_is_refused_with_one_that_can(gpu, count, machine, said):
    with pytest.raises(UsageError) as error:
        carrier(GPUS[gpu], count, machine)
    assert said in str(error.value)
    if machine:
        assert GPUS[gpu].machine[count] in str(error.value)
