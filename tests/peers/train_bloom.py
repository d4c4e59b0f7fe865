"""Trains a BLOOM with transformers and PyTorch's AdamW on tokens in a file, as its documentation shows,
and prints tokens per second, the seconds of its fastest step, its last loss and the peak of its memory. Asked for
weights, it writes those that it always begins with to that folder instead.

Arguments: a JSON file (sizes, batch, steps, warm-up, threads) and a file of int32 tokens
[steps, batch, sequence + 1].
"""

import json
import resource
import sys
import time

import numpy
import torch
from transformers import BloomConfig, BloomForCausalLM

with open(sys.argv[1]) as file:
    ask = json.load(file)
torch.set_num_threads(ask["threads"])
torch.manual_seed(1)
steps, batch, sequence = ask["steps"], ask["batch"], ask["sequence"]
tokens = numpy.fromfile(sys.argv[2], dtype=numpy.int32)
tokens = torch.from_numpy(tokens.reshape(steps, batch, sequence + 1)).long()

model = BloomForCausalLM(
    BloomConfig(
        vocab_size=ask["vocab"],
        hidden_size=ask["hidden"],
        n_layer=ask["layers"],
        n_head=ask["heads"],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cache=False,
    )
)
if "weights" in ask:
    model.save_pretrained(ask["weights"])
    print(json.dumps({"weights": ask["weights"]}))
    sys.exit()
model.train()
groups = [
    {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(
    groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=ask["fused"]
)
micro = ask["micro_batch"]
began = time.monotonic()
fastest = float("inf")
for step in range(steps):
    step_began = time.monotonic()
    if step == ask["warm_up"]:
        began = step_began
    for at in range(0, batch, micro):
        rows = tokens[step, at : at + micro]
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1)
        )
        (loss * (micro / batch)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step >= ask["warm_up"]:
        fastest = min(fastest, time.monotonic() - step_began)
seconds = time.monotonic() - began
measured = (steps - ask["warm_up"]) * batch * sequence
print(
    json.dumps(
        {
            "tokens_per_second": measured / seconds,
            "fastest_step_seconds": fastest,
            "loss": loss.item(),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )
)
