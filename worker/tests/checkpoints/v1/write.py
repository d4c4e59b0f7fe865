"""Wrote the checkpoint of version 1 beside it, byte for byte as the worker did before shards held slices by their
place in the whole parameter: 2 x 2 x 2 ranks, each with its part of flat buffers; SHA-256 in a manifest that calls
it that; nothing of a loss guard. Nothing is to write that version again; the script says where the bytes came from.

Arguments: the folder to write to. Needs Python alone.
"""

import hashlib
import json
import os
import struct
import sys

TENSOR, PIPELINE, DATA = 2, 2, 2
LAYERS, HIDDEN, HEADS, VOCAB, SEQUENCE = 2, 8, 2, 16, 8
LINE = 16
KINDS = ["weight", "exp_avg", "exp_avg_sq"]
RUN, STEP, SAMPLES, SEED = "layouts", 3, 24, 11


def value(kind, name, element):
    """What element of a whole parameter holds; the test knows the same rule. Exact in fp32."""
    return (1000 * (kind + 1) + sum(name.encode()) % 512 + element / 4096) / 65536


def split(name):
    if name == "word_embeddings.weight" or "query_key_value" in name or "h_to_4h" in name and "4h_to_h" not in name:
        return "rows"
    if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
        return "columns"
    return "whole"


def parameters(stage):
    """Name, shape and whether it is the tied copy, of a stage's parameters in their order."""
    h, every = HIDDEN, []
    if stage == 0:
        every += [("word_embeddings.weight", [VOCAB, h], False)]
        every += [(f"word_embeddings_layernorm.{part}", [h], False) for part in ("weight", "bias")]
    each = LAYERS // PIPELINE
    for block in range(each * stage, each * (stage + 1)):
        for name, shape in [
            ("input_layernorm.weight", [h]),
            ("input_layernorm.bias", [h]),
            ("self_attention.query_key_value.weight", [3 * h, h]),
            ("self_attention.query_key_value.bias", [3 * h]),
            ("self_attention.dense.weight", [h, h]),
            ("self_attention.dense.bias", [h]),
            ("post_attention_layernorm.weight", [h]),
            ("post_attention_layernorm.bias", [h]),
            ("mlp.dense_h_to_4h.weight", [4 * h, h]),
            ("mlp.dense_h_to_4h.bias", [4 * h]),
            ("mlp.dense_4h_to_h.weight", [h, 4 * h]),
            ("mlp.dense_4h_to_h.bias", [h]),
        ]:
            every.append((f"h.{block}.{name}", shape, False))
    if stage == PIPELINE - 1:
        every += [(f"ln_f.{part}", [h], False) for part in ("weight", "bias")]
        every += [("word_embeddings.weight", [VOCAB, h], True)]
    return every


def part(name, shape, index):
    """Elements of the whole parameter that a tensor rank holds, in its order."""
    rows, columns = shape[0], shape[1] if len(shape) == 2 else 1
    from_row, to_row, from_column, to_column = 0, rows, 0, columns
    if split(name) == "rows":
        from_row, to_row = rows // TENSOR * index, rows // TENSOR * (index + 1)
    elif split(name) == "columns":
        from_column, to_column = columns // TENSOR * index, columns // TENSOR * (index + 1)
    return [row * columns + column for row in range(from_row, to_row) for column in range(from_column, to_column)]


def up(number, unit):
    return (number + unit - 1) // unit * unit


def slices(stage, index, data):
    """What a rank owns: name, range in its tensor rank's part, elements of the whole."""
    def kind(parameter):
        name, shape, is_copy = parameter
        return len(shape) == 1, is_copy, split(name) == "whole"

    end, slots = 0, []
    for name, shape, _ in sorted(parameters(stage), key=kind):
        elements = part(name, shape, index)
        slots.append((name, end, elements))
        end = up(end + len(elements), LINE)
    each = up(end, LINE * DATA) // DATA
    for name, at, elements in slots:
        begin, end = max(at, each * data), min(at + len(elements), each * (data + 1))
        if begin < end:
            yield name, (begin - at, end - at), elements[begin - at : end - at]


def compact(what):
    return json.dumps(what, separators=(",", ":")).encode()


layout = {"tensor": TENSOR, "pipeline": PIPELINE, "data": DATA}
identity = {"step": STEP, "generation": 1}
folder = os.path.join(sys.argv[1], RUN, f"step-{STEP:08}.g1")
os.makedirs(folder, exist_ok=True)
shards = []
for rank in range(TENSOR * PIPELINE * DATA):
    index, data, stage = rank % TENSOR, rank // TENSOR % DATA, rank // (TENSOR * DATA)
    own = list(slices(stage, index, data))
    facts = {
        "version": 1,
        "run": RUN,
        "id": identity,
        "rank": rank,
        "layout": layout,
        "model": {"layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "vocab": VOCAB, "sequence": SEQUENCE},
        "seed": SEED,
        "samples": SAMPLES,
        "slices": {name: {"start": start, "end": end} for name, (start, end), _ in sorted(own)},
    }
    head, body = {"__metadata__": {"rebloom": compact(facts).decode()}}, b""
    for name, _, elements in own:
        for kind, prefix in enumerate(KINDS):
            values = struct.pack(f"<{len(elements)}f", *(value(kind, name, element) for element in elements))
            offsets = [len(body), len(body) + len(values)]
            head[f"{prefix}/{name}"] = {"dtype": "F32", "shape": [len(elements)], "data_offsets": offsets}
            body += values
    text = compact(head)
    text += b" " * (-len(text) % 8)
    shard = struct.pack("<Q", len(text)) + text + body
    file = f"rank-{rank:05}.safetensors"
    with open(os.path.join(folder, file), "wb") as out:
        out.write(shard)
    shards.append({"rank": rank, "file": file, "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()})
manifest = {"version": 1, "run": RUN, "id": identity, "layout": layout, "samples": SAMPLES, "shards": shards}
with open(os.path.join(folder, "manifest.json"), "wb") as out:
    out.write(compact(manifest))
