"""Holds a run that Rebloom trained against transformers, which opens what was exported of it.

usage: trained.py FACTS
FACTS is a JSON file; see `prove` in trained.rs, which writes it. Rebloom's logits, scores and words come from the
checkpoint of the run and from its exports, transformers' from the exports alone.
"""
import array
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

facts = json.load(open(sys.argv[1], encoding="utf-8"))
read = torch.tensor([facts["read"]])


def opened(path, dtype):
    model, about = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not about[what], (what, about[what])
    return model.eval()


def off(model, logits):
    """How far the logits of a model are from those in a file of Rebloom's, and how large these are."""
    ours = load_file(logits)["logits"]
    with torch.no_grad():
        theirs = model(read).logits[0].float()
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return (theirs - ours).abs().max().item(), ours.abs().max().item()


def words(model, tokenizer, prompt):
    """What transformers writes after a prompt, greedily, and how close the two likeliest tokens ever were."""
    prompt = tokenizer.encode(prompt, add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=facts["tokens"],
            eos_token_id=facts["end"],
            pad_token_id=facts["end"],
            output_logits=True,
            return_dict_in_generate=True,
        )
    top = [logits[0].topk(2).values for logits in out.logits]
    written = out.sequences[0, len(prompt) :].tolist()
    if written[-1:] == [facts["end"]]:
        written.pop()
    return written, min((first - second).item() for first, second in top)


plain = opened(facts["fp32"], torch.float32)
short = opened(facts["bf16"], torch.float32)
half = opened(facts["bf16"], torch.bfloat16)
for name, tensor in plain.state_dict().items():
    assert torch.equal(tensor.to(torch.bfloat16), half.state_dict()[name]), f"{name} is not rounded to nearest"

# In fp32 on both sides: the order of additions is all that differs.
for model, which in ((plain, "logits"), (short, "logits_bf16")):
    far, _ = off(model, facts[which])
    assert far <= 1e-5, (which, far)
    print(f"peers: {which} of transformers and of Rebloom are {far:.1e} apart")

# transformers alone computes in bf16 here, so the same logits come with its rounding: each operation keeps eight bits,
# half a unit in the last of them is 2^-9 of a value, and the errors of the residual stream add up over the layers.
far, large = off(half, facts["logits_bf16"])
assert far <= facts["bf16_bound"] * large, (far, large, far / large)
print(f"peers: computed in bf16 they are {far:.1e} apart, {far / large:.1e} of the largest")

# What the gang itself scored in its layout, and `rebloom eval` of its checkpoint alone.
with open(facts["dataset"] + ".bin", "rb") as file:
    held = torch.tensor(array.array("H", file.read()).tolist()[: facts["samples"] * facts["sequence"] + 1])
nats = 0.0
with torch.no_grad():
    for at in range(0, len(held) - 1, facts["sequence"]):
        sample = held[at : at + facts["sequence"] + 1]
        logits = plain(sample[None, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, sample[1:], reduction="none").double().sum().item()
loss = nats / (len(held) - 1)
for which in ("loss_of_gang", "loss_of_eval"):
    assert abs(loss - facts[which]) <= 1e-5, (which, loss, facts[which])

tokenizer = AutoTokenizer.from_pretrained(facts["fp32"])
assert tokenizer.convert_tokens_to_ids("</s>") == facts["end"]
for model, which in ((plain, "written"), (short, "written_bf16")):
    kinds, count, least = set(), 0, float("inf")
    for prompt, ours in zip(facts["prompts"], facts[which], strict=True):
        theirs, gap = words(model, tokenizer, prompt)
        assert theirs == ours, (which, prompt, theirs, ours)
        kinds.update(theirs)
        count, least = count + len(theirs), min(least, gap)
    assert least > 2e-5, f"{which}: two tokens are as likely to {least:.1e}, so that equal words say little"
    assert len(kinds) >= 8, f"{which}: only {len(kinds)} different tokens in {count}"
    print(f"peers: {count} {which} tokens alike ({len(kinds)} different), the likeliest ahead by {least:.1e} or more")
print(f"peers: the gang's loss on held-out text is transformers' to {abs(loss - facts['loss_of_gang']):.1e}")
