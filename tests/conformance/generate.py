"""Writes the reference cases whose names end in `-clip`, with transformers' BloomForCausalLM and PyTorch's AdamW.

Arguments: the folder to write to; names of cases, or nothing for all of them. `cargo xtask peers --only-install`
installs a Python that has what this needs:

    .rebloom/peers/bin/python tests/conformance/generate.py tests/conformance

In these cases clipping bites in every step, by another factor each time, and weight decay moves the weights by
far more than a comparison allows. Adam forgets the scale of its gradients, except beside epsilon, which is
therefore as large as they are. A case that would not show a step without either is refused.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import BloomConfig, BloomForCausalLM

BETAS = (0.9, 0.95)
RATE, EPSILON, DECAY, CLIP = 1e-2, 1e-4, 1.0, 0.1
STEPS = 6
# What a comparison of final weights allows.
BOUND = 1e-4

# Between them every layout of at most eight ranks: TP x PP x DP.
CASES = {
    # All but TP 3, 5, 6, 7 and DP 5, 7.
    "bloom-8l-8h-clip": dict(seed=1, layers=8, heads=8, hidden=32, vocab=48, seq=8, batch=24),
    # TP or DP of 5 or 7.
    "bloom-1l-35h-clip": dict(seed=2, layers=1, heads=35, hidden=70, vocab=70, seq=8, batch=35),
    # TP 3 and 6, and the other place of the residual stream.
    "bloom-2l-12h-post-clip": dict(seed=3, layers=2, heads=12, hidden=24, vocab=48, seq=12, batch=6, post=True),
}


def initial(case):
    """The model of a case: every value is random, so that a swapped name or a forgotten bias shows."""
    config = BloomConfig(
        architectures=["BloomForCausalLM"],
        dtype="float32",
        vocab_size=case["vocab"],
        hidden_size=case["hidden"],
        n_layer=case["layers"],
        n_head=case["heads"],
        apply_residual_connection_post_layernorm=case.get("post", False),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cache=False,
    )
    model = BloomForCausalLM(config).float().train()
    generator = torch.Generator().manual_seed(case["seed"])
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = 0.1 * torch.randn(parameter.shape, generator=generator)
            is_scale = name.endswith(("layernorm.weight", "ln_f.weight"))
            parameter.copy_(1.0 + values if is_scale else values)
    return model


def words(case):
    """Every step has another part of the vocabulary, so that its gradient has another norm."""
    generator = torch.Generator().manual_seed(100 + case["seed"])
    shape = (case["batch"], case["seq"] + 1)
    most = [case["vocab"] // (1 + step % 3 * 2) for step in range(STEPS)]
    return torch.stack([torch.randint(0, vocab, shape, generator=generator) for vocab in most])


def train(case, clip=CLIP, decay=DECAY):
    """Trains; answers what is compared."""
    model, tokens = initial(case), words(case)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON, foreach=False)
    before = {name: p.detach().clone() for name, p in named.items()}
    told, losses, norms = {"tokens": tokens}, [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = model(tokens[step, :, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[step, :, 1:].flatten())
        loss.backward()
        if step == 0:
            told["logits_step0"] = logits.detach().clone()
            told |= {f"grad.{name}": p.grad.clone() for name, p in named.items()}
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(named.values(), clip).item())
        optimizer.step()
    told |= {f"final.{name}": p.detach().clone() for name, p in named.items()}
    return before, told, losses, norms


def shows(told, others, what):
    """Refuses a case in which the parameters end too much alike without what is to be seen."""
    for name, final in told.items():
        if name.startswith("final.") and (what == "clipping" or final.dim() >= 2):
            off = (final - others[name]).abs().max().item()
            assert off > 10 * BOUND, f"without {what}, {name} is off by only {off}"


def write(folder, name, case):
    before, told, losses, norms = train(case)
    assert min(norms) > 1.5 * CLIP and max(norms) > 1.2 * min(norms), norms
    shows(told, train(case, clip=1e9)[1], "clipping")
    shows(told, train(case, decay=0.0)[1], "decay")
    expected = {
        "n_layer": case["layers"],
        "n_head": case["heads"],
        "hidden_size": case["hidden"],
        "vocab_size": case["vocab"],
        "seq": case["seq"],
        "batch": case["batch"],
        "steps": STEPS,
        "lr": RATE,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": DECAY,
        "clip": CLIP,
        "residual_after_layernorm": case.get("post", False),
        "losses": losses,
        "grad_norms": norms,
        "torch": torch.__version__,
        "note": "written by generate.py",
    }
    at = os.path.join(folder, name)
    os.makedirs(at, exist_ok=True)
    initial(case).config.save_pretrained(at)
    save_file(before, os.path.join(at, "model.safetensors"), metadata={"format": "pt"})
    save_file(told, os.path.join(at, "expected.safetensors"))
    with open(os.path.join(at, "expected.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(expected, indent=1) + "\n")
    size = sum(os.path.getsize(os.path.join(at, file)) for file in os.listdir(at))
    print(f"{name}: {size} bytes, norms {min(norms):.3f} to {max(norms):.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[2:] or CASES:
        write(sys.argv[1], name, CASES[name])
