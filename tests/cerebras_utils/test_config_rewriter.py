"""Masks and LoRA into configs: the outcome, what is set right, what is refused, and the real files."""

import copy
import difflib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import cerebras_utils
from cerebras_utils.config_rewriter import create_sparse_config, rewrite, write_config
from cerebras_utils.rewriting.header import START
from cerebras_utils.rewriting.request import (
    MaskInfo,
    MaskSummary,
    Request,
    Setting,
    parse_lora,
    parse_setting,
)
from cerebras_utils.yaml_values import same
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

REAL = Path(__file__).parents[2].parent / "shared/cszoo_configs"
MASKS = MaskSummary(
    "/m/masks.safetensors",
    "5ha",
    {"model.a.weight": MaskInfo((4, 4), 8), "model.b.weight": MaskInfo((2, 2), 3)},
    None,
    {"sparsity": "0.5"},
)
ENTRY = {"SparseMaskCallback": {"mask_path": "/m/masks.safetensors", "apply_every_step": True}}
SAMPLE = """\
# My config
trainer:
  init:
    model:
      name: gpt2  # small
    optimizer:
      AdamW: {betas: [0.9, 0.95]}
    loop: {max_steps: 5}
    checkpoint:
      steps: 5
    callbacks:
    - CheckLoss: {}
  fit:
    train_dataloader: &data
      data_processor: GptHDF5MapDataProcessor
      batch_size: 4
    val_dataloader: *data
"""


def done(text=SAMPLE, **asked):
    return rewrite("c.yaml", text, Request(masks=MASKS, **asked), "wafersparse config c.yaml")


def added(result):
    """What the lines of the base became, without the header."""
    lines = [line for line in result.text.splitlines() if not line.startswith(START)]
    changes = [*difflib.unified_diff(result.before.splitlines(), lines, n=0)][2:]
    return [f"{line[0]} {line[1:]}" for line in changes if line[0] in "+-"]


def refused(text=SAMPLE, **asked):
    with pytest.raises(ProblemError) as error:
        done(text, **asked)
    return str(error.value)


# Masks


def test_the_callback_is_one_line_more():
    result = done()
    assert added(result) == [
        "+     - SparseMaskCallback: {mask_path: /m/masks.safetensors, apply_every_step: true}"
    ]
    assert result.value["trainer"]["init"]["callbacks"] == [{"CheckLoss": {}}, ENTRY]
    assert result.lines == ()


def test_the_header_says_what_made_it_and_gives_way_to_the_next():
    first = done()
    head = [line for line in first.text.splitlines() if line.startswith(START)]
    assert head[0] == "# wafersparse: wafersparse config c.yaml"
    assert "sha256 5ha" in head[2]
    assert "sparsity 0.450000 of 20 weights in 2 masks (0.2500 to 0.5000), asked for 0.5" in head[3]
    again = done(first.text)
    assert again.text == first.text


def test_sparse_to_dense_applies_the_masks_once():
    entry = done(mode="sparse_to_dense").value["trainer"]["init"]["callbacks"][-1]
    assert entry["SparseMaskCallback"]["apply_every_step"] is False


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        (
            "    callbacks:\n",
            ["+     - SparseMaskCallback: {mask_path: /m/masks.safetensors, apply_every_step: true}"],
        ),
        (
            "",
            [
                "+     callbacks:",
                "+     - SparseMaskCallback: {mask_path: /m/masks.safetensors, apply_every_step: true}",
            ],
        ),
    ],
)
def test_without_callbacks(callbacks, expected):
    assert added(done(SAMPLE.replace("    callbacks:\n    - CheckLoss: {}\n", callbacks))) == expected


@pytest.mark.parametrize("callbacks", ["[]", "null", "[CheckLoss: {}]"])
def test_callbacks_on_one_line(callbacks):
    result = done(SAMPLE.replace("callbacks:\n    - CheckLoss: {}", f"callbacks: {callbacks}  # c"))
    assert result.value["trainer"]["init"]["callbacks"][-1] == ENTRY
    assert [line[0] for line in added(result)] == ["-", "+"]
    assert added(result)[1].endswith("  # c")


def test_masks_that_are_there_are_replaced_and_it_is_said():
    text = SAMPLE.replace("- CheckLoss: {}", "- sparsemaskcallback:\n        mask_path: old.npz")
    result = done(text)
    assert result.value["trainer"]["init"]["callbacks"] == [ENTRY]
    assert result.lines == (
        "trainer.init.callbacks[0].SparseMaskCallback: replaced, it was {mask_path: old.npz}",
    )
    assert "is there more than once" in refused(
        text.replace("  fit:", "    - SparseMaskCallback: {}\n  fit:")
    )


