"""Saves and loads tensors of as many bytes as are asked for with torch.save and with
torch.distributed.checkpoint, each synced to the disk, and prints the seconds of each.

Arguments: an empty folder, bytes, rounds.
"""

import json
import os
import shutil
import sys
import time

import torch
import torch.distributed.checkpoint as dcp

folder, size, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
count = 36
state = {f"tensor-{at}": torch.randn(size // 4 // count) for at in range(count)}


def sync(path):
    for root, _, files in os.walk(path):
        for name in files:
            file = os.open(os.path.join(root, name), os.O_RDONLY)
            os.fsync(file)
            os.close(file)


def timed(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def torch_save(path):
    torch.save(state, os.path.join(path, "state.pt"))
    sync(path)


def dcp_save(path):
    dcp.save(state, checkpoint_id=path, no_dist=True)
    sync(path)


def torch_load(path):
    loaded = torch.load(os.path.join(path, "state.pt"), weights_only=True)
    for name, tensor in state.items():
        tensor.copy_(loaded[name])


def dcp_load(path):
    dcp.load(state, checkpoint_id=path, no_dist=True)


for _ in range(rounds):
    line = {}
    for name, save, load in (
        ("torch_save", torch_save, torch_load),
        ("dcp", dcp_save, dcp_load),
    ):
        path = os.path.join(folder, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        line[name + "_write"] = timed(lambda: save(path))
        line[name + "_load"] = timed(lambda: load(path))
        shutil.rmtree(path)
    print(json.dumps(line), flush=True)
