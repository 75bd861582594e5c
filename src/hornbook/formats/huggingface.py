"""Weights of other programs <-> the decoder's: Hugging Face folders (config.json and safetensors).

What a folder holds is data: nothing in it is executed and no pickle is opened. Names, shapes and dtypes are checked
against the shape before a tensor is read.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import sync
from hornbook.facts.shape import GPTShape
from hornbook.formats.huggingface_config import config_of, shape_of
from hornbook.model.decoder import Decoder

if TYPE_CHECKING:
    from hornbook.text.tokenizer import Tokenizer

Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Naming:
    """How another program names the decoder's tensors, and in which of its tensors several of ours are stacked."""

    outer: dict[str, str]
    block: str  # with {} for the layer
    parts: dict[str, str]
    transposed: bool = False  # matrices of the blocks are stored (in, out)

    def theirs(self, ours: str) -> str:
        """Their name of one of our tensors; query, key and value of GPT-2 share one."""
        module, kind = ours.rsplit(".", 1)
        if module in self.outer:
            return f"{self.outer[module]}.{kind}"
        _, layer, part = module.split(".", 2)
        return f"{self.block.format(layer)}.{self.parts[part]}.{kind}"

    def groups(self, shape: GPTShape) -> dict[str, Sizes]:
        """Each of their tensors with the names and sizes of ours that it stacks. A tied head is not among them."""
        with torch.device("meta"):
            model = Decoder(shape)
        groups: dict[str, Sizes] = {}
        for name, parameter in model.named_parameters():
            groups.setdefault(self.theirs(name), {})[name] = tuple(parameter.shape)
        return groups

    def stored_size(self, theirs: str, ours: Sizes) -> tuple[int, ...]:
        first = next(iter(ours.values()))
        size = (sum(size[0] for size in ours.values()), *first[1:])
        return size[::-1] if self._is_transposed(theirs) else size

    def turn(self, theirs: str, tensor: Tensor) -> Tensor:
        return tensor.t().contiguous() if self._is_transposed(theirs) and tensor.dim() == 2 else tensor

    def _is_transposed(self, theirs: str) -> bool:
        return self.transposed and theirs.startswith(self.block.split("{")[0])