def test_lenient_loading_is_set_right():
    result = done(SAMPLE.replace("steps: 5\n    call", "disable_strict_checkpoint_loading: true\n    call"))
    assert result.value["trainer"]["init"]["checkpoint"] == {"disable_strict_checkpoint_loading": False}
    assert "disable_strict_checkpoint_loading: true -> false" in result.lines[0]
    asked = (Setting("init.checkpoint.disable_strict_checkpoint_loading", True),)
    assert "leave this --set out" in refused(settings=asked)


def test_a_sparsity_of_its_own():
    text = SAMPLE.replace(
        "    loop:", "    # of RigL\n    sparsity:\n      algorithm: rigl\n      sparsity: 0.9\n    loop:"
    )
    said = refused(text)
    assert "c.yaml:9: trainer.init.sparsity" in said
    assert "(rigl)" in said
    assert "--replace-sparsity" in said
    result = done(text, replace_sparsity=True)
    assert "sparsity" not in result.value["trainer"]["init"]
    assert added(result)[:3] == ["-     sparsity:", "-       algorithm: rigl", "-       sparsity: 0.9"]
    assert result.lines == ("trainer.init.sparsity: replaced, it was {algorithm: rigl, sparsity: 0.9}",)


def test_masks_made_from_a_checkpoint_and_a_run_from_random_weights():
    masks = replace(MASKS, checkpoint="f1n9e7")
    result = rewrite("c.yaml", SAMPLE, Request(masks=masks), "x")
    assert "starts from random weights" in result.lines[0]


# LoRA


def test_lora_beside_the_masks():
    lora = parse_lora("r=16,alpha=32,dropout=0.05,target=TransformerDecoderLayer+Linear")
    result = done(lora=lora, mode="sparse_to_dense")
    assert result.value["trainer"]["init"]["callbacks"][1:] == [
        ENTRY,
        {
            "Lora": {
                "lora_params": {
                    "r": 16,
                    "alpha": 32,
                    "dropout": 0.05,
                    "target_modules": ["TransformerDecoderLayer", "Linear"],
                }
            }
        },
    ]
    assert len(added(result)) == 2
    (name,) = done(lora=lora).value["trainer"]["init"]["callbacks"][2]
    assert name == "SparseLora"


def test_a_default_target_is_said():
    result = done(lora={"r": 4}, mode="sparse_to_dense")
    assert result.lines == (
        "Lora: target_modules is [TransformerDecoderLayer, Linear]; say another with target=A+B",
    )


WITH_LORA = SAMPLE.replace(
    "- CheckLoss: {}",
    "- Lora:\n        lora_params:\n          r: 8  # small\n          merge_weights: true\n"
    "          target_modules: [Linear]",
)


def test_a_lora_that_is_there_is_updated_and_shown():
    result = done(WITH_LORA, lora={"r": 16}, mode="sparse_to_dense")
    params = result.value["trainer"]["init"]["callbacks"][0]["Lora"]["lora_params"]
    assert params == {"r": 16, "merge_weights": False, "target_modules": ["Linear"]}
    assert any(line.endswith(": r 8 -> 16") for line in result.lines)
    assert "+           r: 16  # small" in added(result)


def test_a_lora_that_stays_is_set_right():
    result = done(WITH_LORA, mode="sparse_to_dense")
    params = result.value["trainer"]["init"]["callbacks"][0]["Lora"]["lora_params"]
    assert (params["r"], params["merge_weights"]) == (8, False)
    assert "merge_weights true -> false" in result.lines[0]
    assert result.value["trainer"]["init"]["callbacks"][1] == ENTRY  # the base is frozen, its masks hold


def test_lora_and_modes_that_disagree():
    assert "trains a dense update" in refused(WITH_LORA)
    assert "becomes SparseLora" in " ".join(done(WITH_LORA, lora={"r": 16}).lines)
    two = WITH_LORA.replace("    - Lora:", "    - SparseLora: {lora_params: {r: 2}}\n    - Lora:")
    assert "exclude each other" in refused(two, mode="sparse_to_dense")
    many = SAMPLE.replace("CheckLoss: {}", "Lora: {lora_params: [{r: 2}, {r: 4}]}")
    assert "2 sets" in refused(many, lora={"r": 16}, mode="sparse_to_dense")
    old = SAMPLE.replace("name: gpt2", "name: gpt2\n      lora_params: {r: 4}")
    assert "give --lora" in refused(old)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("r=16,alpah=32", "Did you mean"),
        ("alpha=32", "'r'"),
        ("r=0", "whole number"),
        ("r=1.5", "whole number"),
        ("r=2,dropout=1.0", "dropout"),
        ("r=2,alpha=0", "alpha"),
        ("r=2,merge_weights=true", "merge"),
        ("r=2,r=3", "twice"),
        ("r", "no value"),
    ],
)
def test_bad_lora(text, said):
    with pytest.raises(ProblemError, match=said):
        Request(masks=MASKS, lora=parse_lora(text), mode="sparse_to_dense")


