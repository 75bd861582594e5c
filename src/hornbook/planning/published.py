"""Published training runs: what they trained, on what, for how many hours. The utilisation model is fitted on these.

Each row is a fact with its source. `hours_are` says how firm the hours are: `stated` by the authors, or `derived` here
from what they state (devices x days, seconds per step x steps). Runs whose sources contradict each other are left out,
such as phi-1.5's (6,144 hours by its card, 1,500 by its paper).
"""

from __future__ import annotations

import msgspec


class PublishedRun(msgspec.Struct, frozen=True):
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
