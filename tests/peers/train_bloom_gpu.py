"""Trains the body of a BLOOM on one GPU with transformers, torch.compile and PyTorch's fused AdamW, as bf16 training
is set up there (fp32 weights under autocast), and prints tokens per second.

Argument: a JSON file (sizes, batch, micro_batch, steps, warm_up).
"""

import json
import sys
import time

import torch
from transformers import BloomConfig, BloomForCausalLM

with open(sys.argv[1]) as file:
    ask = json.load(file)
torch.manual_seed(1)
device = torch.device("cuda", 0)
batch, sequence = ask["batch"], ask["sequence"]

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
).to(device)
model.train()
groups = [
    {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def loss_of(rows):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), rows[:, 1:].reshape(-1)
    )


compiled = torch.compile(loss_of, dynamic=False)
tokens = torch.randint(ask["vocab"], (batch, sequence + 1)).pin_memory()


def run(micro):
    began = None
    for step in range(ask["steps"]):
        if step == ask["warm_up"]:
            torch.cuda.synchronize()
            began = time.monotonic()
        for at in range(0, batch, micro):
            rows = tokens[at : at + micro].to(device, non_blocking=True)
            loss = compiled(rows)
            (loss * (micro / batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return time.monotonic() - began, loss.item()


micro = ask["micro_batch"]
while True:
    try:
        seconds, loss = run(micro)
        break
    except torch.cuda.OutOfMemoryError:
        if micro == 1:
            raise
    # Its attention keeps a matrix of all scores for the backward pass, so that fewer samples fit.
    micro //= 2
    torch._dynamo.reset()
    optimizer.zero_grad()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
print(
    json.dumps(
        {
            "tokens_per_second": (ask["steps"] - ask["warm_up"]) * batch * sequence / seconds,
            "loss": loss,
            "micro_batch": micro,
            "device_peak_bytes": torch.cuda.max_memory_allocated(),
        }
    )
)