# Settings


def set_to(*settings, text=SAMPLE, **asked):
    return done(text, settings=tuple(map(parse_setting, settings)), **asked)


def test_settings_change_and_make_what_is_known():
    result = set_to(
        "init.loop.max_steps=100",
        "trainer.init.seed=7",
        "init.logging.log_steps=10",
        "init.optimizer.AdamW.betas[1]=0.99",
    )
    init = result.value["trainer"]["init"]
    assert (init["loop"], init["seed"], init["logging"]) == ({"max_steps": 100}, 7, {"log_steps": 10})
    assert init["optimizer"] == {"AdamW": {"betas": [0.9, 0.99]}}
    assert "+     logging: {log_steps: 10}" in added(result)
    assert (
        set_to("fit.val_dataloader.batch_size=2").value["trainer"]["fit"]["train_dataloader"]["batch_size"]
        == 4
    )


def test_settings_that_do_nothing_or_are_not_checked_are_said():
    assert set_to("init.loop.max_steps=5").lines == (
        "--set init.loop.max_steps has no effect: it is 5 already",
    )
    (line,) = set_to("init.model.nam=gpt3").lines
    assert "checked by cszoo alone. Did you mean 'name'?" in line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("init.loop.max_stepz=5", "Did you mean 'max_steps'?"),
        ("int.loop.max_steps=5", "Did you mean 'init'?"),
        ("init.lop.max_steps=5", "Did you mean 'loop'?"),
        ("init.model.a.b=5", "there is no 'a' in init.model"),
        ("init.optimizer.weight_decay=0.1", "init.optimizer.AdamW.weight_decay"),
        ("init.optimizer.AdamW.betas.2=5", "has 2 items"),
        ("init.callbacks.CheckLoss=5", "is a list of CheckLoss"),
        ("init.model.name.x=5", "has no keys"),
        ("init.loop.max_steps=5.0", "is not a whole number"),
        ("init.optimizer.AdamW.eps=1e-8", "is text in YAML 1.1"),
        ("init.optimizer.AdamW.eps=[", "is not YAML"),
        ("init..=5", "is no path of keys"),
        ("fit.train_dataloader.batch_size=8", "anchored as &data"),
        ("init=5", "is no map any more"),
    ],
)
def test_bad_settings(setting, said):
    with pytest.raises(ProblemError) as error:
        set_to(setting)
    assert said in str(error.value)


def test_flags_with_points_in_their_names():
    text = SAMPLE.replace("CheckLoss: {}", "GlobalFlags:\n        csx.debug.a: 1")
    flags = set_to(
        "init.callbacks.0.GlobalFlags.csx.debug.a=2", "init.callbacks.0.GlobalFlags.csx.b=3", text=text
    )
    assert flags.value["trainer"]["init"]["callbacks"][0] == {"GlobalFlags": {"csx.debug.a": 2, "csx.b": 3}}


# Forms


def listed(text=SAMPLE):
    """Two trainers, one after the other."""
    lines = "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True)[1:])
    second = lines.replace("&data", "&more").replace("*data", "*more")
    return f"trainer:\n- {lines.lstrip()}- {second.lstrip()}"


def test_a_list_of_trainers():
    text = listed()
    assert len(yaml.safe_load(text)["trainer"]) == 2
    assert "add --phase all" in refused(text)
    assert "has 2" in refused(text, phase="2")
    counts = {
        p: [len(t["trainer"]["init"]["callbacks"]) for t in done(text, phase=p).value["trainer"]]
        for p in ("0", "1", "all")
    }
    assert counts == {"0": [2, 1], "1": [1, 2], "all": [2, 2]}


def test_the_form_before_trainers_names_the_converter():
    assert "cszoo config convert_legacy" in refused("train_input: {}\nmodel: {}\n")


