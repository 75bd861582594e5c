"""The share of the peak that whole training runs reach, fitted on published ones.

    python benchmarks/utilisation.py      # prints the constants of src/hornbook/planning/budget.py

log utilisation = constant + slope x log(balance / 153) + an error of the run's family + one of its own. Each published
run is a fact with its source. `hours_are` says how firm the hours are: `stated` by the authors, or `derived` here from
what they state (devices x days, seconds per step x steps). Runs whose sources contradict each other are left out, such
as phi-1.5's (6,144 hours by its card, 1,500 by its paper).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from hornbook.facts.accelerators import lookup
from hornbook.facts.hardware import Accelerator
from hornbook.planning.budget import implied_utilisation, log_balance, training_flops
from hornbook.planning.workload import Range

SLOPE_PRIOR = 0.2  # sd; the slope lies between 0 (bound by arithmetic) and -1 (bound by memory), nearer to 0
DEVIATIONS = tuple(0.02 + 0.04 * k for k in range(15))  # that an sd of log utilisation may have, all as likely before
DEGREE = 6  # of the polynomial that is shipped for half the width of the range: within 1e-10 of it


class PublishedRun(NamedTuple):
    name: str
    family: str  # runs of the same people with the same code: what is left out together
    accelerator: str
    parameters: float
    tokens: float
    layers: int
    width: int
    context: int
    accelerator_hours: float
    hours_are: str
    source: str


_LLAMA1 = "Touvron et al. 2023, arXiv:2302.13971, table 15"
_LLAMA2 = "Llama 2 model card; Touvron et al. 2023, arXiv:2307.09288, table 2"
_LLAMA3 = "Llama 3 model card"
_LLAMA31 = "Llama 3.1 model card"
_SMOLLM2 = "the authors on huggingface.co/HuggingFaceTB/SmolLM2-1.7B-Instruct, discussion 20"
_PYTHIA = "Biderman et al. 2023, arXiv:2304.01373, appendix on training hardware and GPU hours"

RUNS: tuple[PublishedRun, ...] = (
    PublishedRun("LLaMA 7B", "llama", "A100-80", 6.7e9, 1e12, 32, 4096, 2048, 82_432, "stated", _LLAMA1),
    PublishedRun("LLaMA 13B", "llama", "A100-80", 13.0e9, 1e12, 40, 5120, 2048, 135_168, "stated", _LLAMA1),
    PublishedRun("LLaMA 33B", "llama", "A100-80", 32.5e9, 1.4e12, 60, 6656, 2048, 530_432, "stated", _LLAMA1),
    PublishedRun("LLaMA 65B", "llama", "A100-80", 65.2e9, 1.4e12, 80, 8192, 2048, 1_022_362, "stated", _LLAMA1),
    PublishedRun("Llama 2 7B", "llama", "A100-80", 6.738e9, 2e12, 32, 4096, 4096, 184_320, "stated", _LLAMA2),
    PublishedRun("Llama 2 13B", "llama", "A100-80", 13.02e9, 2e12, 40, 5120, 4096, 368_640, "stated", _LLAMA2),
    PublishedRun("Llama 2 34B", "llama", "A100-80", 34e9, 2e12, 48, 8192, 4096, 1_038_336, "stated", _LLAMA2),
    PublishedRun("Llama 2 70B", "llama", "A100-80", 68.98e9, 2e12, 80, 8192, 4096, 1_720_320, "stated", _LLAMA2),
    PublishedRun("Llama 3 8B", "llama", "H100", 8.03e9, 15e12, 32, 4096, 8192, 1.3e6, "stated", _LLAMA3),
    PublishedRun("Llama 3 70B", "llama", "H100", 70.55e9, 15e12, 80, 8192, 8192, 6.4e6, "stated", _LLAMA3),
    PublishedRun("Llama 3.1 8B", "llama", "H100", 8.03e9, 15e12, 32, 4096, 8192, 1.46e6, "stated", _LLAMA31),
    PublishedRun("Llama 3.1 70B", "llama", "H100", 70.55e9, 15e12, 80, 8192, 8192, 7.0e6, "stated", _LLAMA31),
    PublishedRun("Llama 3.1 405B", "llama", "H100", 405.9e9, 15.6e12, 126, 16384, 8192, 30.84e6, "stated",
                 _LLAMA31 + "; tokens from Grattafiori et al. 2024, arXiv:2407.21783"),
    PublishedRun("Pythia 70M", "pythia", "A100-40", 70.4e6, 299.9e9, 6, 512, 2048, 510, "stated", _PYTHIA),
    PublishedRun("Pythia 160M", "pythia", "A100-40", 162.3e6, 299.9e9, 12, 768, 2048, 1030, "stated", _PYTHIA),
    PublishedRun("Pythia 410M", "pythia", "A100-40", 405.3e6, 299.9e9, 24, 1024, 2048, 2540, "stated", _PYTHIA),
    PublishedRun("Pythia 1B", "pythia", "A100-40", 1.012e9, 299.9e9, 16, 2048, 2048, 4830, "stated", _PYTHIA),
    PublishedRun("Pythia 1.4B", "pythia", "A100-40", 1.415e9, 299.9e9, 24, 2048, 2048, 7120, "stated", _PYTHIA),
    PublishedRun("Pythia 2.8B", "pythia", "A100-40", 2.775e9, 299.9e9, 32, 2560, 2048, 14_240, "stated", _PYTHIA),
    PublishedRun("Pythia 6.9B", "pythia", "A100-40", 6.856e9, 299.9e9, 32, 4096, 2048, 33_500, "stated", _PYTHIA),
    PublishedRun("Pythia 12B", "pythia", "A100-40", 11.846e9, 299.9e9, 36, 5120, 2048, 72_300, "stated", _PYTHIA),
    PublishedRun("PaLM 540B", "palm", "TPUv4", 540.35e9, 780e9, 118, 18432, 2048, 8_404_992, "derived",
                 "Chowdhery et al. 2022, arXiv:2204.02311: 6,144 chips for 1,200 h and 3,072 for 336 h"),
    PublishedRun("Gopher 280B", "gopher", "TPUv3", 280e9, 300e9, 80, 16384, 2048, 3_768_320, "derived",
                 "Rae et al. 2021, arXiv:2112.11446: 4,096 chips for 920 h"),
    PublishedRun("Falcon 180B", "falcon", "A100-40", 179.5e9, 3.5e12, 80, 14848, 2048, 7.0e6, "stated",
                 "Falcon 180B announcement, Hugging Face 2023: about 7,000,000 GPU hours"),
    PublishedRun("Falcon 7B", "falcon", "A100-40", 7.22e9, 1.5e12, 32, 4544, 2048, 129_024, "derived",
                 "Falcon-7B model card: 384 GPUs for about two weeks"),
    PublishedRun("MPT 1.3B", "mpt", "A100-40", 1.3e9, 200e9, 24, 2048, 2048, 5280, "derived",
                 "mpt-1b-redpajama-200b model card: 440 GPUs for about half a day"),
    PublishedRun("TinyLlama 1.1B", "tinyllama", "A100-40", 1.1e9, 3e12, 22, 2048, 2048, 34_560, "derived",
                 "TinyLlama README: 16 GPUs for 90 days"),
    PublishedRun("BloombergGPT 50B", "bloomberg", "A100-40", 50.6e9, 569e9, 70, 7680, 2048, 651_264, "derived",
                 "Wu et al. 2023, arXiv:2303.17564: 512 GPUs for 53 days"),
    PublishedRun("GLM 130B", "glm", "A100-40", 130e9, 400e9, 70, 12288, 2048, 1_105_920, "derived",
                 "Zeng et al. 2022, arXiv:2210.02414: 768 GPUs for 60 days"),
    PublishedRun("OLMo 3 7B", "olmo", "H100", 7.3e9, 5.93e12, 32, 4096, 8192, 234_000, "stated",
                 "OLMo-core README (tokens); hours from the authors as quoted at muxup.com, 2025"),
    PublishedRun("llm.c GPT-2 124M", "llmc", "A100-80", 124.4e6, 9.891e9, 12, 768, 1024, 12.6, "derived",
                 "llm.c scripts/run_gpt2_124M.sh: 300 ms a step, 8 GPUs"),
    PublishedRun("llm.c GPT-2 350M", "llmc", "A100-80", 354.8e6, 31.457e9, 24, 1024, 1024, 109.3, "derived",
                 "llm.c scripts/run_gpt2_350M.sh: 820 ms a step, 8 GPUs"),
    PublishedRun("llm.c GPT-2 1558M", "llmc", "H100", 1.5576e9, 33.554e9, 48, 1600, 1024, 199.1, "derived",
                 "llm.c scripts/run_gpt2_1558M.sh: 2.80 s a step, 8 GPUs"),
    PublishedRun("nanoGPT GPT-2 124M", "nanogpt", "A100-40", 124.3e6, 294.912e9, 12, 768, 1024, 768, "derived",
                 "nanoGPT README: 8 GPUs for about 4 days"),
    PublishedRun("OPT 175B", "opt", "A100-80", 175e9, 300e9, 96, 12288, 2048, 785_664, "derived",
                 "OPT model card: 992 GPUs for about 33 days; Zhang et al. 2022, arXiv:2205.01068"),
    PublishedRun("StarCoderBase 15B", "starcoder", "A100-80", 15.5e9, 1e12, 40, 6144, 8192, 294_912, "derived",
                 "StarCoder model card: 512 GPUs for 24 days; Li et al. 2023, arXiv:2305.06161"),
    PublishedRun("BLOOM 176B", "bloom", "A100-80", 176.25e9, 366e9, 70, 14336, 2048, 1_082_990, "stated",
                 "BigScience 2022, arXiv:2211.05100"),
    PublishedRun("GPT-NeoX 20B", "neox", "A100-40", 20.56e9, 472.5e9, 44, 6144, 2048, 175_680, "derived",
                 "Black et al. 2022, arXiv:2204.06745: 96 GPUs for 1,830 h; 150,000 steps of 3.15M tokens"),
    PublishedRun("SmolLM3 3B", "smollm", "H100", 3.075e9, 11.2e12, 36, 2048, 4096, 221_184, "derived",
                 "SmolLM3 announcement, Hugging Face 2025: 384 GPUs for 24 days"),
    PublishedRun("SmolLM2 135M", "smollm", "H100", 134.5e6, 2e12, 30, 576, 2048, 5e3, "stated", _SMOLLM2),
    PublishedRun("SmolLM2 360M", "smollm", "H100", 361.8e6, 4e12, 32, 960, 2048, 20e3, "stated", _SMOLLM2),
    PublishedRun("SmolLM2 1.7B", "smollm", "H100", 1.711e9, 11e12, 24, 2048, 2048, 140e3, "stated", _SMOLLM2),
    PublishedRun("MPT 7B", "mpt", "A100-40", 6.65e9, 1e12, 32, 4096, 2048, 100_320, "derived",
                 "MPT-7B announcement, MosaicML 2023: 440 GPUs for 9.5 days"),
    PublishedRun("Falcon 40B", "falcon", "A100-40", 41.8e9, 1e12, 60, 8192, 2048, 552_960, "derived",
                 "Falcon-40B model card: 384 GPUs for two months"),
)  # fmt: skip


def run_flops(run: PublishedRun) -> float:
    return training_flops(run.parameters, run.tokens, context=run.context, layers=run.layers, width=run.width)


def _observed(run: PublishedRun) -> tuple[float, float]:
    """(log balance, log utilisation) of a published run."""
    accelerator = lookup(run.accelerator)[1]
    used = implied_utilisation(run_flops(run), run.accelerator_hours, accelerator)
    assert used is not None  # the peak of every device in the table is known
    return log_balance(accelerator), math.log(used)


class Fit(NamedTuple):
    """log utilisation = constant + slope x log(balance / 153) + an error of its family + one of its own, with the
    variances of both errors and the covariance of the coefficients, given the variances."""

    constant: float
    slope: float
    between: float  # variance of families
    within: float  # variance of runs of one family
    covariance: tuple[float, float, float]  # of (constant, constant), (constant, slope), (slope, slope)
    log_likelihood: float  # restricted: of the data with the coefficients integrated out, up to a constant

    def deviation(self, x: float) -> float:
        """sd of the error on a new run of a new family at the log balance `x`."""
        a, b, c = self.covariance
        return math.sqrt(self.between + self.within + a + 2 * b * x + c * x * x)


Sums = dict[str, float]


def _sums(runs: list[PublishedRun]) -> list[Sums]:
    """Of each family: the sums of products of 1, x = log balance and y = log utilisation over its runs."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for run in runs:
        points.setdefault(run.family, []).append((1.0, *_observed(run)))
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    return [
        {"1xy"[i] + "1xy"[j]: math.fsum(point[i] * point[j] for point in some) for i, j in pairs}
        for some in points.values()
    ]


