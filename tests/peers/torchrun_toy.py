"""Two ranks that all-reduce for ever: the smallest thing torchrun can restart.

Appends one line a step to the file named by its argument: rank, process id, restart count, monotonic
nanoseconds. Step state is not saved, so a restart here costs less than it would in training.
"""
import os
import sys
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
log = open(sys.argv[1], "a", buffering=1)
value = torch.ones(1024)
while True:
    dist.all_reduce(value)
    value.fill_(1.0)
    log.write(f"{dist.get_rank()} {os.getpid()} {os.environ['TORCHELASTIC_RESTART_COUNT']} {time.monotonic_ns()}\n")
    time.sleep(0.05)
