from pathlib import Path

import pytest
import torch

from hornbook.facts import accelerators, hardware
from hornbook.facts.errors import InputError


def test_the_table_is_large_and_every_row_has_a_source_and_a_date() -> None:
    assert len(accelerators.ACCELERATORS) >= 20
    for accelerator in accelerators.ACCELERATORS:
        assert accelerator.source
        assert len(accelerator.date) == 7
        assert accelerator.peak_flops


def test_no_name_means_two_accelerators() -> None:
    for accelerator in accelerators.ACCELERATORS:
        for name in (accelerator.name, *accelerator.also):
            assert accelerators.find(name) is accelerator


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("A100", 1, "A100-80"), ("8xA100", 8, "A100-80"), ("8 x a100-40", 8, "A100-40"), ("2×H100", 2, "H100"),
        ("NVIDIA H100 80GB HBM3", 1, "H100"), ("Tesla T4", 1, "T4"), ("64xTPU v4", 64, "TPUv4"),
        ("NVIDIA GeForce RTX 4090", 1, "RTX-4090"),
    ],
)  # fmt: skip
def test_lookup(text: str, count: int, name: str) -> None:
    found, accelerator = accelerators.lookup(text)
    assert (found, accelerator.name) == (count, name)


def test_peaks_are_dense_and_not_those_with_sparsity() -> None:
    assert accelerators.lookup("A100")[1].peak_flops["bfloat16"] == 312e12
    assert accelerators.lookup("H100")[1].peak_flops["bfloat16"] == 989.4e12
    assert accelerators.lookup("H100 PCIe")[1].peak_flops["bfloat16"] == 756e12


def test_an_unknown_accelerator_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(InputError, match=r'unknown accelerator "H10O" \(did you mean "H100"\?\).*--peak'):
        accelerators.lookup("8xH10O")


def test_a_part_of_a_name_is_not_enough() -> None:
    assert accelerators.find("A100X") is None
    assert accelerators.find("NVIDIA A100 Something") is None


@pytest.mark.parametrize("text", ["", "0xA100", "x", "8x"])
def test_no_accelerator_at_all(text: str) -> None:
    with pytest.raises(InputError):
        accelerators.lookup(text)


def test_what_is_unknown_is_none() -> None:
    assert accelerators.lookup("TPUv5p")[1].power_watts is None
    assert accelerators.lookup("EPYC-7763")[1].memory_bytes is None
    assert hardware.custom("mine", 1e12).balance is None


def test_a_peak_must_be_positive() -> None:
    with pytest.raises(InputError, match="positive"):
        hardware.custom("mine", 0.0)


def test_units_for_bfloat16_are_those_that_torch_finds_where_they_are_faster() -> None:
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    facts = Path("/proc/cpuinfo")
    intel = facts.is_file() and "GenuineIntel" in facts.read_text()
    assert hardware.has_bfloat16_units() == (amx or (avx512 and not intel))
