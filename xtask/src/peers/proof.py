"""Two ranks add up their numbers over Gloo: proves that torchrun works here."""
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
tensor = torch.full((4,), float(dist.get_rank() + 1))
dist.all_reduce(tensor)
assert tensor.tolist() == [3.0] * 4, tensor
print(f"peers: rank {dist.get_rank()} of {dist.get_world_size()} has the sum", flush=True)
dist.destroy_process_group()
