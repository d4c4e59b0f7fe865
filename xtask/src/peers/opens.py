"""Opens a folder that Rebloom wrote with transformers, and compares what it holds and predicts with the reference case.

usage: opens.py FOLDER CASE DTYPE DATASET
FOLDER is an export of the weights in CASE (tests/conformance/...) as DTYPE, with a tokenizer; DATASET is text that
Rebloom put into that tokenizer's words (DATASET.bin), and the text itself (DATASET.txt, a document a line).
"""
import array
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, case, dtype, dataset = sys.argv[1:]
kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]


def opened(path, **how):
    model, about = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **how)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not about[what], (what, about[what])
    return model.eval()


model = opened(folder, dtype="auto")
reference = opened(case, dtype=torch.float32).to(kind).state_dict()
assert model.dtype == kind, model.dtype
for name, tensor in model.state_dict().items():
    assert torch.equal(tensor, reference[name]), name
with safe_open(f"{case}/expected.safetensors", "pt") as expected:
    words = expected.get_tensor("tokens")[0, :, :-1]
    wanted = expected.get_tensor("logits_step0")
with torch.no_grad():
    got = model(words).logits.float()
off = (got - wanted).abs().max().item()
# In bf16 each of the logits has eight bits of mantissa.
bound = 1e-5 if dtype == "fp32" else wanted.abs().max().item() / 16
assert off <= bound, (off, bound)

tokenizer = AutoTokenizer.from_pretrained(folder)
end = tokenizer.convert_tokens_to_ids("</s>")
ours = array.array("H", open(f"{dataset}.bin", "rb").read()).tolist()
lines = open(f"{dataset}.txt", encoding="utf-8").read().split("\n")[:-1]
theirs = [word for line in lines for word in tokenizer.encode(line, add_special_tokens=False) + [end]]
assert ours == theirs, "the tokenizer makes other words of the same text"
assert tokenizer.decode(tokenizer.encode(lines[0], add_special_tokens=False)) == lines[0]

with torch.no_grad():
    model.save_pretrained(f"{folder}-back")
print(
    f"peers: transformers opens {type(model).__name__} in {dtype}: the same weights to the bit, logits off by {off:.1e}, "
    f"{len(ours)} words of text alike"
)
