"""GPTShape: the numbers that make a decoder, and what follows from them: parameters, FLOPs, bytes. Presets."""

from __future__ import annotations

from typing import Literal

import msgspec

from hornbook.facts.errors import InputError, suggestion

Activation = Literal["gelu", "gelu_tanh", "silu"]


class Family(msgspec.Struct, frozen=True):
    """What distinguishes one family of decoders from another. A family is data, not code."""

    norm: Literal["layer", "rms"]
    positions: Literal["learned", "rotary"]
    gated_mlp: bool
    activation: Activation
    bias: bool  # on every linear layer of a block
    qkv_bias: bool  # on query, key and value only (Qwen2)
    qk_norm: bool  # RMS norm of each head's query and key before the rotation (Qwen3)
    tied: bool  # whether the head is the embedding by default
    norm_epsilon: float


FAMILIES: dict[str, Family] = {
    # Radford et al. 2019; the book's and nanoGPT's.
    "gpt2": Family("layer", "learned", False, "gelu_tanh", True, True, False, True, 1e-5),
    # Touvron et al. 2023: Llama 2 and 3, SmolLM2, Mistral.
    "llama": Family("rms", "rotary", True, "silu", False, False, False, False, 1e-5),
    # Qwen2 technical report: Llama with biases on query, key and value.
    "qwen2": Family("rms", "rotary", True, "silu", False, True, False, False, 1e-6),
    # Qwen3 technical report: Llama with QK-norm.
    "qwen3": Family("rms", "rotary", True, "silu", False, False, True, False, 1e-6),
}


