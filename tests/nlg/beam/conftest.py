"""Fixtures of the decoding tests: one thread, and the files that the recorded runs of the program read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.nlg.beam.helpers import NLG


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """``card.json``, ``prompts.jsonl``, ``base.bin`` (no LoRA), ``lora.pt`` (LoRA only), ``full.pt`` (both)."""
    folder = tmp_path_factory.mktemp("beam")
    sizes = {"vocab_size": 101, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    (folder / "card.json").write_text(json.dumps(sizes))
    shutil.copy(NLG / "tiny_prompts.jsonl", folder / "prompts.jsonl")
    tensors = load_file(NLG / "tiny_beam_gpt2.safetensors")
    base = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    trained = load_file(NLG / "cli" / "ft_world1_final_lora.safetensors")
    prefixed = {f"module.transformer.{name}": tensor for name, tensor in base.items()}
    torch.save(base, folder / "base.bin")
    torch.save({"model_state_dict": trained}, folder / "lora.pt")
    torch.save({"model_state_dict": {**prefixed, **trained}}, folder / "full.pt")
    return folder
