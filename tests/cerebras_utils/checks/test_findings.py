"""Each mistake is found, by the check that is about it, with the value that was found in the words."""

import os

import pytest
import torch
from safetensors.torch import save_file

from cerebras_utils.checks.registry import Doubt, Estimate, NotMade
from cerebras_utils.doctor import entries, examine

from .conftest import linear, write_data
from .test_sound import ELSEWHERE, LORA, lora, masks_inside, native, native_lora, sparse_lora

BROKEN = []  # (check, change, text, whether it is a doubt)


def broken(check, text, *, doubt=False):
    """The change below makes ``check`` find ``text``."""

    def add(change):
        BROKEN.append(pytest.param(check, change, text, doubt, id=f"{check}-{change.__name__}"))
        return change

    return add


def state_with(run, name, **more):
    return run.bench.save(name, {"model": {**run.bench.state, **more}})


# config


@broken("config.keys", "is no key of trainer.init.loop. Did you mean 'max_steps'?")
def misspelt_key(run):
    run.init["loop"]["max_step"] = 3


@broken("config.keys", "is no callback. Did you mean 'SparseMaskCallback'?")
def misspelt_callback(run):
    run.init["callbacks"] = [{"SparseMaskCalback": {"mask_path": "m"}}]


@broken("config.model", "'gpt22' is no model of ModelZoo 2.10. Did you mean 'gpt2'?")
def unknown_model(run):
    run.init["model"]["name"] = "gpt22"


@broken("config.model", "the key is not known. Did you mean 'hidden_size'?")
def unknown_option(run):
    run.init["model"]["hiden_size"] = 8


@broken("config.optimizer", "unknown optimizer 'AdanW'. Did you mean 'AdamW'?")
def unknown_optimizer(run):
    run.init["optimizer"] = {"AdanW": {}}


@broken("config.schedulers", "sets a learning rate that")
def overlapping_schedulers(run):
    run.init["schedulers"] += [linear(0.0, 1.0, 5)]


@broken("config.stages", "nothing would run")
def no_stage(run):
    del run.config["trainer"]["fit"]


@broken("config.csx_flags", "has no effect", doubt=True)
def flag_in_backend(run):
    run.init["backend"]["csx.debug.lazy_initialization"] = False


@broken("config.dropped", "is null: cszoo drops it without a word")
def null_callback(run):
    run.init["callbacks"] = [{"SparseMaskCallback": None}]


@broken("config.dropped", "SparseMaskCallback is there already")
def masks_twice(run):
    run.add("sparsemaskcallback", mask_path=run.bench.masks)


@broken("config.autorestart", "autorestart rejects a callback without on_save_trainer_state")
def not_restartable(run):
    run.init["autorestart"] = {"max_num_restarts": 1}
    run.add("ValidationCallback")


@broken("config.autorestart", "is 3, and the run has num_csx: 1")
def more_than_all_machines(run):
    run.init["autorestart"] = {"max_num_restarts": 1, "min_num_csx": 3}


@broken("config.autorestart", "restarts from step 0", doubt=True)
def nothing_to_restart_from(run):
    run.init["autorestart"] = {"max_num_restarts": 1}
    del run.init["checkpoint"]["steps"]


# paths


@broken("paths.exist", "does not exist: ")
def absent_data(run):
    run.fit["train_dataloader"]["data_dir"] = f"{run.bench.folder}/trian"


@broken("paths.exist", "absent.safetensors does not exist")
def absent_masks(run):
    run.masking["mask_path"] = f"{run.bench.folder}/absent.safetensors"


@broken("paths.exist", "does not exist")
def absent_mount(run):
    run.init["backend"]["cluster_config"]["python_paths"] = ["/nowhere/at/all"]


@broken("paths.exist", "is a link to nothing")
def dangling(run):
    link = run.bench.folder / "dangling"
    link.unlink(missing_ok=True)
    link.symlink_to("nowhere")
    run.fit["val_dataloader"]["data_dir"] = str(link)


@broken("paths.absolute", "workers on the cluster do not start in this directory")
def relative_data(run):
    run.fit["train_dataloader"]["data_dir"] = os.path.relpath(run.bench.train)


@broken("paths.absolute", "only where cszoo is started in this directory", doubt=True)
def relative_masks(run):
    run.masking["mask_path"] = os.path.relpath(run.bench.masks)


@broken("paths.mounted", "is outside of mount_dirs")
def not_mounted(run):
    run.init["backend"]["cluster_config"]["mount_dirs"] = [run.bench.train]