class RotaryScaling(msgspec.Struct, frozen=True):
    """How rotary frequencies are stretched beyond the trained context: `linear` (Chen et al. 2023) or `llama3`."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192


class GPTShape(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder. Widths are numbers of features, `context` and `vocabulary` numbers of tokens.

    Raises InputError when the numbers do not fit each other.
    """

    family: str
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    kv_heads: int = 0  # 0: as many as heads (no grouped-query attention)
    hidden: int = 0  # width of the MLP; 0: 4 x width, gated 8/3 x width rounded up to a multiple of 32
    head_width: int = 0  # 0: width / heads
    tied: bool | None = None  # None: as the family has it
    rope_base: float = 10_000.0
    rope_scaling: RotaryScaling | None = None
    norm_epsilon: float = 0.0  # 0: as the family has it
    activation: Activation | None = None  # None: as the family has it

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(
                f'unknown model family "{self.family}"{suggestion(self.family, FAMILIES)}: '
                f"choose from {', '.join(FAMILIES)}."
            )
        for name in ("layers", "width", "heads", "context", "vocabulary"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}, but must be at least 1.")
        kind, force = FAMILIES[self.family], msgspec.structs.force_setattr
        force(self, "kv_heads", self.kv_heads or self.heads)
        force(self, "tied", kind.tied if self.tied is None else self.tied)
        force(self, "norm_epsilon", self.norm_epsilon or kind.norm_epsilon)
        force(self, "activation", self.activation or kind.activation)
        if not self.hidden:
            force(self, "hidden", -(-(8 * self.width) // (3 * 32)) * 32 if kind.gated_mlp else 4 * self.width)
        if not self.head_width:
            if self.width % self.heads:
                raise InputError(f"model.width {self.width} is not divisible by model.heads {self.heads}.")
            force(self, "head_width", self.width // self.heads)
        if self.heads % self.kv_heads:
            raise InputError(f"model.heads {self.heads} is not divisible by model.kv_heads {self.kv_heads}.")
        if kind.positions == "rotary" and self.head_width % 2:
            raise InputError(
                f"model.width {self.width} with model.heads {self.heads} has heads of width {self.head_width}, but "
                f"rotary positions need an even one: take a width that is a multiple of {2 * self.heads}."
            )

    @property
    def kind(self) -> Family:
        return FAMILIES[self.family]

    def parameters_by_part(self) -> dict[str, int]:
        """Number of parameters of each part; `head` is 0 when it is tied to the embedding.

        >>> sum(PRESETS["gpt2"].parameters_by_part().values())
        124439808
        """
        kind, queries, keys = self.kind, self.heads * self.head_width, self.kv_heads * self.head_width
        norm = self.width * (2 if kind.norm == "layer" else 1)
        attention = self.width * (2 * queries + 2 * keys)
        attention += (queries + 2 * keys) * kind.qkv_bias + self.width * kind.bias + 2 * self.head_width * kind.qk_norm
        mlp = self.width * self.hidden * (3 if kind.gated_mlp else 2)
        mlp += (self.hidden + self.width) * kind.bias
        return {
            "embedding": self.vocabulary * self.width,
            "positions": self.context * self.width if kind.positions == "learned" else 0,
            "attention": self.layers * attention,
            "mlp": self.layers * mlp,
            "norms": (2 * self.layers + 1) * norm,
            "head": 0 if self.tied else self.vocabulary * self.width,
        }

    @property
    def parameters(self) -> int:
        return sum(self.parameters_by_part().values())

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply each token: attention, MLP and head (tied or not), without biases and look-ups."""
        attention = self.width * 2 * (self.heads + self.kv_heads) * self.head_width
        mlp = self.width * self.hidden * (3 if self.kind.gated_mlp else 2)
        return self.layers * (attention + mlp) + self.vocabulary * self.width

    def forward_flops_per_token(self, window: int | None = None) -> int:
        """FLOPs of the forward pass per token at `window` tokens (default: the context): 2 per weight that
        multiplies the token, and 4 x layers x heads x head_width x window for the full square of attention
        (Chowdhery et al. 2022, appendix B; causal kernels may skip half of the square).
        """
        attention = 4 * self.layers * self.heads * self.head_width * (window or self.context)
        return 2 * self.matmul_parameters + attention

    def flops_per_token(self, window: int | None = None) -> int:
        """FLOPs of forward and backward per token: three times the forward pass.

        >>> PRESETS["gpt2"].flops_per_token()  # 6 x 123,532,032 + 12 x 12 x 768 x 1024
        854438400
        """
        return 3 * self.forward_flops_per_token(window)


def _gpt2(layers: int, width: int, heads: int) -> GPTShape:
    return GPTShape(family="gpt2", layers=layers, width=width, heads=heads, context=1024, vocabulary=50257)


def _qwen3(layers: int, width: int, heads: int, context: int, vocabulary: int, kv_heads: int = 0) -> GPTShape:
    return GPTShape(
        family="qwen3", layers=layers, width=width, heads=heads, kv_heads=kv_heads, context=context,
        vocabulary=vocabulary,
    )  # fmt: skip


def _llama(layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int, base: float) -> GPTShape:
    context = 4096 if base == 10_000.0 else 8192
    return GPTShape(
        family="llama", layers=layers, width=width, heads=heads, kv_heads=kv_heads, hidden=hidden, context=context,
        vocabulary=vocabulary, rope_base=base,
    )  # fmt: skip


# Published shapes: GPT-2 from Radford et al. 2019, Llama from Touvron et al. 2023 and Grattafiori et al. 2024. The
# vocabulary of a preset is the one it was published with; a run replaces it by its tokenizer's.
PRESETS: dict[str, GPTShape] = {
    "0.2M": _qwen3(2, 64, 2, 64, 512),
    "1M": _qwen3(4, 128, 4, 128, 1024),
    "3M": _qwen3(6, 192, 6, 256, 2048),
    "6M": _qwen3(6, 256, 4, 256, 4096),
    "15M": _qwen3(8, 320, 5, 512, 8192),
    "35M": _qwen3(8, 448, 7, 512, 16384),
    "65M": _qwen3(10, 512, 8, 1024, 32768),
    "135M": _qwen3(12, 768, 12, 1024, 32768),
    "350M": _qwen3(24, 1024, 16, 2048, 32768, 8),
    "1B": _qwen3(24, 1792, 14, 2048, 32768, 7),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "llama2-7b": _llama(32, 4096, 32, 32, 11008, 32000, 10_000.0),
    "llama3-8b": _llama(32, 4096, 32, 8, 14336, 128256, 500_000.0),
}


def preset(name: str) -> GPTShape:
    """Return a preset by name; raises InputError naming the nearest."""
    if name not in PRESETS:
        raise InputError(f'unknown model preset "{name}"{suggestion(name, PRESETS)}: choose from {", ".join(PRESETS)}.')
    return PRESETS[name]