def _solve(families: list[Sums], between: float, within: float) -> Fit:
    """Generalised least squares in which runs of a family share an error.

    Within a family of n the precision is (I - between / (within + n between) x ones) / within, so that every product
    of the normal equations, and the determinant, is a sum over families, in closed form.
    """
    total = dict.fromkeys(("11", "1x", "1y", "xx", "xy", "yy"), 0.0)
    log_determinant = 0.0
    for sums in families:
        n = sums["11"]
        common = between / (within + n * between)
        for pair in total:
            total[pair] += (sums[pair] - common * sums[f"1{pair[0]}"] * sums[f"1{pair[1]}"]) / within
        log_determinant += (n - 1) * math.log(within) + math.log(within + n * between)
    total["xx"] += SLOPE_PRIOR**-2
    determinant = total["11"] * total["xx"] - total["1x"] ** 2
    slope = (total["11"] * total["xy"] - total["1x"] * total["1y"]) / determinant
    constant = (total["1y"] - slope * total["1x"]) / total["11"]
    left = total["yy"] - constant * total["1y"] - slope * total["xy"]
    covariance = (total["xx"] / determinant, -total["1x"] / determinant, total["11"] / determinant)
    likelihood = -0.5 * (log_determinant + math.log(determinant) + left)
    return Fit(constant, slope, between, within, covariance, likelihood)