_LLAMA_PARTS = {
    "attention_norm": "input_layernorm", "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip
_GPT2_PARTS = {
    "attention_norm": "ln_1", "attention.query": "attn.c_attn", "attention.key": "attn.c_attn",
    "attention.value": "attn.c_attn", "attention.output": "attn.c_proj", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}  # fmt: skip
_LLAMA = Naming(
    {"embedding": "model.embed_tokens", "head.norm": "model.norm", "head.projection": "lm_head"},
    "model.layers.{}", _LLAMA_PARTS,
)  # fmt: skip
_GPT2 = Naming(
    {
        "embedding": "transformer.wte", "positions": "transformer.wpe", "head.norm": "transformer.ln_f",
        "head.projection": "lm_head",
    },
    "transformer.h.{}", _GPT2_PARTS, transposed=True,
)  # fmt: skip
HEAD = "lm_head.weight"
# Buffers that older versions of transformers saved with the weights: they follow from the shape.
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
_DTYPES = {"F64", "F32", "F16", "BF16"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def naming_of(shape: GPTShape) -> Naming:
    return _GPT2 if shape.family == "gpt2" else _LLAMA


def gather(
    shape: GPTShape, naming: Naming, stored: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], where: str
) -> dict[str, Tensor]:
    """Our tensors, float32, from theirs: `stored` their sizes, `read` one of them by name.

    Everything is checked before the first is read. Raises InputError for missing, superfluous and misshapen tensors,
    and for weights that are NaN or infinite.
    """
    # A config that claims a far larger model than there are numbers, or more layers than tensors, builds no model.
    numbers = sum(math.prod(size) for size in stored.values())
    if shape.layers <= len(stored) and shape.parameters > 64 * numbers:
        raise InputError(
            f"{where} holds {numbers:,} numbers, but its configuration describes a model of {shape.parameters:,}."
        )
    groups = naming.groups(shape) if shape.layers <= len(stored) else {naming.theirs("embedding.weight"): {}}
    missing = sorted(groups.keys() - stored.keys())
    if missing or shape.layers > len(stored):
        few = ", ".join(missing[:3] or ["those of most layers"])
        raise InputError(f"{where} lacks {len(missing) or 'many'} of the tensors its configuration needs: {few}.")
    if extra := sorted(stored.keys() - groups.keys()):
        raise InputError(
            f"{where} has {len(extra)} tensors that its architecture does not: {', '.join(extra[:3])}: it is another "
            "model than its configuration says."
        )
    for theirs, ours in groups.items():
        if (size := naming.stored_size(theirs, ours)) != stored[theirs]:
            raise InputError(f"{where}: {theirs} has the size {stored[theirs]}, but its configuration says {size}.")
    weights: dict[str, Tensor] = {}
    for theirs, ours in groups.items():
        tensor = naming.turn(theirs, read(theirs).to(torch.float32))
        low, high = tensor.aminmax()  # without a second tensor, of which the memory would be left in pieces
        if not (low.isfinite() and high.isfinite()):
            raise InputError(f"{where}: {theirs} holds numbers that are NaN or infinite: the weights are damaged.")
        split = torch.split(tensor, [size[0] for size in ours.values()])
        weights |= {name: part.contiguous() for name, part in zip(ours, split, strict=True)}
    return weights


def scatter(model: Decoder, naming: Naming) -> dict[str, Tensor]:
    """Their tensors from the model's: the inverse of `gather`."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {
        theirs: naming.turn(theirs, torch.cat([parameters[name] for name in ours])).contiguous()
        for theirs, ours in naming.groups(model.shape).items()
    }


def assemble(shape: GPTShape, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder, ready for evaluation, that has exactly these weights by our names (no tied head among them)."""
    with torch.device("meta"):
        model = Decoder(shape)
    state = {name: tensor.to(dtype) for name, tensor in weights.items()}
    if shape.tied:
        state["head.projection.weight"] = state["embedding.weight"]
    model.load_state_dict(state, assign=True)
    if shape.tied:
        model.head.projection.weight = model.embedding.weight
    return model.eval()


def load_huggingface(name: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a Hugging Face folder or hub id, ready for evaluation; errors as `read_huggingface`."""
    return assemble(*read_huggingface(find_huggingface(name)), dtype)


def read_huggingface(folder: str | Path) -> tuple[GPTShape, dict[str, Tensor]]:
    """The shape and the weights by our names, in float32, of a folder with config.json and safetensors.

    A head that is stored although the config ties it stays untied when it differs, as in transformers. Raises
    InputError with one sentence for other architectures, pickles, and damaged or unfitting files.
    """
    folder = Path(folder)
    shape = shape_of(_config(folder), str(folder / "config.json"))
    naming = naming_of(shape)
    embedding = naming.theirs("embedding.weight")
    tensors = _open(folder, embedding.split(".")[0] + ".")
    if shape.tied and HEAD in tensors:
        # safetensors' save_model keeps one of two names of a tensor, whichever comes first.
        head = tensors.pop(HEAD)
        if not torch.equal(head.read(), tensors.setdefault(embedding, head).read()):
            tensors[HEAD] = head
            shape = msgspec.structs.replace(shape, tied=False)
    stored = {name: tensor.size for name, tensor in tensors.items()}
    return shape, gather(shape, naming, stored, lambda name: tensors[name].read(), str(folder))


def find_huggingface(name: str | Path) -> Path:
    """The folder itself, or a hub id ("org/name") downloaded by huggingface_hub into its own cache.

    Only JSON, safetensors and the tokenizer's text files are downloaded. Raises InputError when there is neither,
    SystemFailure when the hub cannot be reached.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name)):
        raise InputError(f"there is no model folder {name}.")
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"there is no folder {name}; if it is a model on the Hugging Face hub, install what downloads it: "
            "pip install huggingface_hub."
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise InputError(f"there is neither a folder {name} nor such a model on the Hugging Face hub.") from None
    except (OSError, RuntimeError) as error:  # every failure of its connection is one of the two
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SystemFailure(
            f"there is no folder {name}, and the Hugging Face hub gave no such model: {reason}."
        ) from None


def _config(folder: Path) -> bytes:
    """The text of config.json. Raises InputError when the folder or the file is not there."""
    if folder.suffix in _PICKLES:
        raise _pickled(folder, folder.parent)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a model folder: give a folder with config.json and model.safetensors.")
    try:
        return (folder / "config.json").read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} is not a model folder: its config.json cannot be read ({error.strerror})."
        ) from None


def _pickled(file: Path, folder: Path) -> InputError:
    return InputError(
        f"{file} is a pickle, which can run code and is never opened here: if you trust it, convert it with "
        f"transformers: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(another folder)."
    )


