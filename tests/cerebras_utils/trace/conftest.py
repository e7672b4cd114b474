"""A decoder of two layers with twelve masks, each of another sparsity, and the configs that use them."""

import copy
import json

import pytest
import torch
import yaml
from click.testing import CliRunner

from experiments.cli import main
from pruning.mask_ops import save_mask

_LAYER = {
    "self_attn.proj_q_dense_layer": (16, 16),
    "self_attn.proj_k_dense_layer": (16, 16),
    "self_attn.proj_v_dense_layer": (16, 16),
    "self_attn.proj_output_dense_layer": (16, 16),
    "ffn.ffn.0.linear_layer": (32, 16),
    "ffn.ffn.1.linear_layer": (16, 32),
}
SHAPES = {
    f"model.transformer_decoder.layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in _LAYER.items()
}
CONFIG = {
    "init": {
        "backend": {"backend_type": "CSX", "cluster_config": {"mount_dirs": ["/not/here"]}},
        "model_dir": "model_dir",
        "seed": 1,
        "model": {
            "name": "gpt2",
            "vocab_size": 17,
            "max_position_embeddings": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 32,
            "nonlinearity": "gelu",
            "loss_scaling": "num_tokens",
        },
        "optimizer": {"AdamW": {"weight_decay": 0.1}},
        "schedulers": [{"ConstantLR": {"learning_rate": 0.01}}],
        "loop": {"max_steps": 2},
        "logging": {"log_steps": 1},
    },
    "fit": {
        "train_dataloader": {
            "data_processor": "GptHDF5MapDataProcessor",
            "data_dir": "/not/here",
            "batch_size": 2,
        }
    },
}
LORA = {"r": 2, "alpha": 4, "target_modules": ["TransformerDecoderLayer", "Linear"]}


@pytest.fixture(scope="session")
def twelve(tmp_path_factory):
    """The file of the masks, and the sparsity of each."""
    path = tmp_path_factory.mktemp("masks") / "twelve.safetensors"
    generator = torch.Generator().manual_seed(0)
    masks, sparsities = {}, {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        mask = torch.ones(shape, dtype=torch.bool)
        dropped = round((0.3 + 0.05 * index) * mask.numel())
        mask.view(-1)[torch.randperm(mask.numel(), generator=generator)[:dropped]] = False
        masks[name], sparsities[name] = mask, dropped / mask.numel()
    save_mask(masks, str(path))
    assert len(set(sparsities.values())) == 12
    return path, sparsities


@pytest.fixture(scope="session")
def write_config(tmp_path_factory):
    def write(*callbacks, **init):
        trainer = copy.deepcopy(CONFIG)
        trainer["init"] |= {"callbacks": list(callbacks), **init}
        path = tmp_path_factory.mktemp("config") / "config.yaml"
        path.write_text(yaml.safe_dump({"trainer": trainer}, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def traced():
    """The command on a config: exit code, the report of its only trainer (or None), what it said."""

    def run(config, *options):
        result = CliRunner().invoke(main, ["trace", str(config), "--json", *map(str, options)])
        report = json.loads(result.stdout)["trainers"][0] if result.stdout else None
        return result.exit_code, report, result.stderr

    return run