@broken("paths.model_dir", "is a file, not a directory")
def model_dir_below_a_file(run):
    run.init["model_dir"] = f"{run.bench.masks}/out"


@broken("paths.model_dir", "holds 1 checkpoint: the run goes on from the last", doubt=True)
def resumes_by_itself(run):
    del run.fit["ckpt_path"]
    run.init["model_dir"] = str(run.bench.folder / "old")
    os.makedirs(run.init["model_dir"], exist_ok=True)
    open(f"{run.init['model_dir']}/checkpoint_5.mdl", "w").close()


# checkpoint


@broken("checkpoint.opens", "HDF5 cannot open it")
def cut_short(run):
    path = run.bench.folder / "cut.mdl"
    with open(run.bench.checkpoint, "rb") as whole:
        path.write_bytes(whole.read(3000))
    run.fit["ckpt_path"] = str(path)


@broken("checkpoint.format_of_cszoo", "is safetensors: cszoo finds no `model`")
def safetensors(run):
    run.fit["ckpt_path"] = str(run.bench.folder / "base.safetensors")
    save_file(run.bench.state, run.fit["ckpt_path"])


@broken("checkpoint.format_of_cszoo", "is a bare state dict")
def bare(run):
    run.fit["ckpt_path"] = str(run.bench.folder / "bare.pt")
    torch.save(run.bench.state, run.fit["ckpt_path"])


@broken("checkpoint.prefix", "foreign.weight does not begin with `model.`")
def foreign_key(run):
    run.fit["ckpt_path"] = state_with(run, "foreign.mdl", **{"foreign.weight": torch.ones(2)})


@broken("checkpoint.strict", "stay random without a word")
def loose(run):
    run.init["checkpoint"]["disable_strict_checkpoint_loading"] = True


@broken("checkpoint.strict", "stay random without a word", doubt=True)
def loose_without_anything_to_load(run):
    loose(run)
    del run.fit["ckpt_path"]
    run.init["callbacks"] = []


@broken("checkpoint.fits", "which the model has not")
def deeper(run):
    run.init["model"]["num_hidden_layers"] = 1


@broken("checkpoint.fits", "(16,) in the checkpoint and (24,) in the model")
def wider(run):
    run.init["model"]["filter_size"] = 24


@broken("checkpoint.masks_inside", "masks (model.transformer_decoder")
def dense_from_masked(run):
    masks_inside(run)
    run.init["callbacks"] = []


@broken("checkpoint.masks_inside", "base.mdl is dense, and `sparsity:` asks for")
def native_from_dense(run):
    native(run)
    run.fit["ckpt_path"] = run.bench.checkpoint


@broken("checkpoint.optimizer_state", "holds optimizer state")
def lora_from_trained(run):
    lora(run)
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    run.fit["ckpt_path"] = run.bench.save("trained.mdl", {"model": run.bench.state, "optimizer": state})


@broken("checkpoint.steps_left", "is of step 3, and max_steps is 3: nothing is left to train")
def done_already(run):
    run.init["loop"]["max_steps"] = 3


@broken("checkpoint.validate_start", "`cszoo validate` ignores it", doubt=True)
def validates_random_weights(run):
    run.config["trainer"]["validate"] = {"val_dataloader": run.fit["val_dataloader"]}


@broken("checkpoint.optimizer_state", "holds optimizer state")
def lora_from_trained_by_torch(run):
    lora(run)
    run.fit["ckpt_path"] = str(run.bench.folder / "trained.pt")
    torch.save({"model": run.bench.state, "optimizer": {"state": {}}}, run.fit["ckpt_path"])


# masks


@broken("masks.arguments", "is no argument of SparseMaskCallback. Did you mean 'mask_path'?")
def misspelt_argument(run):
    run.masking["mask_pth"] = run.masking["mask_path"]


@broken("masks.arguments", "lacks mask_path")
def no_masks(run):
    del run.masking["mask_path"]


@broken("masks.arguments", "'yes' is neither true nor false")
def not_a_truth(run):
    run.masking["apply_every_step"] = "yes"


@broken("masks.arguments", "training is dense from there", doubt=True)
def once(run):
    run.masking["apply_every_step"] = False


@broken("masks.opens", "")
def no_mask_file(run):
    path = run.bench.folder / "junk.safetensors"
    path.write_bytes(b"junk")
    run.masking["mask_path"] = str(path)


