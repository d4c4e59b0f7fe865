"""The worker on one GPU: its tests there, then tokens per second and MFU of the bodies of BLOOM-560m, 1b1 and 1b7
beside transformers with torch.compile, in turn, in one session.

Runs in the Python whose PyTorch (2.11.0 for CUDA 13) brings libtorch_cuda, and needs nothing else than that, its
transformers and the files beside it: `cargo xtask gpu` starts it, `cargo xtask gpu --pack DIR` makes a folder that
can be taken to a machine without Rust.
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BODIES = {"560m": 1024, "1b1": 1536, "1b7": 2048}
LAYERS, HEADS, SEQUENCE = 24, 16, 2048
# As the worker's own.
WARM_UP = 5

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--worker", default=os.path.join(HERE, "rebloom-worker"))
parser.add_argument("--test", action="append", help="a test program of the worker [default: those beside this file]")
parser.add_argument("--cases", default=os.path.join(HERE, "conformance"), help="the reference cases")
parser.add_argument("--peak", type=float, default=989.4, help="TFLOP/s of the GPU in bf16 [default: 989.4, H100 and H200]")
parser.add_argument("--vocab", type=int, default=51200, help="words; 250880 is the whole of BLOOM's [default: 51200]")
parser.add_argument("--batch", type=int, default=16, help="samples of a step")
parser.add_argument("--micro", type=int, default=4, help="samples of a forward pass")
parser.add_argument("--steps", type=int, default=15, help="steps, of which the first five are not measured")
parser.add_argument("--rounds", type=int, default=2, help="how often the two take turns")
parser.add_argument("--body", choices=BODIES, action="append", help="only this one")
parser.add_argument("--no-tests", action="store_true")
parser.add_argument("--no-bench", action="store_true")
arguments = parser.parse_args()
tests = arguments.test or [os.path.join(HERE, name) for name in ("conformance.test", "cuda.test")]

try:
    import torch
except ImportError:
    sys.exit("this Python has no PyTorch")
if not torch.cuda.is_available():
    print("PyTorch sees no GPU here", file=sys.stderr)
    sys.exit(2)


def libraries():
    """Where PyTorch's libraries lie, and those that they need."""
    lib = os.path.join(os.path.dirname(torch.__file__), "lib")
    packages = os.path.dirname(os.path.dirname(torch.__file__))
    nvidia = os.path.join(packages, "nvidia")
    folders = [lib]
    for name in sorted(os.listdir(nvidia)) if os.path.isdir(nvidia) else []:
        folder = os.path.join(nvidia, name, "lib")
        if os.path.isdir(folder):
            folders.append(folder)
    return ":".join(folders)


environment = dict(os.environ, LD_LIBRARY_PATH=libraries(), REBLOOM_TEST_CASES=arguments.cases)


def must(command, **more):
    ended = subprocess.run(command, **more)
    if ended.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {ended.returncode}\n{(ended.stdout or '')[-4000:]}")
    return ended.stdout


def last_object(text):
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


def indexed(prefix, vocab):
    """A Megatron dataset of words that nothing is to be learned from: what is measured does not depend on them."""
    documents, length = 64, 20_000
    code, kind, width = (8, "H", 2) if vocab <= 65_500 else (4, "i", 4)
    chance = random.Random(7)
    with open(prefix + ".bin", "wb") as file:
        for _ in range(documents):
            words = [chance.randrange(vocab) for _ in range(length)]
            file.write(struct.pack(f"<{length}{kind}", *words))
    with open(prefix + ".idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, documents, documents + 1))
        file.write(struct.pack(f"<{documents}i", *[length] * documents))
        file.write(struct.pack(f"<{documents}q", *[n * length * width for n in range(documents)]))
        file.write(struct.pack(f"<{documents + 1}q", *range(documents + 1)))


def ours(folder, hidden, turn):
    spec = {
        "name": "body",
        "model": {
            "layers": LAYERS, "hidden": hidden, "heads": HEADS,
            "vocab": arguments.vocab, "sequence": SEQUENCE,
        },
        "layout": {"tensor": 1, "pipeline": 1, "data": 1},
        "train": {
            "steps": arguments.steps, "global_batch": arguments.batch, "micro_batch": arguments.micro,
            "optimizer": {"learning_rate": 1e-4}, "numerics": {"precision": "bf16"},
        },
        "data": {"prefix": os.path.join(folder, "words")},
        "checkpoint": {"directory": os.path.join(folder, "checkpoints"), "every_steps": 1000},
    }
    path = os.path.join(folder, "spec.json")
    with open(path, "w") as file:
        json.dump(spec, file)
    store = os.path.join(folder, f"store-{hidden}-{turn}")
    command = [arguments.worker, "solo", "--spec", path, "--rank", "0", "--store", store, "--device", "cuda:0"]
    text = must(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return last_object(text)


def theirs(folder, hidden):
    path = os.path.join(folder, "ask.json")
    ask = {
        "vocab": arguments.vocab, "hidden": hidden, "layers": LAYERS, "heads": HEADS, "sequence": SEQUENCE,
        "batch": arguments.batch, "micro_batch": arguments.micro, "steps": arguments.steps, "warm_up": WARM_UP,
    }
    with open(path, "w") as file:
        json.dump(ask, file)
    command = [sys.executable, os.path.join(HERE, "train_bloom_gpu.py"), path]
    return last_object(must(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


print(f"{torch.cuda.get_device_name(0)}, PyTorch {torch.__version__}", flush=True)
if not arguments.no_tests:
    for program in tests:
        must(
            [program, "--include-ignored", "--test-threads=1"],
            env=dict(environment, REBLOOM_TEST_DEVICE="cuda:0"),
        )
if arguments.no_bench:
    sys.exit()

print(
    f"\n{LAYERS} layers, {HEADS} heads, {arguments.vocab} words, {SEQUENCE} tokens a sample, "
    f"{arguments.batch} samples a step in {arguments.micro}s, bf16; the best of {arguments.rounds} rounds; "
    f"MFU of {arguments.peak} TFLOP/s\n"
)
print("| body | rebloom, tokens/s | MFU | GB | transformers + torch.compile, tokens/s | MFU | GB | ours / theirs |")
print("|---|---|---|---|---|---|---|---|", flush=True)
with tempfile.TemporaryDirectory() as folder:
    indexed(os.path.join(folder, "words"), arguments.vocab)
    for name in arguments.body or BODIES:
        rounds = [(ours(folder, BODIES[name], turn), theirs(folder, BODIES[name])) for turn in range(arguments.rounds)]
        best = lambda side: max((round[side] for round in rounds), key=lambda report: report["tokens_per_second"])
        mine, peer = best(0), best(1)
        # What the model needs for a token is the same for both.
        each = mine["model_teraflops"] / mine["tokens_per_second"]
        mfu = lambda report: f"{100 * report['tokens_per_second'] * each / arguments.peak:.1f} %"
        memory = lambda report: f"{report['device_peak_bytes'] / 1e9:.1f}"
        fewer = "" if peer["micro_batch"] == arguments.micro else f" (in {peer['micro_batch']}s)"
        ratio = mine["tokens_per_second"] / peer["tokens_per_second"]
        print(
            f"| {name} | {mine['tokens_per_second']:,.0f} | {mfu(mine)} | {memory(mine)} "
            f"| {peer['tokens_per_second']:,.0f}{fewer} | {mfu(peer)} | {memory(peer)} | **{ratio:.2f}** |",
            flush=True,
        )