@functools.cache
def fit(without_family: str | None = None) -> tuple[tuple[float, Fit], ...]:
    """(share, fit) of the published runs for every pair of deviations between and within families, each with a share
    by its restricted likelihood (Harville 1974) and none before: few families do not say their variance exactly."""
    families = _sums([run for run in RUNS if run.family != without_family])
    fits = [_solve(families, a * a, b * b) for a in DEVIATIONS for b in DEVIATIONS]
    most = max(found.log_likelihood for found in fits)
    shares = [math.exp(found.log_likelihood - most) for found in fits]
    return tuple((share / math.fsum(shares), found) for share, found in zip(shares, fits, strict=True))


def predicted(x: float, without_family: str | None = None) -> tuple[float, float]:
    """(log utilisation, half the width of its 90 % range) of a new run of a new family at the log balance `x`."""
    said = [(share, found.constant + found.slope * x, found.deviation(x)) for share, found in fit(without_family)]
    central = math.fsum(share * mean for share, mean, _ in said)

    def beyond(half: float) -> float:
        return math.fsum(
            share * math.erfc((half + side * (mean - central)) / (math.sqrt(2) * deviation)) / 2
            for share, mean, deviation in said
            for side in (-1, 1)
        )

    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 0.10 else (low, middle)
    return central, high