def test_everything_wrong_at_once():
    text = WITH_LORA.replace("    loop:", "    sparsity: 0.5\n    loop:")
    assert refused(text).count("fix:") == 2


# Dictionaries


@pytest.fixture
def masks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_mask({"model.a.weight": torch.rand(8, 8) > 0.5}, "masks_70pct.pt", metadata={"sparsity": 0.7})
    return tmp_path / "masks_70pct.pt"


def test_the_documented_call(masks):
    base = yaml.safe_load(SAMPLE)
    before = copy.deepcopy(base)
    config = cerebras_utils.create_sparse_config(
        base,
        mask_path="masks_70pct.pt",
        lora_config={"r": 16, "alpha": 32, "dropout": 0.05},
        sparse_mode="sparse_to_dense",
    )
    assert base == before
    assert config["trainer"]["init"]["callbacks"][1:] == [
        {"SparseMaskCallback": {"mask_path": str(masks), "apply_every_step": True}},
        {
            "Lora": {
                "lora_params": {
                    "r": 16,
                    "alpha": 32,
                    "dropout": 0.05,
                    "target_modules": ["TransformerDecoderLayer", "Linear"],
                }
            }
        },
    ]
    config["trainer"]["fit"]["train_dataloader"]["batch_size"] = 1
    assert config["trainer"]["fit"]["val_dataloader"]["batch_size"] == 4
    assert base == before


def test_bad_calls(masks):
    base = yaml.safe_load(SAMPLE)
    for given, said in [
        ({"base_config": {...}}, "not a config"),
        ({"base_config": {}}, "no `trainer:`"),
        ({"mask_path": "none.pt"}, "none.pt"),
        ({"sparse_mode": "sparse_to_dens"}, "Did you mean 'sparse_to_dense'"),
        ({"lora_config": {"rank": 3}}, "rank"),
    ]:
        with pytest.raises(ProblemError, match=said):
            create_sparse_config(**{"base_config": base, "mask_path": "masks_70pct.pt", **given})


def test_a_layer_without_weights_is_refused(masks):
    save_mask({"model.a.weight": torch.zeros(8, 8, dtype=torch.bool)}, "none.pt")
    with pytest.raises(ProblemError, match="keeps nothing"):
        create_sparse_config(yaml.safe_load(SAMPLE), mask_path="none.pt")


def test_files_are_never_replaced(tmp_path):
    assert write_config(tmp_path / "c.yaml", "a: 1\n") == "write"
    assert write_config(tmp_path / "c.yaml", "a: 1\n") == "keep"
    with pytest.raises(ProblemError, match="holds something else"):
        write_config(tmp_path / "c.yaml", "a: 2\n")


# The real files


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/cszoo_configs is not here")
def test_every_real_config_changes_where_it_is_meant_to():
    files = sorted(REAL.rglob("*.yaml"))
    assert len(files) == 70
    seen = {"legacy": 0, "sparsity": 0, "done": 0, "strict": 0}
    for path in files:
        text = path.read_bytes().decode()
        base = yaml.load(text, yaml.CSafeLoader)
        asked = {
            "lora": {"r": 16, "target_modules": ["Linear"]},
            "mode": "sparse_to_dense",
            "replace_sparsity": True,
        }
        if "trainer" not in base:
            assert "convert_legacy" in refused(text, **asked)
            seen["legacy"] += 1
            continue
        result = done(text, **asked)
        init = base["trainer"]["init"]
        expected = yaml.load(text, yaml.CSafeLoader)
        expected["trainer"]["init"] = init = copy.deepcopy(init)
        lora = {"Lora": {"lora_params": {"r": 16, "target_modules": ["Linear"]}}}
        init["callbacks"] = [*(init.get("callbacks") or []), ENTRY, lora]
        removed = 0
        if init.pop("sparsity", None) is not None:
            seen["sparsity"] += 1
            removed = None
        if init.get("checkpoint", {}).get("disable_strict_checkpoint_loading"):
            init["checkpoint"]["disable_strict_checkpoint_loading"] = False
            seen["strict"] += 1
            removed = 1
        assert same(yaml.load(result.text, yaml.CSafeLoader), expected), path
        gone = [line for line in added(result) if line.startswith("-")]
        new = [line for line in added(result) if line.startswith("+")]
        assert len(new) == 2 + ("callbacks" not in base["trainer"]["init"]) + (removed == 1), (path, new)
        assert removed is None or len(gone) == removed, (path, gone)
        seen["done"] += 1
    assert seen == {"legacy": 1, "sparsity": 6, "done": 69, "strict": 9}
