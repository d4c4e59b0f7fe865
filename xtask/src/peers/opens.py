"""Opens a folder that Rebloom wrote with transformers, and compares logits with the reference case.

usage: opens.py FOLDER CASE: FOLDER is an export of the weights in CASE (tests/conformance/...).
"""
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

folder, case = sys.argv[1:]
model, about = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True
)
for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not about[what], (what, about[what])
with safe_open(f"{case}/expected.safetensors", "pt") as expected:
    words = expected.get_tensor("tokens")[0, :, :-1]
    wanted = expected.get_tensor("logits_step0")
with torch.no_grad():
    got = model.eval()(words).logits
off = (got - wanted).abs().max().item()
assert off <= 1e-5, off
print(f"peers: transformers opens {type(model).__name__} and its logits are off by {off:.1e}")
