"""Incident folders as the trainer leaves them, built by hand: what the report must cope with."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys

import pyarrow as pa
import pytest
import torch

from nanwatch.bundle.manifest import write_evidence
from nanwatch.bundle.tree import child
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.records import (
    Cause,
    Experiment,
    Frame,
    Incident,
    Origin,
    PathNode,
    Replay,
    Seen,
    TensorSummary,
)

FILE = "/home/ana/projects/tinygpt/model.py"
SOURCE = """\
class CausalSelfAttention(nn.Module):
    def forward(self, x, pad_mask=None):
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(self.n_embd, dim=2)
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * self.scale
        if pad_mask is not None:
            att = att.masked_fill(pad_mask[:, None, None, :] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        y = self.dropout(att) @ v
        return self.proj(y.transpose(1, 2).reshape(B, T, C))
""".splitlines()


def gpt_modules(layers, origin):
    out = [("", "TinyGPT", None, 0), ("tok_emb", "Embedding", "", 6_433_792), ("pos_emb", "Embedding", "", 32_768)]
    out += [("drop", "Dropout", "", 0), ("blocks", "ModuleList", "", 0)]
    for i in range(layers):
        b = f"blocks.{i}"
        out += [
            (b, "Block", "blocks", 0),
            (f"{b}.ln1", "LayerNorm", b, 256),
            (f"{b}.attn", "CausalSelfAttention", b, 0),
            (f"{b}.attn.qkv", "Linear", f"{b}.attn", 49_536),
            (f"{b}.attn.dropout", "Dropout", f"{b}.attn", 0),
            (f"{b}.attn.proj", "Linear", f"{b}.attn", 16_512),
            (f"{b}.ln2", "LayerNorm", b, 256),
            (f"{b}.mlp", "Sequential", b, 0),
            (f"{b}.mlp.0", "Linear", f"{b}.mlp", 66_048),
            (f"{b}.mlp.1", "GELU", f"{b}.mlp", 0),
            (f"{b}.mlp.2", "Linear", f"{b}.mlp", 65_664),
        ]
    out += [("ln_f", "LayerNorm", "", 256), ("head", "Linear", "", 6_433_792)]
    bad = False
    modules = []
    for name, kind, parent, parameters in out:
        bad = bad or name == f"{origin}.dropout"
        calls = 0 if kind == "ModuleList" else 1
        nonfinite = 512 if bad or origin.startswith(name + ".") or name in {"", origin} else 0
        modules.append(
            {
                "id": name,
                "type": kind,
                "parent": parent,
                "parameters": parameters,
                "calls": calls,
                "absmax": "NaN" if nonfinite else 3.2,
                "nonfinite": nonfinite,
            }
        )
    leaves = [m["id"] for m in modules if not any(o["parent"] == m["id"] for o in modules)]
    edges = [["tok_emb", "drop"], ["pos_emb", "drop"]]
    edges += [[a, b] for a, b in itertools.pairwise(leaves[2:])]
    return modules, edges, leaves[leaves.index(f"{origin}.dropout") :]


def gpt_operations(file=FILE):
    chain = [
        ("aten::split_with_sizes", "blocks.7.attn", 21, "finite", 4.1),
        ("aten::transpose", "blocks.7.attn", 22, "finite", 4.1),
        ("aten::transpose", "blocks.7.attn", 23, "finite", 3.7),
        ("aten::bmm", "blocks.7.attn", 25, "finite", 61.2),
        ("aten::mul", "blocks.7.attn", 25, "finite", 10.8),
        ("aten::masked_fill", "blocks.7.attn", 27, "inf", "Infinity"),
        ("aten::_softmax", "blocks.7.attn", 28, "nan", "NaN"),
        ("aten::bmm", "blocks.7.attn", 29, "nan", "NaN"),
        ("aten::addmm", "blocks.7.attn.proj", 30, "nan", "NaN"),
        ("aten::add", "blocks.7", 48, "nan", "NaN"),
        ("aten::native_layer_norm", "blocks.8.ln1", 48, "nan", "NaN"),
    ]
    wires = [[], [0], [0], [1, 2], [3], [4], [5], [6, 0], [7], [8], [9]]
    return [
        {
            "id": i,
            "op": op,
            "module": m,
            "file": file,
            "line": line,
            "value": v,
            "absmax": a,
            "inputs": wires[i],
            "birth": i == 6,
        }
        for i, (op, m, line, v, a) in enumerate(chain)
    ]


def gpt_incident(**changes):
    at = FILE
    path = [
        ("aten::_softmax", "blocks.7.attn", 28),
        ("aten::bmm", "blocks.7.attn", 29),
        ("aten::addmm", "blocks.7.attn.proj", 30),
        ("aten::add", "blocks.7", 48),
    ]
    for i in range(8, 12):
        path += [
            ("aten::native_layer_norm", f"blocks.{i}.ln1", 48),
            ("aten::bmm", f"blocks.{i}.attn", 29),
            ("aten::add", f"blocks.{i}", 48),
            ("aten::gelu", f"blocks.{i}.mlp.1", 49),
        ]
    path += [("aten::native_layer_norm", "ln_f", 83), ("aten::mm", "head", 84)]
    nodes = [PathNode(op, m, at, line, "nan") for op, m, line in path]
    nodes.append(PathNode("aten::nll_loss_forward", None, "/home/ana/projects/tinygpt/train.py", 112, "nan"))
    facts = {
        "id": "20261123-190102-r0-812",
        "kind": "nonfinite",
        "time": "2026-11-23T19:01:02.345Z",
        "rank": 0,
        "world_size": 1,
        "step": 812,
        "step_total": 812,
        "micro_step": 0,
        "action": "skip",
        "seen": Seen("loss", "nan", ("loss",), 1),
        "origin": Origin(
            phase="forward",
            op="aten::_softmax",
            value="nan",
            module="blocks.7.attn",
            module_type="CausalSelfAttention",
            file=at,
            line=28,
            function="forward",
            code="att = F.softmax(att, dim=-1)",
            stack=(
                Frame(at, 28, "forward"),
                Frame(at, 48, "forward"),
                Frame(at, 82, "forward"),
                Frame("/home/ana/projects/tinygpt/train.py", 111, "train"),
                Frame("/home/ana/projects/tinygpt/train.py", 140, "<module>"),
            ),
            inputs=(
                TensorSummary("self", (16, 8, 128, 128), "float32", -9.84, 10.79, 131_072),
                TensorSummary("dim", (), "int64", -1, -1, 0),
            ),
            output=TensorSummary("out", (16, 8, 128, 128), "float32", 0.0, 1.0, 131_072),
            batch_rows=(3,),
        ),
        "path": tuple(nodes),
        "cause": Cause(
            "masked_softmax",
            "certain",
            why=(
                "All 128 entries of the softmax row are -inf: every position of batch row 3 is masked.",
                "pad_mask[3] holds no 1; the sample is empty after tokenisation.",
                "Without row 3 the step is finite.",
            ),
            fix=(
                "Leave at least one position of every row unmasked, or drop rows that are masked completely.",
                "Or fill with a large negative number, `torch.finfo(att.dtype).min`, and zero the row afterwards.",
                "Check the data loader: it must not let empty samples through.",
            ),
        ),
        "replay": Replay(
            "reproduced",
            2,
            bitwise=True,
            seconds=1.84,
            experiments=(
                Experiment("float64", finite=False, says="not a matter of precision"),
                Experiment("without row 3", finite=True, says="row 3 alone is enough to make the step non-finite"),
                Experiment("mask filled with -1e9", finite=True, says="the fill value makes the row non-finite"),
            ),
        ),
        "amp": {"scaler": False, "scale": None},
        "mlflow": {"run_id": None, "artifact_path": None},
        "scope": (
            "Only rank 0 was replayed; other ranks may have seen the same value.",
            "Buffers are those from before the step; the data loader's own state is not part of the replay.",
        ),
    }
    return Incident(**(facts | changes))


def write_gpt(incidents_dir, *, layers=12, capture="full", incident=None, poison=lambda text: text):
    """The folder of a 12-layer transformer with a fully masked row, as the trainer commits it."""
    random.seed(0)
    incident = gpt_incident() if incident is None else incident
    writer = EvidenceWriter(incidents_dir, incident.id)
    writer.json("incident.json", incident.to_json())
    writer.text("traceback.txt", f'Traceback of the forward pass:\n  File "{FILE}", line 28, in forward\n')
    ids = torch.randint(0, 50257, (16, 128), generator=torch.Generator().manual_seed(0))
    ids[3] = 0
    mask = torch.ones(16, 128, dtype=torch.int64)
    mask[3] = 0
    made = {"entries": [{"module": "", "args": (ids,), "kwargs": {"pad_mask": mask}}], "outside": [ids.clone()]}
    described = writer.tensors("batch/tensors", made, mode=capture, rows=[3], max_mib=64)
    tree = described.pop("tree")
    entries = [{"module": "", "args": child(tree, "entries", 0, "args"), "kwargs": child(tree, "entries", 0, "kwargs")}]
    outside = [{"function": "torch.nn.functional.cross_entropy", "args": child(tree, "outside"), "kwargs": None}]
    writer.json(
        "batch/tree.json",
        {
            "schema": "nanwatch.batch/1",
            **described,
            "entries": entries,
            "outside": outside,
            "leaves": [],
            "sample_ids": None,
        },
    )
    state = {"rng": writer.tensors("state/rng", {"torch": torch.get_rng_state()})}
    state["buffers"] = writer.tensors("state/buffers", {})
    state["parameters"] = writer.tensors("state/parameters", {"head.weight": torch.zeros(64, 64)})
    writer.json("state/tree.json", {"schema": "nanwatch.state/1", **state})
    writer.json(
        "program.json",
        {"schema": "nanwatch.program/1", "entries": [""], "operations": [], "autocast": None, "flags": {}},
    )
    modules, edges, path = gpt_modules(layers, f"blocks.{layers - 5}.attn")
    for m in modules:
        m["type"] = poison(m["type"])
    writer.json(
        "graph.json",
        {
            "schema": "nanwatch.graph/1",
            "modules": modules,
            "edges": edges,
            "origin": f"blocks.{layers - 5}.attn",
            "path": path,
            "operations": gpt_operations(poison(FILE)),
        },
    )
    wave = [abs(math.sin(i / 9)) * 6 + 0.4 + i * 0.05 for i in range(180)]
    magnitudes = [
        {"op": "aten::bmm", "module": f"blocks.{i // 16}.attn", "line": 20 + i % 16, "absmax": v, "value": "finite"}
        for i, v in enumerate(wave[:120])
    ]
    magnitudes += [
        {"op": "aten::_softmax", "module": "blocks.7.attn", "line": 28, "absmax": "NaN", "value": "nan"}
    ] * 60
    rows = [
        {"leaf": "args.0", "row": 3, "shape": [128], "dtype": "int64", "values": [0] * 128, "truncated": False},
        {
            "leaf": "kwargs.pad_mask",
            "row": 3,
            "shape": [128],
            "dtype": "int64",
            "values": [0] * 128,
            "truncated": False,
        },
    ]
    writer.json(
        "preview.json",
        {
            "schema": "nanwatch.preview/1",
            "rows": rows if capture in {"rows", "full"} else [],
            "magnitudes": magnitudes,
            "source": {"file": FILE, "first_line": 18, "lines": [poison(line) for line in SOURCE], "marked": 28},
        },
    )
    writer.json("environment.json", environment(poison))
    return writer.commit()


def environment(poison=lambda text: text):
    return {
        "schema": "nanwatch.environment/1",
        "python": "3.11.7",
        "torch": "2.13.0+cu130",
        "nanwatch": "0.1.0",
        "numpy": "2.4.6",
        "platform": "Linux-6.8.0-x86_64",
        "cpu": "AMD EPYC 9654",
        "threads": 16,
        "device": "NVIDIA H100 80GB HBM3 (driver 590.12, CUDA 13.0)",
        "flags": {"deterministic_algorithms": False, "allow_tf32": True, "cudnn.benchmark": True},
        "git_commit": "3f0c1d9a77b2 (with local changes)",
        "argv": ["train.py", "--lr", poison("3e-4"), "--token=[scrubbed]"],
        "environ": {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "16"},
        "packages": {"transformers": "5.23.0", "safetensors": "0.8.0", "mlflow": "3.17.2"},
    }


def image_incident():
    origin = Origin(
        phase="data",
        value="nan",
        module=None,
        file="/home/ana/vision/train.py",
        line=63,
        function="step",
        code="loss = criterion(model(images), labels)",
        stack=(Frame("/home/ana/vision/train.py", 63, "step"),),
        param=None,
        inputs=(TensorSummary("images", (8, 3, 32, 32), "float32", -2.1, 2.6, 41),),
        batch_rows=(5,),
    )
    return gpt_incident(
        id="20261124-080000-r0-40",
        step=40,
        step_total=1040,
        action="record",
        origin=origin,
        path=(),
        seen=Seen("grad", "nan", ("conv1.weight", "conv1.bias"), 62),
        cause=Cause(
            "bad_input",
            "certain",
            ("images holds 41 values that are not finite, all in row 5.",),
            ("Look at the rows below.",),
        ),
        replay=Replay("not_reproduced", 2, bitwise=False, seconds=0.2),
        scope=(),
    )


def write_image(incidents_dir):
    """A picture with a patch of NaN; nothing but the facts, the preview and a small graph."""
    incident = image_incident()
    writer = EvidenceWriter(incidents_dir, incident.id)
    writer.json("incident.json", incident.to_json())
    writer.text("traceback.txt", "no traceback: the value came with the batch\n")
    values = [math.sin((i % 32) / 5) + math.cos((i // 32 % 32) / 4) + c * 0.3 for c in range(3) for i in range(1024)]
    for c in range(3):
        for y in range(10, 15):
            values[c * 1024 + y * 32 + 8 : c * 1024 + y * 32 + 17] = ["NaN"] * 9
    rows = [
        {"leaf": "args.0", "row": 5, "shape": [3, 32, 32], "dtype": "float32", "values": values, "truncated": False},
        {"leaf": "outside.0", "row": 5, "shape": [], "dtype": "int64", "values": [7], "truncated": False},
        {
            "leaf": "kwargs.features",
            "row": 5,
            "shape": [40],
            "dtype": "float32",
            "values": [0.5 * i for i in range(39)] + ["Infinity"],
            "truncated": False,
        },
    ]
    writer.json("preview.json", {"schema": "nanwatch.preview/1", "source": None, "rows": rows, "magnitudes": []})
    names = ["conv1", "bn1", "relu", "pool", "fc"]
    modules = [
        {"id": n, "type": n.title(), "parent": "", "parameters": 10, "calls": 1, "absmax": "NaN", "nonfinite": 4}
        for n in names
    ]
    writer.json(
        "graph.json",
        {
            "schema": "nanwatch.graph/1",
            "modules": modules,
            "edges": [list(p) for p in itertools.pairwise(names)],
            "origin": None,
            "path": names,
            "operations": [],
        },
    )
    return writer.commit()


def history(steps=200, last=812, tensors=24, *, bad=True):
    """The agent's table: a row a step, and a row a tensor and step."""
    random.seed(1)
    columns = {
        name: []
        for name in [
            "rank",
            "step",
            "step_total",
            "tensor",
            "loss",
            "lr",
            "loss_scale",
            "step_time_s",
            "grad_norm",
            "grad_norm_clipped",
            "nonfinite",
            "l2",
            "min",
            "max",
            "mean",
            "std",
            "zero_share",
            "nan",
            "pos_inf",
            "neg_inf",
        ]
    }
    names = [f"blocks.{i // 2}.{'attn.qkv' if i % 2 else 'mlp.0'}.weight" for i in range(tensors)]
    for step in range(last - steps + 1, last + 1):
        fault = bad and step == last
        norm = 0.9 + 0.3 * random.random() + (6.0 if step == last - 40 else 0)
        row = dict.fromkeys(columns)
        row |= {
            "rank": 0,
            "step": step,
            "step_total": step,
            "tensor": "",
            "lr": 3e-4 * min(1, step / 700),
            "step_time_s": 0.21,
            "loss": float("nan") if fault else 6 * math.exp(-(step - 600) / 300) + 0.3 * random.random(),
            "grad_norm": float("nan") if fault else norm,
            "grad_norm_clipped": min(norm, 1.0),
            "loss_scale": None,
            "nonfinite": 9000 if fault else 0,
        }
        for key, value in row.items():
            columns[key].append(value)
        for k, name in enumerate(names):
            size = 0.0 if fault else norm * (0.05 + 0.02 * k) * (1 + 0.2 * random.random())
            row = dict.fromkeys(columns)
            row |= {
                "rank": 0,
                "step": step,
                "step_total": step,
                "tensor": name,
                "l2": size,
                "min": -size / 3,
                "max": size / 4,
                "mean": 0.0,
                "std": size / 9,
                "zero_share": 0.0,
                "nan": 384 if fault and k < 16 else 0,
                "pos_inf": 0,
                "neg_inf": 0,
            }
            for key, value in row.items():
                columns[key].append(value)
    return pa.table(columns)


@pytest.fixture
def gpt_folder(tmp_path):
    return write_gpt(tmp_path)


@pytest.fixture
def image_folder(tmp_path):
    return write_image(tmp_path)


@pytest.fixture
def build():
    """The builders of this file."""
    return sys.modules[__name__]


@pytest.fixture
def steps():
    return history(steps=60)


@pytest.fixture
def rewrite():
    """Replace a JSON member and make the evidence fit again, as a trainer with a bug would."""

    def rewrite(folder, name, content):
        (folder / name).write_text(json.dumps(content))
        write_evidence(folder, folder.name)

    return rewrite
