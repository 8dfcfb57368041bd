"""Every kind of tensor comes back bit for bit, and nothing else than was asked for is kept."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanwatch.bundle.tensors import fingerprint, load_tensors, save_tensors
from nanwatch.bundle.tree import Fields, Missing, already_imported, child
from nanwatch.errors import BundleError


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    image: torch.Tensor
    label: int


class Weird:
    def __repr__(self):
        raise RuntimeError("no repr for you")


def round_trip(tmp_path, tree, **load):
    described = save_tensors(tmp_path / "x.safetensors", tree)
    described = json.loads(json.dumps(described, allow_nan=False))
    return load_tensors(tmp_path / "x.safetensors", described["tree"], **load)


def bits(t):
    t = t.detach()
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    return t.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert bits(a) == bits(b)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128,
    torch.complex32,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_of_a_dtype_survives(tmp_path, dtype):
    raw = torch.randint(0, 256, (24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensor = raw.view(dtype)
    same(round_trip(tmp_path, tensor), tensor)


def test_nan_payloads_and_negative_zero_survive(tmp_path):
    patterns = torch.tensor([0x7FC00001, 0x7F800001, 0x7FFFFFFF, -0x80000000, -1, 1], dtype=torch.int32)
    same(round_trip(tmp_path, patterns.view(torch.float32)), patterns.view(torch.float32))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(float("nan")),
        torch.empty(0),
        torch.empty(3, 0, 2),
        torch.tensor([True, False]),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(40.0).reshape(4, 10)[:, ::3],
        torch.arange(12.0)[3:7],
        torch.arange(3.0).expand(1000, 3),
        torch.arange(10.0).as_strided((4, 3), (2, 1)),
        torch.arange(10.0).unfold(0, 4, 1),
        torch.randn(3, 4, dtype=torch.complex64).conj(),
        torch.randn(3, 4, dtype=torch.complex64).imag,
        torch.arange(6.0).t(),
    ],
    ids=lambda t: f"{tuple(t.shape)}{t.stride()}",
)
def test_shape_stride_and_values_survive(tmp_path, tensor):
    same(round_trip(tmp_path, tensor), tensor)


def test_expanded_tensor_is_stored_once(tmp_path):
    described = save_tensors(tmp_path / "x", torch.arange(3.0).expand(100_000, 3))
    assert described["bytes"] == 12


def test_views_share_memory_again(tmp_path):
    base = torch.arange(20.0).reshape(4, 5)
    tree = {"tail": base[1:], "turned": base.t(), "base": base, "again": base, "column": base[:, 2]}
    described = save_tensors(tmp_path / "x.safetensors", tree)
    back = load_tensors(tmp_path / "x.safetensors", described["tree"])
    assert described["bytes"] == base.nbytes
    for name, tensor in tree.items():
        same(back[name], tensor)
    back["base"].fill_(7)
    assert all((t == 7).all() for t in back.values())


def test_memory_is_shared_between_parts_that_are_loaded_together(tmp_path):
    base = torch.arange(6.0)
    described = save_tensors(tmp_path / "x", {"args": (base,), "outside": [base[2:]]})
    parts = {"args": child(described["tree"], "args"), "more": [child(described["tree"], "outside", 0)], "n": 3}
    back = load_tensors(tmp_path / "x", parts)
    back["args"][0].zero_()
    assert back["more"][0].sum() == 0
    assert back["n"] == 3


def test_requires_grad_parameter_and_dtype_leaves(tmp_path):
    tree = {
        "w": torch.nn.Parameter(torch.randn(3)),
        "frozen": torch.nn.Parameter(torch.randn(3), requires_grad=False),
        "x": torch.randn(2, requires_grad=True),
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
    }
    back = round_trip(tmp_path, tree)
    assert isinstance(back["w"], torch.nn.Parameter)
    assert back["w"].requires_grad
    assert not back["frozen"].requires_grad
    assert back["x"].requires_grad
    assert back["x"].is_leaf
    assert (back["size"], back["dtype"], back["device"]) == (tree["size"], tree["dtype"], tree["device"])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors(tmp_path):
    dense = torch.tensor([[0.0, float("nan")], [3.0, 0.0]])
    uncoalesced = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), check_invariants=True)
    for tensor in (
        dense.to_sparse(),
        uncoalesced,
        dense.to_sparse_csr(),
        dense.to_sparse_csc(),
        dense.to_sparse_bsr((1, 1)),
    ):
        back = round_trip(tmp_path, tensor)
        assert back.layout == tensor.layout
        if tensor.layout == torch.sparse_coo:
            assert back.is_coalesced() == tensor.is_coalesced()
        assert bits(back.to_dense()) == bits(tensor.to_dense())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors(tmp_path):
    x = torch.tensor([[-1.0, 0.5], [2.0, 3.0]])
    per_tensor = torch.quantize_per_tensor(x, 0.1, 3, torch.quint8)
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 0])
    per_channel = torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8)
    for tensor in (per_tensor, per_channel):
        back = round_trip(tmp_path, tensor)
        assert back.dtype == tensor.dtype
        assert torch.equal(back.int_repr(), tensor.int_repr())
        assert torch.equal(back.dequantize(), tensor.dequantize())


def test_nested_and_meta_tensors(tmp_path):
    parts = [torch.arange(3.0), torch.arange(5.0)]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    back = round_trip(tmp_path, {"n": jagged, "m": torch.empty(2, 3, device="meta")})
    assert [t.tolist() for t in back["n"].unbind()] == [t.tolist() for t in parts]
    assert back["m"].device.type == "meta"
    assert back["m"].shape == (2, 3)


def test_numpy_values(tmp_path):
    tree = {"a": np.array([[1.5, np.nan]]), "b": np.float32(3.25), "c": np.array(["x"], object), "d": np.array(4)}
    back = round_trip(tmp_path, tree)
    assert back["a"].tobytes() == tree["a"].tobytes()
    assert back["b"] == 3.25
    assert isinstance(back["b"], np.float32)
    assert isinstance(back["c"], Missing)
    assert back["d"].shape == ()


def test_containers_come_back(tmp_path):
    x = torch.randn(2)
    tree = {
        "list": [1, None, True, "text", b"\x00\xff", 2.5, float("nan"), 1 + 2j, ...],
        "tuple": (x, {3: "int key", (1, 2): "tuple key"}),
        "set": {1, 2},
        "slice": slice(1, None, 2),
        "long": list(range(100)),
    }
    back = round_trip(tmp_path, tree)
    assert str(back["list"]) == str(tree["list"])
    assert torch.equal(back["tuple"][0], x)
    assert back["tuple"][1] == tree["tuple"][1]
    assert (back["set"], back["slice"], back["long"]) == (tree["set"], tree["slice"], tree["long"])


def test_classes_come_back_only_when_resolved(tmp_path):
    tree = (Pair(torch.ones(1), 2), Sample(torch.zeros(2), 7))
    unknown = round_trip(tmp_path, tree)
    assert (unknown[0].right, unknown[1].label) == (2, 7)
    assert isinstance(unknown[1], Fields)
    classes = {f"{__name__}:Pair": Pair, f"{__name__}:Sample": Sample}
    known = round_trip(tmp_path, tree, resolve=classes.get)
    assert type(known[0]) is Pair
    assert type(known[1]) is Sample
    assert known[1].label == 7


def test_transformers_mapping(tmp_path):
    from transformers import BatchEncoding

    tree = BatchEncoding({"input_ids": torch.arange(6).reshape(2, 3)})
    back = round_trip(tmp_path, tree, resolve=already_imported)
    assert type(back) is BatchEncoding
    assert torch.equal(back["input_ids"], tree["input_ids"])
    assert torch.equal(round_trip(tmp_path, tree).input_ids, tree["input_ids"])


def test_what_cannot_be_kept_is_described(tmp_path):
    looped: list = []
    looped.append(looped)
    tree = {"o": object(), "w": Weird(), "f": len, "loop": looped, "module": torch.nn.Linear(2, 2), "big": 1 << 5000}
    back = round_trip(tmp_path, tree)
    assert all(isinstance(v, Missing) for k, v in back.items() if k != "loop")
    assert isinstance(back["loop"][0], Missing)
    assert len(back["module"].text) <= 200


def test_a_tree_without_tensors_gives_an_empty_file_and_withheld_values_none(tmp_path):
    save_tensors(tmp_path / "empty.safetensors", {"a": 1})
    save_tensors(tmp_path / "withheld.safetensors", {"a": torch.ones(3)}, mode="none")
    assert (tmp_path / "empty.safetensors").exists()
    assert not (tmp_path / "withheld.safetensors").exists()


def test_reaching_the_limit_keeps_the_offending_rows(tmp_path):
    x = torch.randn(64, 4096)
    x[5, 0] = float("nan")
    tree = {"x": x, "names": [f"sample {i}" for i in range(64)], "weight": torch.randn(1000)}
    described = save_tensors(tmp_path / "x", tree, rows=[5], max_mib=0.1)
    assert described["captured"] == "rows"
    assert described["rows"] == [5]
    assert "1.0 MiB" in described["reason"]
    back = load_tensors(tmp_path / "x", described["tree"])
    assert bits(back["x"]) == bits(x[5:6])
    assert isinstance(back["weight"], Missing)
    assert [n for n in back["names"] if isinstance(n, str)] == ["sample 5"]


def test_no_rows_means_statistics(tmp_path):
    x = torch.tensor([1.0, float("nan"), 3.0, float("inf")])
    described = save_tensors(tmp_path / "x", [x], mode="rows")
    assert described["captured"] == "stats"
    assert described["tree"]["items"][0]["statistics"] == {"min": 1.0, "max": 3.0, "mean": 2.0, "nonfinite": 2}
    assert not (tmp_path / "x").exists()


def test_a_row_over_the_limit_falls_back_to_statistics(tmp_path):
    described = save_tensors(tmp_path / "x", torch.zeros(4, 1024, 1024), rows=[0], max_mib=1)
    assert described["captured"] == "stats"
    assert "full: 16.0 MiB" in described["reason"]
    assert "rows: 4.0 MiB" in described["reason"]


@pytest.mark.parametrize("mode", ["none", "stats", "rows"])
def test_text_is_withheld_below_full(tmp_path, mode):
    described = save_tensors(tmp_path / "x", {"q": "my secret", "b": b"secret"}, mode=mode, rows=[0], batch_size=2)
    assert "secret" not in json.dumps(described)


def test_none_tells_shapes_only(tmp_path):
    described = save_tensors(tmp_path / "x", {"x": torch.tensor([1234.5]), "n": 77}, mode="none")
    text = json.dumps(described)
    assert "1234" not in text
    assert "77" not in text
    assert "float32" in text


def test_redaction(tmp_path):
    def redact(path, tensor):
        if path == "labels":
            return None
        if path == "broken":
            raise ValueError
        return torch.zeros_like(tensor)

    tree = {"labels": torch.ones(2), "broken": torch.ones(2), "x": torch.ones(2), "n": np.ones(2)}
    described = save_tensors(tmp_path / "x", tree, redact=redact)
    back = load_tensors(tmp_path / "x", described["tree"])
    assert isinstance(back["labels"], Missing)
    assert isinstance(back["broken"], Missing)
    assert back["x"].tolist() == [0, 0]
    assert back["n"].tolist() == [0, 0]


def test_hashes_identify_what_was_not_kept(tmp_path):
    weight = torch.randn(4, 4)
    described = save_tensors(tmp_path / "x", {"w": weight}, max_mib=0, hashes=True)
    assert child(described["tree"], "w")["sha256"] == fingerprint(weight.clone())
    assert fingerprint(weight) != fingerprint(weight + 1)
    assert fingerprint(torch.empty(0)) == fingerprint(torch.empty(0, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"offset_bytes": 8},
        {"shape": [1 << 40]},
        {"stride": [1 << 40]},
        {"dtype": "load"},
        {"key": "t9999"},
        {"shape": [-1]},
        {"offset_bytes": -4},
        {"kind": "surprise"},
        {"shape": None},
    ],
)
def test_hostile_descriptions_are_refused(tmp_path, change):
    described = save_tensors(tmp_path / "x", torch.arange(4.0))
    with pytest.raises(BundleError):
        load_tensors(tmp_path / "x", described["tree"] | change)


def test_damaged_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    described = save_tensors(path, torch.arange(4.0))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError):
        load_tensors(path, described["tree"])
    path.unlink()
    with pytest.raises(BundleError):
        load_tensors(path, described["tree"])


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8),
    st.lists(st.floats(width=32), max_size=5).map(lambda v: torch.tensor(v, dtype=torch.float32)),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=4) | st.dictionaries(st.text(max_size=6), t, max_size=4) | st.tuples(t, t),
    max_leaves=12,
)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return bits(a) == bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or repr(a) == repr(b) == "nan")


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_any_tree_of_plain_values_and_tensors_round_trips(tmp_path_factory, tree):
    assert equal(tree, round_trip(tmp_path_factory.mktemp("t"), tree))
