"""Configs as cszoo writes them, and the mistakes that are made in them."""

from pathlib import Path

import pytest
import yaml

from cerebras_utils.cszoo_yaml import config_problems, lines_without_effect, load_config, located
from pruning.problems import Problem, ProblemError

SAMPLE = """\
trainer:
  init:
    backend: {backend_type: CPU}
    model_dir: run
    seed: 1
    model:
      name: gpt2
      hidden_size: 64
    optimizer:
      AdamW: {betas: [0.9, 0.95], weight_decay: 0.1}
    schedulers:
    - ConstantLR: {learning_rate: 0.01}
    precision: {enabled: false, max_gradient_norm: 1}
    loop: {max_steps: 5, eval_frequency: 5, eval_steps: 2}
    checkpoint: {steps: 5}
    logging: {log_steps: 1}
    callbacks:
    - CheckLoss: {}
    - CheckLoss:
    - SparseMaskCallback: {mask_path: masks.safetensors}
    loggers:
    - TensorBoardLogger: {summary_dir: events}
  fit:
    train_dataloader: &data
      data_processor: GptHDF5MapDataProcessor
      data_dir: data
    val_dataloader:
    - *data
    - *data
    ckpt_path: start.mdl
  validate:
    val_dataloader: *data
    ckpt_path:
  validate_all:
    val_dataloaders: *data
    ckpt_paths: [a.mdl, b.mdl]
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write a config of that text, with ``old`` replaced by ``new`` in the sample."""
    monkeypatch.chdir(tmp_path)

    def write(old="", new="", text=SAMPLE):
        assert old in text
        Path("c.yaml").write_text(text.replace(old, new, 1))
        return "c.yaml"

    return write


def problems(path):
    return [f"{p.where} | {p.what} | {p.fix}" for p in config_problems(load_config(path))]


def test_one_trainer(config):
    (phase,) = load_config(config())
    assert phase.params == yaml.safe_load(SAMPLE)["trainer"]
    assert phase.key == "trainer"
    assert phase.init["seed"] == 1
    assert phase.where("init.loop") == "c.yaml: trainer.init.loop"
    assert phase.at("init.loop.max_steps") == "c.yaml:14: trainer.init.loop.max_steps"
    assert config_problems([phase]) == []
    assert lines_without_effect([phase]) == []


def test_a_list_of_trainers(config):
    entry = {"trainer": yaml.safe_load(SAMPLE)["trainer"]}
    path = config(text=yaml.safe_dump({"trainer": [entry, entry]}))
    phases = load_config(path)
    assert [phase.key for phase in phases] == ["trainer[0].trainer", "trainer[1].trainer"]
    assert [phase.params for phase in phases] == [entry["trainer"]] * 2
    assert problems(path) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {}\nrunconfig: {}\n", "cszoo config convert_legacy c.yaml -o c_v2.yaml"),
        ("train_input: {}\n", "of the form before trainers"),
        ("trianer: {init: {}}\n", "Did you mean 'trainer'?"),
        ("", "is empty"),
        ("- trainer: {}\n", "is a list, not a map"),
        ("trainer: []\n", "is an empty list"),
        ("trainer:\n- init: {}\n", "c.yaml:2: trainer[0]\n   has no `trainer:`"),
        ("trainer:\n", "c.yaml:1: trainer\n   is missing"),
        ("trainer: 5\n", "is 5, not a map"),
        ("trainer: {fit: {}}\n", "c.yaml:1: trainer.init\n   is missing"),
        ("trainer: {init: {model: gpt2}}\n", "c.yaml:1: trainer.init.model\n   is 'gpt2', not a map"),
        ("trainer: {init: {model: {a: 1}}}\n", "has no `name`"),
        ("trainer: {init: {model: {name: 2}}}\n", "has the name 2, which is no text"),
        ("trainer: {init: {model: {model_name: gpt2}}}\n", "call it `name`"),
        ("trainer:\n  init: {}\n  init: {}\n", "c.yaml:3: trainer.init\n   the key 'init' is written twice"),
        ("trainer: [\n", "is not YAML"),
    ],
)
def test_what_is_no_config(config, text, says):
    with pytest.raises(ProblemError) as caught:
        load_config(config(text=text))
    assert "c.yaml" in str(caught.value)
    assert says in str(caught.value)