def _safetensors_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises InputError when there are none, or fewer than the index says."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        for file in sorted(folder.iterdir()):
            if file.suffix in _PICKLES:
                raise _pickled(file, folder)
        raise InputError(f"{folder} has no weights: neither model.safetensors nor model.safetensors.index.json.")
    try:
        names = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{index} is not an index of safetensors: {error}.") from None
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).exists():
            raise InputError(f'{index} names the file "{name}", which is not a safetensors file in this folder.')
    return [folder / name for name in sorted(names)]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True)
class _Stored:
    """A tensor in a safetensors file."""

    path: Path
    name: str
    size: tuple[int, ...]

    def read(self) -> Tensor:
        """A copy in memory of its own. The file is mapped anew for each, lest all of it stay in memory to the end."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name).clone()
        return tensor


def _open(folder: Path, prefix: str) -> dict[str, _Stored]:
    """The tensors of a folder's files by name, none read yet. The prefix of names is added where a file has none.

    Raises InputError for a damaged file and for tensors that are not floating-point.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, _Stored] = {}
    for path in _safetensors_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                stored = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
        except (SafetensorError, OSError) as error:
            with path.open("rb") as opened:
                pointer = opened.read(20).startswith(b"version https://git")
            raise InputError(
                f"{path} is only a git-lfs pointer: fetch the file itself with git lfs pull."
                if pointer
                else f"{path} is damaged or cut off ({error}): copy or download it again."
            ) from None
        for name, (kind, size) in stored.items():
            if _BUFFERS.search(name):
                continue
            if kind not in _DTYPES:
                raise InputError(f"{path}: {name} is stored as {kind}; only these are read: {', '.join(_DTYPES)}.")
            if name in tensors:
                raise InputError(f"{path}: {name} is stored in another file too.")
            tensors[name] = _Stored(path, name, size)
    if not any(name.startswith(prefix) for name in tensors):
        tensors = {name if name == HEAD else prefix + name: stored for name, stored in tensors.items()}
    return tensors


def read_generation(folder: Path) -> dict[str, Any]:
    """How a folder asks for text to be written, its ends among it: generation_config.json, else what config.json has.

    Raises InputError for a file that is not a JSON object.
    """
    names = ("generation_config.json", "config.json")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON object: {error}.") from None
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: value for key, value in content.items() if path.name != "config.json" or key in ids}


def _tokenizer_changes(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """What an export's tokenizer_config.json says besides: the class that takes tokenizer.json as it is, and what
    programs need to make batches for a decoder."""
    config = tokenizer.config
    longest = config.get("model_max_length")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": min(longest, context) if isinstance(longest, int | float) and longest > 0 else context,
        "pad_token": config.get("pad_token") or config.get("eos_token"),
    }


def write_huggingface(
    model: Decoder, folder: str | Path, *, tokenizer: Tokenizer | None = None, card: str | None = None,
    dtype: torch.dtype = torch.float32, generation: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a folder that `transformers` opens with no code of ours.

    config.json, generation_config.json (`generation`: what the model came with), model.safetensors in `dtype`, the
    tokenizer's files, and `card` as README.md.
    Written aside and renamed, so that the folder is whole or not there. Raises InputError when the folder exists and
    is not empty, SystemFailure when the disk does not take it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already: give another folder, or remove it first.")
    beginning, end_of_text = (tokenizer.beginning, tokenizer.end_of_text) if tokenizer is not None else (None, None)
    name = str(dtype).removeprefix("torch.")
    ids = {"bos_token_id": beginning, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    generation = ids | dict(generation or {})
    config = config_of(model.shape, beginning=beginning, end_of_text=generation["eos_token_id"], dtype=name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            aside = Path(scratch) / "model"
            aside.mkdir()
            tensors = {name: t.to("cpu", dtype) for name, t in scatter(model, naming_of(model.shape)).items()}
            save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
            for name, content in (("config.json", config), ("generation_config.json", generation)):
                (aside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (aside / "model.safetensors").chmod((aside / "config.json").stat().st_mode)  # safetensors makes it private
            if card is not None:
                (aside / "README.md").write_text(card, encoding="utf-8")
            if tokenizer is not None:
                tokenizer.save(aside, **_tokenizer_changes(tokenizer, model.shape.context))
            for path in aside.iterdir():
                sync(path)
            aside.replace(folder)
    except (OSError, SafetensorError) as error:
        raise SystemFailure(f"{folder} could not be written: {error}.") from None
    return folder