def utilisation(accelerator: Accelerator, without_family: str | None = None) -> Range:
    """The share of the peak of a new run of a new family, by all published runs or without those of one family."""
    central, factor = map(math.exp, predicted(log_balance(accelerator), without_family))
    return Range(central / factor, central, min(central * factor, 1.0), "by published runs")


def constants() -> dict[str, tuple[float, ...]]:
    """What planning/budget.py ships, by name."""
    balances = [lookup(run.accelerator)[1].balance or 0.0 for run in RUNS]
    low, high = (
        log_balance(lookup(RUNS[balances.index(end)].accelerator)[1]) for end in (min(balances), max(balances))
    )
    x = (low + high) / 2 + (high - low) / 2 * np.cos(np.linspace(0, np.pi, 60))
    half = np.array([predicted(at)[1] for at in x.tolist()])
    return {
        "BALANCES": (min(balances), max(balances)),
        "LOG_UTILISATION": tuple(math.fsum(share * found[i] for share, found in fit()) for i in (0, 1)),
        "HALF_WIDTH": tuple(np.polynomial.Polynomial.fit(x, half, DEGREE).convert().coef.tolist()),
    }


if __name__ == "__main__":
    for name, numbers in constants().items():
        print(f"{name} = ({', '.join(f'{number:.12g}' for number in numbers)})")