def test_every_trainer_that_is_no_trainer_is_named(config):
    with pytest.raises(ProblemError) as caught:
        load_config(config(text="trainer:\n- trainer: 1\n- trainer: {init: {}}\n"))
    assert [p.where for p in caught.value.problems] == [
        "c.yaml:2: trainer[0].trainer",
        "c.yaml:3: trainer[1].trainer.init.model",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "    seed:",
            "    sede:",
            "c.yaml:5: trainer.init.sede | is no key of trainer.init. Did you mean 'seed'?",
        ),
        ("  validate:", "  validat:", "Did you mean 'validate'?"),
        ("    seed: 1", "    max_steps: 1", "move it to trainer.init.loop"),
        (
            "{max_steps:",
            "{max_step:",
            "trainer.init.loop.max_step | is no key of trainer.init.loop. Did you mean",
        ),
        ("    ckpt_path: start", "    ckpt_pth: start", "Did you mean 'ckpt_path'?"),
        ("    ckpt_paths:", "    ckpt_path:", "Did you mean 'ckpt_paths'?"),
        ("trainer:", "seed: 1\ntrainer:", "c.yaml:1: seed | stands beside `trainer:`"),
        ("max_steps: 5", "max_steps: 0", "0 is not a whole number above 0, or null"),
        ("max_steps: 5", "max_steps: true", "True is not a whole number"),
        ("max_steps: 5", "max_steps: '5'", "'5' is not a whole number"),
        ("max_steps: 5", "num_steps: 5, num_epochs: 1", "excludes num_steps"),
        ("eval_frequency: 5", "eval_frequency: 1.5", "1.5 is not a whole number of steps, or a fraction"),
        ("loop: {max_steps: 5, eval_frequency: 5, eval_steps: 2}", "loop: 5", "is 5, not a map"),
        ("{steps: 5}", "{steps: -1}", "-1 is not a whole number from 0"),
        ("{steps: 5}", "{checkpoint_name: a.mdl}", "'a.mdl' is not a file name with {step} in it"),
        ("{steps: 5}", "{checkpoint_name: '{step}/{x}'}", "is not a file name with {step} in it"),
        ("{steps: 5}", "{checkpoint_name: 'c_{step:05d}.mdl'}", "once and plain, and no other braces"),
        ("{steps: 5}", "{checkpoint_name: 'c_{step!r}.mdl'}", "once and plain, and no other braces"),
        ("{steps: 5}", "{checkpoint_name: 'a{step}b{step}.mdl'}", "once and plain, and no other braces"),
        ("{steps: 5}", "{checkpoint_name: '{{a}}_{step}.mdl'}", "once and plain, and no other braces"),
        ("{steps: 5}", "{checkpoint_root: s3://bucket}", "S3 is written by ModelZoo alone"),
        ("{log_steps: 1}", "{log_level: INFO}", "lacks 'log_steps'"),
        ("{log_steps: 1}", "{log_steps: 1, log_level: LOUD}", "'LOUD' is not a level such as INFO"),
        ("{enabled: false,", "{enabled: 'off',", "'off' is not true or false"),
        ("{enabled: false,", "{fp16_type: fp16,", "'fp16' is not one of float16, bfloat16, cbfloat16"),
        ("{enabled: false,", "{max_gradient_value: 1,", "excludes max_gradient_norm"),
        ("{enabled: false,", "{loss_scaling_factor: dynamik,", "'dynamik' is not a number above 0 or"),
        ("max_gradient_norm: 1", "max_gradient_norm: .nan", "nan is not a number above 0"),
        ("backend_type: CPU", "backend_type: TPU", "'TPU' is not CPU, GPU or CSX"),
        ("backend_type: CPU", "backend_typ: CPU", "Did you mean 'backend_type'?"),
        ("    seed: 1", "    device: GPU", "is GPU, but backend_type is CPU, which wins"),
        ("    seed: 1", "    device: 1", "1 is not CPU, GPU or CSX"),
        ("    seed: 1", "    seed: 1.5", "1.5 is not a whole number"),
        ("model_dir: run", "model_dir: 5", "5 is not a directory"),
        ("    ckpt_path: start.mdl", "    ckpt_path: 5", "5 is not a checkpoint's path"),
        ("    ckpt_path: start.mdl", "    ckpt_path: [a]", "is not a checkpoint's path"),
        ("val_dataloader: *data", "val_dataloader:", "trainer.validate.val_dataloader | is empty"),
        ("val_dataloader: *data", "val_dataloader: [*data]", "trainer.validate.val_dataloader | is a list"),
        (
            "    val_dataloaders: *data",
            "    val_dataloaders: [*data, 5]",
            "val_dataloaders[1] | is a int, not",
        ),
        ("    - *data\n", "    - five\n", "trainer.fit.val_dataloader[0] | is a str, not a map"),
        ("    val_dataloader: *data\n", "", "trainer.validate | lacks 'val_dataloader'"),
        ("CheckLoss: {}", "ChekLoss: {}", "is no callback. Did you mean 'CheckLoss'?"),
    ],
)
def test_mistakes(config, old, new, says):
    found = problems(config(old, new))
    assert len(found) == 1, found
    assert says in found[0]


