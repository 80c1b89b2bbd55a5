"""The peak that MFU is a share of."""

import time

import pytest
import torch

from singlelife.pretraining.utilization import Peak, device_peak, measured_peak, stated_peak, utilization

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("gpu", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 80GB HBM3", "no", 67),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp16", 989),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("Tesla T4", "fp16", 65),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_a_known_gpu_has_the_peak_that_its_maker_states(gpu, precision, tera):
    assert stated_peak(gpu, precision).flops_per_second == tera * 1e12


@pytest.mark.parametrize("gpu", ["NVIDIA A10G", "NVIDIA A1000 Laptop GPU", "AMD Instinct MI300X", "", "Quadro T400"])
def test_another_gpu_is_not_taken_for_one_with_a_similar_name(gpu):
    assert stated_peak(gpu, "bf16") is None


@pytest.mark.parametrize(("precision", "said"), [("no", "fp32"), ("bf16", "bf16")])
def test_the_peak_of_a_cpu_is_measured_in_the_format_of_the_run(precision, said):
    random_state = torch.get_rng_state()
    start = time.monotonic()
    peak = device_peak(CPU, precision)
    assert time.monotonic() - start < 5
    assert 1e7 < peak.flops_per_second < 1e14
    assert f"{said} matrices, timed here" in str(peak)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_utilization_is_a_share_of_all_devices():
    peak = Peak(100e9, "for this test")
    assert utilization(10**9, 50, peak, 1) == pytest.approx(0.5)
    assert utilization(10**9, 50, peak, 4) == pytest.approx(0.125)
    assert str(peak) == "100 GFLOP/s (for this test)" and str(Peak(312e12, "x")) == "312 TFLOP/s (x)"
    assert measured_peak(CPU, torch.float32).source.startswith("a product of 1024x1024")