@broken("masks.intact", "where its file says")
def flipped(run):
    path = run.bench.write_masks("flipped")
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([byte ^ 1]))
    run.masking["mask_path"] = path


@broken("masks.of_this_checkpoint", "was computed from another checkpoint: from ffff")
def of_another(run):
    run.masking["mask_path"] = run.bench.write_masks("another", checkpoint="f" * 64)


@broken("masks.of_this_checkpoint", "does not say which checkpoint", doubt=True)
def of_none(run):
    run.masking["mask_path"] = run.bench.write_masks("nameless", checkpoint=None)


@broken("masks.as_in_checkpoint", "differs from the mask in the checkpoint in 2 of 128 weights")
def other_bits(run):
    masks_inside(run)
    run.masking["mask_path"] = run.bench.write_masks(
        "other_bits", kept=lambda numel: numel - numel // 2 + 2 * (numel == 128)
    )


@broken("masks.names", "has no parameter in the model")
def misspelt_mask(run):
    run.masking["mask_path"] = run.bench.write_masks("misspelt", {"model.typo.weight": (4, 4)})


@broken("masks.names", "its weight of (8, 8)")
def of_another_shape(run):
    name = next(name for name in run.bench.linear if "proj_q" in name)
    run.masking["mask_path"] = run.bench.write_masks("shape", {name: (4, 4)})


@broken("masks.targets", "embedding, which its spec did not ask for by name")
def on_the_embedding(run):
    name = "model.embedding_layer.position_embeddings.embed.weight"
    run.masking["mask_path"] = run.bench.write_masks("embedding", {name: run.bench.shapes[name]})


@broken("masks.targets", "LoRA factor")
def on_factors(run):
    run.masking["mask_path"] = run.bench.write_masks("factors", {"model.a.linear_layer.lora_A": (2, 8)})


@broken("masks.targets", "MoE router gate")
def on_the_router(run):
    run.masking["mask_path"] = run.bench.write_masks("router", {"model.layers.0.ffn.gate.weight": (2, 8)})


@broken("masks.tied", "masks model.lm_head.weight and not model.embedding_layer.word_embeddings.weight")
def one_of_two_names(run):
    name = "model.lm_head.weight"
    run.masking["mask_path"] = run.bench.write_masks("head", {name: run.bench.shapes[name]})


@broken("masks.dropped_whole", "keeps no weight of model.transformer_decoder")
def all_gone(run):
    run.masking["mask_path"] = run.bench.write_masks("gone", kept=lambda numel: 0)