def test_all_problems_at_once_in_the_order_of_the_file(config):
    text = (
        SAMPLE.replace("seed: 1", "sede: 1")
        .replace("max_steps: 5", "max_steps: 1e3")
        .replace("name: gpt2", "name: gpt2\n      eps: 1e-5")
    )
    found = problems(config(text=text))
    assert [entry.split(" | ")[0] for entry in found] == [
        "c.yaml:5: trainer.init.sede",
        "c.yaml:8: trainer.init.model.eps",
        "c.yaml:15: trainer.init.loop.max_steps",  # once, though the text is no number either
    ]


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("1e-5", "1.0e-5"),
        ("6E-06", "6.0e-06"),
        ("-2e3", "-2.0e+3"),
        ("1.5e3", "1.5e+3"),
        (".5e3", ".5e+3"),
        ("1_0e5", "1_0.0e+5"),
    ],
)
def test_numbers_that_yaml_reads_as_text(config, written, right):
    (found,) = problems(config("hidden_size: 64", f"eps: {written}"))
    assert found.startswith("c.yaml:8: trainer.init.model.eps | ")
    assert f"write {right}, or" in found
    assert isinstance(yaml.safe_load(right), float)
    assert yaml.safe_load(right) == float(written)


@pytest.mark.parametrize(
    "written", ["1.0e-5", "'1e-5'", "e5", "1e", "gpt2", "1e5x", "1.0e-5 # 1e-5", "0x1e5"]
)
def test_what_is_no_number_written_wrongly(config, written):
    assert problems(config("hidden_size: 64", f"eps: {written}")) == []


def test_what_has_no_effect_is_said(config):
    text = SAMPLE.replace(
        "{backend_type: CPU}", "{backend_type: CPU, cluster_config: {num_csx: 2}, csx.x: 1}"
    )
    text = text.replace("{enabled: false,", "{precision_opt_level: 1,").replace(
        "    - CheckLoss:\n", "    - ScopedTrainFlags: {csx.performance.micro_batch_size: 5}\n"
    )
    text = text.replace("    seed: 1", "    autorestart: {max_num_restarts: 3, min_num_csx: 1}")
    path = config(text=text)
    assert problems(path) == []
    lines = lines_without_effect(load_config(path))
    assert [line.split(" has no effect here: ")[0] for line in lines] == [
        "c.yaml: trainer.init.precision.precision_opt_level",
        "c.yaml: trainer.init.autorestart.max_num_restarts",
        "c.yaml: trainer.init.backend.cluster_config",
        "c.yaml: trainer.init.backend.csx.x",
        "c.yaml: trainer.init.callbacks[1].ScopedTrainFlags",
    ]


def test_problems_of_other_parts_get_their_lines(config):
    phases = load_config(config())
    found = located([Problem(phases[0].where("init.model.hidden_size"), "w", "f")] * 2, phases)
    assert found == [Problem("c.yaml:8: trainer.init.model.hidden_size", "w", "f")]


REAL = Path(__file__).parents[3] / "shared" / "cszoo_configs"
EXCEPTIONS = {  # what is wrong with the others
    "nlp/gptj/continuous_pretraining/configs/params_gptj_6B_TRC2.yaml": "is text in YAML 1.1",
    "vision/fc_mnist/configs/params.yaml": "is of the form before trainers",
}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"there are no real configs in {REAL}")
def test_real_configs():
    files = sorted(REAL.rglob("*.yaml"))
    assert len(files) == 70
    for file in files:
        name = str(file.relative_to(REAL))
        try:
            phases = load_config(file)
            found = config_problems(phases)
            lines_without_effect(phases)
            assert phases[0].params == yaml.safe_load(file.read_text())["trainer"]
        except ProblemError as error:
            found = list(error.problems)
        print(f"{'read' if not found else found[0].what:70} {name}")
        assert bool(found) == (name in EXCEPTIONS), found
        assert all(EXCEPTIONS[name] in problem.what for problem in found)