@broken("masks.stated_sparsity", "was asked for a sparsity of 0.5, and drops 0.750000")
def sparser_than_asked(run):
    run.masking["mask_path"] = run.bench.write_masks("sparser", kept=lambda numel: numel // 4)


# the vendor's sparsity


@broken("sparsity.form", "'half' is no sparsity")
def no_number(run):
    run.init["sparsity"] = "half"


@broken("sparsity.beside_masks", "stands beside SparseMaskCallback")
def both(run):
    run.init["sparsity"] = 0.5


def native_with(**entry):
    def change(run):
        native(run)
        run.init["sparsity"] = entry

    return change


for check, text, entry in (
    (
        "algorithm",
        "'statik' is no algorithm. Did you mean 'static'?",
        {"algorithm": "statik", "sparsity": 0.5},
    ),
    ("algorithm", "passes validation by accident", {"algorithm": "Group", "sparsity": 0.5}),
    ("algorithm", "'rnd' is no init_method", {"init_method": "rnd", "sparsity": 0.5}),
    ("algorithm", "'expo' is no schedule", {"algorithm": "gmp", "schedule": {"type": "expo"}}),
    ("algorithm", "exp lacks 'gamma'", {"algorithm": "gmp", "schedule": {"type": "exp", "init": 0.0}}),
    ("level", "lacks `sparsity`", {"algorithm": "static"}),
    ("level", "0 is not a decimal", {"sparsity": 0}),
    ("level", "1.0 is outside [0, 1): nothing would be kept", {"sparsity": 1.0}),
    ("level", "two names of one setting", {"sparsity": 0.5, "schedule": 0.5}),
    ("changes", "GMP stops at a constant sparsity", {"algorithm": "gmp", "sparsity": 0.5}),
    ("changes", "the sparsity goes on to 1.0", {"schedule": {"type": "exp", "init": 0.0, "gamma": -0.1}}),
    ("filters", "'*.liner_layer.weight' matches no weight", {"param_filter": "*.liner_layer.weight"}),
    ("hints", "is 0.25, and the checkpoint's mask of model.", {"sparsity": 0.25}),
):
    change = native_with(**entry)
    change.__name__ = text[:30]
    broken(f"sparsity.{check}", text)(change)


@broken("sparsity.dynamic_resume", "the vendor discards it", doubt=True)
def cycling(run):
    native(run)
    schedule = {"type": "cycling", "values": [0.1, 0.2]}
    run.init["sparsity"] = {"algorithm": "gmp", "schedule": schedule}


@broken("sparsity.from_zeros", "it never trains")
def zeros_of_factors(run):
    lora(run)
    run.init["sparsity"] = {"sparsity": 0.5, "init_method": "from_zeros"}


@broken("sparsity.default_filter", "lora_A and lora_B are masked as well")
def filter_takes_factors(run):
    lora(run)
    run.init["sparsity"] = 0.5


@broken("sparsity.default_filter", "the router of the experts")
def filter_takes_the_router(run):
    run.init["sparsity"] = 0.5
    run.init["model"] = {"name": "mixtral"}


@broken("sparsity.frozen", "stop the first step")
def only_frozen(run):
    native_lora(run)
    run.init["sparsity"]["param_filter"] = ["*linear_layer.weight"]


# LoRA


@broken("lora.settings", "is no setting of Lora")
def misspelt_setting(run):
    run.add("Lora", lora_params={**LORA, "alfa": 3})


@broken("lora.settings", "lacks lora_params")
def no_settings(run):
    run.add("Lora")


@broken("lora.settings", "SparseMaskCallback, which is not there")
def nothing_to_mask_with(run):
    run.init["callbacks"] = [{"SparseLora": {"lora_params": dict(LORA)}}]


@broken("lora.merge_weights", "masks what it merged")
def merges(run):
    run.add("Lora", lora_params={**LORA, "merge_weights": True})


@broken("lora.merge_weights", "none is left there", doubt=True)
def merges_dense(run):
    run.init["callbacks"] = [{"Lora": {"lora_params": [{**LORA, "merge_weights": True}]}}]


@broken("lora.in_model", "LoRA is a callback")
def in_the_model(run):
    run.init["model"]["lora_params"] = dict(LORA)


@broken("lora.masked_update", "is not established", doubt=True)
def masked_update(run):
    sparse_lora(run)
    run.init["backend"]["backend_type"] = "CSX"


# schedules


def scheduled(*schedules):
    return [{"SequentialLR": {"schedulers": list(schedules)}}]


@broken(
    "schedule.warm_up",
    "warm-up of 4768 steps in a run of 200: the learning rate peaks at 8.4e-06, not 2.0e-04",
)
def longer_than_the_run(run):
    run.init["schedulers"] = [linear(0.0, 2e-4, 4768)]


@broken("schedule.never_begins", "the learning rate never decays from 2.0e-04 to 2.0e-05")
def no_decay(run):
    run.init["schedulers"] = scheduled(linear(0.0, 2e-4, 200), linear(2e-4, 2e-5, 100))


@broken("schedule.never_begins", "the learning rate never becomes 1.0e-05", doubt=True)
def held_after_the_end(run):
    run.init["schedulers"] = scheduled(linear(0.0, 2e-4, 200), {"ConstantLR": {"learning_rate": 1e-5}})


@broken("schedule.cut_short", "it stops at 1.1e-04, not 2.0e-05", doubt=True)
def half_a_decay(run):
    run.init["schedulers"] = scheduled(linear(2e-4, 2e-5, 400))


@broken("schedule.cut_short", "it stops at 2.0e-04")
def hardly_a_decay(run):
    run.init["schedulers"] = scheduled(linear(2e-4, 2e-5, 40_000))


@broken("schedule.zero", "is 0 throughout the 200 steps")
def zero_throughout(run):
    run.init["schedulers"] = [{"ConstantLR": {"learning_rate": 0.0}}]


@broken("schedule.zero", "the learning rate is 0 from step 50 on, for 150 of 200 steps")
def zero_for_long(run):
    run.init["schedulers"] = scheduled(linear(2e-4, 0.0, 50))


@broken("schedule.jumps", "begins at 2.0e-04, and the one before it ends at 1.0e-04", doubt=True)
def jump(run):
    run.init["schedulers"] = scheduled(linear(0.0, 1e-4, 20), linear(2e-4, 2e-5, 180))


@broken("schedule.no_rate", "the vendor's default", doubt=True)
def no_rate(run):
    del run.init["schedulers"]


# the loop


@broken("loop.grad_accumulation", "200 of them, 4 at a time, are 50 optimizer steps", doubt=True)
def micro_batches(run):
    run.init["backend"]["backend_type"] = "CPU"
    run.init["loop"]["grad_accum_steps"] = 4


@broken("loop.grad_accumulation", "has no effect on a CSX", doubt=True)
def accumulation_on_csx(run):
    run.init["loop"]["grad_accum_steps"] = 4


@broken("loop.eval_steps", "validates on 8 sequences (2 batches of 4)", doubt=True)
def few_sequences(run):
    run.init["loop"]["eval_steps"] = 2


@broken("loop.eval_frequency", "it validates once, at the end", doubt=True)
def rarely(run):
    run.init["loop"]["eval_frequency"] = 1000


@broken(
    "loop.checkpoints", "is 1,000, and the run has 200 steps: nothing is saved before the last", doubt=True
)
def saved_too_late(run):
    run.init["checkpoint"]["steps"] = 1000


@broken("loop.checkpoints", "what was trained is lost at the end")
def never_saved(run):
    run.init["checkpoint"]["steps"] = 0


@broken("loop.batch_size", "is 4, and num_csx is 8")
def more_machines_than_sequences(run):
    run.init["backend"]["cluster_config"]["num_csx"] = 8


@broken("loop.batch_size", "is 4, which 3 machines cannot share evenly", doubt=True)
def uneven(run):
    run.init["backend"]["cluster_config"]["num_csx"] = 3


@broken("loop.batch_size", "is 4, which 3 machines cannot share evenly")
def uneven_and_refused(run):
    run.fit["train_dataloader"]["data_processor"] = "GptHDF5DataProcessor"
    run.init["backend"]["cluster_config"]["num_csx"] = 3


@broken("loop.batch_size_form", "'4' is no number of sequences")
def quoted(run):
    run.fit["train_dataloader"]["batch_size"] = "4"


# data


@broken("data.processors", "there is no data processor 'GptHDF5MapDataProcesor'. Did you mean")
def misspelt_processor(run):
    run.fit["train_dataloader"]["data_processor"] = "GptHDF5MapDataProcesor"


@broken("data.settings", "there is no such setting. Did you mean 'shuffle'?")
def misspelt_loader_setting(run):
    run.fit["train_dataloader"]["shufle"] = True


@broken("data.files", "sequences of 16 tokens, and the model has max_position_embeddings: 8")
def too_long(run):
    run.init["model"]["max_position_embeddings"] = 8


@broken("data.files", "and the model has vocab_size: 40")
def foreign_tokens(run):
    run.init["model"]["vocab_size"] = 40


@broken("data.files", "and the data hold 2 samples")
def less_than_a_batch(run):
    folder = run.bench.folder / "little"
    run.fit["train_dataloader"]["data_dir"] = str(folder) if folder.exists() else write_data(folder, rows=2)


TESTED_ALONE = {"paths.readable", "loop.disk", "estimate.training_flops"}


@pytest.mark.parametrize(("check", "change", "text", "doubt"), BROKEN)
def test_a_mistake_is_found(run, check, change, text, doubt):
    change(run)
    try:
        found = run.check(check)
    except ValueError as error:  # a ProblemError, from what the check has opened
        found = list(error.problems)
    found = [one for one in found if not isinstance(one, Estimate)]
    (first,) = [one for one in found if text in one.what][:1]
    assert isinstance(first, Doubt) == doubt
    assert first.where
    assert first.fix


def test_every_check_has_a_mistake_that_it_finds():
    shown = {param.values[0] for param in BROKEN} | TESTED_ALONE | ELSEWHERE.keys()
    assert {entry.name for entry in entries()} - shown == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(run):
    folder = write_data(run.bench.folder / "secret")
    os.chmod(folder, 0)
    try:
        run.fit["train_dataloader"]["data_dir"] = folder
        (found,) = run.check("paths.readable")
    finally:
        os.chmod(folder, 0o700)
    assert "may not be read" in found.what


def test_what_the_system_denies_is_said(run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != run.bench.train)
    (found,) = run.check("paths.readable")
    assert found.what == f"{run.bench.train} may not be read by this user"


def test_too_little_disk_is_said(run, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "free")
    monkeypatch.setattr("cerebras_utils.checks.loop.shutil.disk_usage", lambda path: usage(free=1000))
    estimate, problem = run.check("loop.disk")
    assert "1 kB are free" in problem.what
    assert "2 checkpoints" in problem.what
    assert estimate.value == 2 * saved_bytes(run)


def saved_bytes(run):
    """The weights under all of their names, two states of each weight once, the masks."""
    state = run.bench.state
    numel = sum(t.numel() for t in state.values())
    tied = sum(state[f"model.{name}"].numel() for name in ("lm_head.weight", "ln_f.weight", "ln_f.bias"))
    masked = sum(t.numel() for n, t in state.items() if n in run.bench.linear)
    return 4 * numel + 8 * (numel - tied) + masked


def test_training_operations_against_dense(run):
    """Counted by hand: two layers of 8 x 8 (four) and 8 x 16 (two), 16 positions, a head of 50 x 8."""
    (found,) = run.check("estimate.training_flops")
    linear_weights = 2 * (4 * 64 + 2 * 128)
    masked = sum(t.numel() for n, t in run.bench.state.items() if n in run.bench.linear)
    rest = 12 * 2 * 16 * 8 + 6 * 50 * 8
    expected = (6 * (linear_weights - masked / 2) + rest) / (6 * linear_weights + rest)
    assert found.value == pytest.approx(expected, abs=1e-12)
    lora(run)
    (frozen,) = run.check("estimate.training_flops")
    assert frozen.value < found.value
    run.init["callbacks"] = []
    (dense,) = run.check("estimate.training_flops")
    assert dense.value == 1


def test_masks_that_are_applied_once_save_nothing(run):
    run.masking["apply_every_step"] = False
    (found,) = run.check("estimate.training_flops")
    assert found.value == 1


def how_it_was_counted(run):
    return next(one for one in run.check("loop.disk") if isinstance(one, Estimate))


def test_lora_counts_the_layers_that_are_targeted(run):
    """The head is no Linear of a decoder layer. Per layer: four of 8 x 8 and two of 8 x 16, of rank 2."""
    run.init["callbacks"] = []
    lora(run)
    made = 2 * (4 * 2 * (8 + 8) + 2 * 2 * (8 + 16))
    stored = sum(t.numel() for t in run.bench.state.values())
    twice = 50 * 8 + 2 * 8
    found = how_it_was_counted(run)
    assert f"{stored - twice + made:,} weights of 4 bytes, tied ones counted once" in found.how
    assert f"({twice} are stored under a second name, too)" in found.how
    assert f"2 optimizer states of 4 bytes for the {made:,} that are trained;" in found.how
    assert found.value == 2 * (4 * (stored + made) + 8 * made)


def test_lora_on_everything_parts_what_was_tied(run):
    """With factors, the head and the embedding are two weights, as in the run."""
    run.init["callbacks"] = []
    run.add("Lora", lora_params={"r": 2, "target_modules": None})
    assert f"({2 * 8} are stored under a second name, too)" in how_it_was_counted(run).how


def test_lora_that_targets_nothing_is_not_estimated(run):
    run.add("Lora", lora_params={"r": 2, "target_modules": ["Lineer"]})
    with pytest.raises(NotMade, match=r"cannot be put on the model.*'Lineer' is no class"):
        run.check("loop.disk")


def test_masks_that_are_applied_once_take_no_disk(run):
    run.masking["apply_every_step"] = False
    assert "; 0 mask bytes" in how_it_was_counted(run).how


def test_a_batch_size_of_0_is_said_once(run):
    run.fit["train_dataloader"]["batch_size"] = 0
    report = examine(run.file(), modelzoo=False)
    (found,) = [problem for _, problem in report.problems if "train_dataloader" in problem.where]
    assert found.what == "0 is no number of sequences"


def test_a_directory_for_masks_is_said_to_be_one(run):
    run.masking["mask_path"] = str(run.bench.folder)
    with pytest.raises(ValueError, match=r"it is a directory\n +fix: name a mask file"):
        run.check("masks.opens")


@pytest.mark.parametrize("check", ["checkpoint.optimizer_state", "checkpoint.steps_left"])
def test_the_fix_for_a_checkpoint_with_more_than_a_model_works(run, check):
    lora(run)
    run.init["loop"]["max_steps"] = 3
    state = {"model": run.bench.state, "global_step": 3, "optimizer": {"state": {"m": torch.zeros(2)}}}
    run.fit["ckpt_path"] = run.bench.save("whole.mdl", state)
    (found,) = run.check(check)
    assert "--load_checkpoint_states model" in found.fix
    run.add("LoadCheckpointStates", load_checkpoint_states="model")
    assert run.check(check) == []
