"""Tensors of any kind in a safetensors file, their description in JSON. No pickle, bit for bit.

Keys in the file are t0001, t0002, ...: hostile or odd names never become keys. A tensor without holes in memory is
stored once, as it lies there, and views of it refer to it, so that shared memory is shared again after loading. Every
stride is restored, because the result of a kernel can depend on it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nanwatch.bundle.layout import home_of, is_dense, is_shared_out, own_share, span_of, spread, without_repeats
from nanwatch.bundle.private_file import part_of, seal
from nanwatch.bundle.summary import summarise
from nanwatch.bundle.tree import Capture, Describer, Missing, Node, Resolve, restore
from nanwatch.errors import BundleError

Redact = Callable[[str, Tensor], "Tensor | None"]

_MIB = 1024 * 1024
_STORED_AS_IS = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.complex64,
}  # fmt: skip
_COMPRESSED = {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}
_WITHHELD: Node = {"kind": "withheld", "type": "torch:Tensor", "length": None}
_BY_ROW = {torch.sparse_csr, torch.sparse_bsr}


def save_tensors(
    path: Path,
    tree: Any,
    *,
    mode: Capture = "full",
    rows: Sequence[int] = (),
    batch_size: int | None = None,
    max_mib: float | None = None,
    redact: Redact | None = None,
    hashes: bool = False,
) -> dict[str, Any]:
    """Write the tensors of `tree` to `path` and describe the tree: `captured`, `reason`, `rows`, `bytes`, `tree`.

    `mode`: full; rows (of leaves whose first dimension is `batch_size`, only `rows`); stats (no value, only minimum,
    maximum, mean, non-finite count); none (shapes only). Above `max_mib` the next smaller mode is taken, and `reason`
    says so. `batch_size` is the commonest first dimension where it is not given. `redact(path, tensor)` may return
    another tensor, or None to withhold it; a redaction that raises withholds too. `hashes`: a tensor whose values are
    not kept gets its SHA-256. No file is written when values were withheld.

    Raises: BundleError when the file cannot be written. A leaf that cannot be kept is described by type and repr.
    """
    with _quiet():
        gathered = _Gather(redact)
        Describer(gathered, mode).describe(tree)
        size = batch_size if batch_size is not None else gathered.common_first_dimension()
        kept_rows = [r for r in sorted(set(rows)) if size is not None and 0 <= r < size]
        reasons: list[str] = []
        while True:
            if mode == "rows" and not kept_rows:
                reasons.append("no offending rows are known, so no values were kept")
                mode = "stats"
            encoder = _Encoder(gathered, mode, kept_rows, size, hashes=hashes)
            node = Describer(encoder, mode, kept_rows, size).describe(tree)
            if max_mib is None or not encoder.tensors or encoder.size_bytes <= max_mib * _MIB:
                break
            reasons.append(f"{mode}: {encoder.size_bytes / _MIB:.1f} MiB, more than the limit of {max_mib:g} MiB")
            mode = "rows" if mode == "full" else "stats"
        if encoder.tensors or (mode == "full" and not gathered.bases):
            _write(path, encoder.tensors)
        return {
            "captured": mode,
            "reason": "; ".join(reasons) or None,
            "rows": kept_rows if mode == "rows" else [],
            "bytes": encoder.size_bytes,
            "tree": node,
        }


def load_tensors(path: Path, tree: Any, *, device: str = "cpu", resolve: Resolve | None = None) -> Any:
    """The values behind a description made by `save_tensors`, or behind any JSON structure that holds such nodes.

    `device`: where tensors go; "saved" for the device that each came from. `resolve`: see `tree.restore`. What was not
    kept comes back as `Missing`.

    Raises: BundleError when the file is missing or damaged, or does not fit the description.
    """
    decoder = _Decoder(path, device)
    try:
        with _quiet():
            return restore(tree, decoder.decode, resolve)
    except (RuntimeError, OSError, SafetensorError) as e:
        raise BundleError(f"{path.name} does not fit its description: {e}") from e


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values in logical order, in hex: the same for equal bits, whatever the strides.

    Cost: a copy to the host where the tensor is elsewhere.
    """
    flat = _raw(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1))
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


class _Gather:
    """First pass: applies redaction once, and finds the tensors in whose memory others lie."""

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact
        self._redacted: dict[tuple[int, str], tuple[Tensor, Tensor | None]] = {}
        self._first_dimensions: Counter[int] = Counter()
        self.bases: dict[tuple[str, int], Tensor] = {}
        """(device, address of the storage) -> the largest tensor in it that has no holes."""

    def owns(self, value: Any) -> bool:
        return isinstance(value, Tensor | np.ndarray | np.generic | torch.Size | torch.dtype | torch.device)

    def describe(self, value: Any, path: str) -> Node:
        if isinstance(value, Tensor) and (tensor := self.seen(value, path)) is not None:
            if tensor.dim():
                self._first_dimensions[tensor.shape[0]] += 1
            if _has_memory(tensor) and is_dense(tensor):
                home = home_of(tensor)
                known = self.bases.get(home)
                if known is None or tensor.nbytes > known.nbytes:
                    self.bases[home] = tensor
        return {}

    def seen(self, tensor: Tensor, path: str) -> Tensor | None:
        """What may be known of the tensor: itself, or what redaction made of it; None: nothing."""
        if self._redact is None:
            share: Tensor = own_share(tensor)
            return share
        at = (id(tensor), path)
        if at not in self._redacted:
            try:
                result = self._redact(path, own_share(tensor))
            except Exception:  # a redaction that fails must not let anything through
                result = None
            # The tensor is held too: its id must not come back as another's.
            self._redacted[at] = tensor, result if isinstance(result, Tensor) else None
        return self._redacted[at][1]

    def common_first_dimension(self) -> int | None:
        return self._first_dimensions.most_common(1)[0][0] if self._first_dimensions else None


class _Encoder:
    """Second pass: describes leaves and collects what is to be written."""

    def __init__(
        self, gathered: _Gather, mode: Capture, rows: Sequence[int], batch_size: int | None, *, hashes: bool
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.size_bytes = 0
        self._gathered = gathered
        self._mode = mode
        self._rows = list(rows)
        self._batch_size = batch_size
        self._hashes = hashes
        self._base_keys: dict[tuple[str, int], str] = {}

    def owns(self, value: Any) -> bool:
        return self._gathered.owns(value)

    def describe(self, value: Any, path: str) -> Node:
        if isinstance(value, torch.Size):
            return {"kind": "size", "value": list(value)}
        if isinstance(value, torch.dtype | torch.device):
            return {"kind": type(value).__name__, "value": str(value).removeprefix("torch.")}
        if isinstance(value, np.ndarray | np.generic):
            copy = self._gathered.seen(torch.from_numpy(np.array(value)), path)
            inner = _WITHHELD if copy is None else self._any(copy)
            return {"kind": "numpy", "scalar": isinstance(value, np.generic), "tensor": inner}
        tensor = self._gathered.seen(value, path)
        if tensor is None:
            return _WITHHELD
        return self._any(tensor) | ({"shard_of": list(value.shape)} if is_shared_out(value) else {})

    def _any(self, tensor: Tensor) -> Node:
        node: Node = {
            "kind": "tensor",
            "shape": list(tensor.shape) if not tensor.is_nested else [],
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "device": str(tensor.device),
            "layout": str(tensor.layout).removeprefix("torch."),
            "requires_grad": tensor.requires_grad,
        }
        if isinstance(tensor, torch.nn.Parameter):
            node["parameter"] = True
        elif type(tensor) is not Tensor and not tensor.is_nested:
            node["subclass"] = type(tensor).__name__
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - no public name
            tensor = tensor.detach()
            if "subclass" in node and not _is_fake(tensor):
                tensor = tensor.as_subclass(Tensor)
            return node | self._values(tensor)

    def _values(self, tensor: Tensor) -> Node:
        if tensor.device.type == "meta" or _is_fake(tensor):
            return {"stride": list(tensor.stride()), "meta": True}
        if tensor.is_nested:
            return {"parts": [self._any(t) for t in tensor.unbind()]}
        described: Node = {} if self._mode == "none" else {"statistics": summarise(tensor)}
        is_plain = tensor.layout == torch.strided and not tensor.is_quantized
        if self._mode == "rows" and is_plain and tensor.dim() and tensor.shape[0] == self._batch_size:
            kept = tensor.index_select(0, torch.tensor(self._rows, device=tensor.device))
            return described | {"rows": self._rows, "stride": list(kept.stride())} | self._stored(kept)
        if self._mode != "full":
            hashed = (
                self._hashes and self._mode != "none" and tensor.layout == torch.strided and not tensor.is_quantized
            )
            return described | ({"sha256": fingerprint(tensor)} if hashed else {})
        if tensor.layout == torch.sparse_coo:
            parts = [tensor._indices(), tensor._values()]  # noqa: SLF001 - the public ones refuse uncoalesced tensors
            return described | {"parts": [self._any(t) for t in parts], "coalesced": tensor.is_coalesced()}
        if tensor.layout in _COMPRESSED:
            by_row = tensor.layout in _BY_ROW
            outer = tensor.crow_indices() if by_row else tensor.ccol_indices()
            inner = tensor.col_indices() if by_row else tensor.row_indices()
            return described | {"parts": [self._any(t) for t in (outer, inner, tensor.values())]}
        if tensor.is_quantized:
            return described | self._quantised(tensor)
        return described | {"stride": list(tensor.stride())} | self._strided(tensor.resolve_conj().resolve_neg())

    def _quantised(self, tensor: Tensor) -> Node:
        if tensor.qscheme() in {torch.per_tensor_affine, torch.per_tensor_symmetric}:
            scale: Node = {"scale": tensor.q_scale().hex(), "zero_point": tensor.q_zero_point()}
            return scale | {"parts": [self._any(tensor.int_repr())]}
        parts = [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
        return {"axis": tensor.q_per_channel_axis(), "parts": [self._any(t) for t in parts]}

    def _strided(self, tensor: Tensor) -> Node:
        base = self._gathered.bases.get(home_of(tensor)) if _has_memory(tensor) else None
        if base is not None:
            offset = tensor.data_ptr() - base.data_ptr()
            if offset >= 0 and offset + span_of(tensor.shape, tensor.stride()) * tensor.element_size() <= base.nbytes:
                return {"key": self._base_key(base), "offset_bytes": offset}
        # No tensor of the tree covers its memory: the values alone, once for dimensions that only repeat them.
        tensor = without_repeats(tensor)
        return {"packed": list(tensor.shape)} | self._stored(tensor)

    def _base_key(self, base: Tensor) -> str:
        home = home_of(base)
        if home not in self._base_keys:
            flat = base.detach().as_subclass(Tensor)
            flat = flat if flat.is_contiguous() else flat.as_strided((flat.numel(),), (1,))
            self._base_keys[home] = self._stored(flat)["key"]
        return self._base_keys[home]

    def _stored(self, tensor: Tensor) -> Node:
        key = f"t{len(self.tensors) + 1:04d}"
        self.tensors[key] = tensor
        self.size_bytes += tensor.nbytes
        return {"key": key}


class _Decoder:
    """Makes tensors from nodes; tensors that shared memory share it again."""

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._device = device
        self._loaded: dict[tuple[str, str], Tensor] = {}

    def decode(self, node: Node) -> Any:
        kind, value = node["kind"], node.get("value")
        if kind == "size":
            return torch.Size(value)  # type: ignore[arg-type]
        if kind == "dtype":
            return _dtype(str(value))
        if kind == "device":
            return torch.device(str(value))
        if kind == "numpy":
            inner = restore(node["tensor"], self.decode)
            if isinstance(inner, Missing):
                return inner
            array = inner.cpu().numpy()
            return array[()] if node["scalar"] else array
        if kind == "tensor":
            return self._tensor(node)
        raise BundleError(f"the tree has a node of unknown kind {kind!r:.60}")

    def _tensor(self, node: Node) -> Any:
        with torch.no_grad():
            tensor = self._values(node, node["device"] if self._device == "saved" else self._device)
        if tensor is None:
            return Missing("torch:Tensor", f"shape {node['shape']}, dtype {node['dtype']}: values were not kept")
        if node.get("parameter"):
            return torch.nn.Parameter(tensor, requires_grad=node["requires_grad"])
        return tensor.requires_grad_() if node["requires_grad"] else tensor

    def _values(self, node: Node, device: str) -> Tensor | None:
        dtype, shape = _dtype(node["dtype"]), node["shape"]
        if node.get("meta"):
            return torch.empty_strided(shape, node["stride"], dtype=dtype, device="meta")
        if "parts" in node:
            return self._composed(node, dtype, [self._values(p, device) for p in node["parts"]], device)
        if "key" not in node:
            return None
        raw = self._raw(node["key"], device)
        if "offset_bytes" in node:
            offset, itemsize = node["offset_bytes"], dtype.itemsize
            size = span_of(shape, node["stride"]) * itemsize
            if offset < 0 or offset + size > raw.numel():
                raise BundleError(f"{node['key']} is too short for what the tree says of it")
            return raw[offset : offset + size].view(dtype).as_strided(shape, node["stride"])
        values = raw.view(dtype)
        if "rows" in node:
            return values.reshape(len(node["rows"]), *shape[1:])
        strided: Tensor = spread(values.reshape(node["packed"]), shape, node["stride"])
        return strided

    def _composed(self, node: Node, dtype: torch.dtype, parts: list[Tensor | None], device: str) -> Tensor | None:
        if any(p is None for p in parts):
            return None
        layout = getattr(torch, node["layout"])
        whole: Any = parts
        if "scale" in node:
            scale, zero = float.fromhex(node["scale"]), node["zero_point"]
            return torch._make_per_tensor_quantized_tensor(whole[0], scale, zero)  # noqa: SLF001 - no public name
        if "axis" in node:
            return torch._make_per_channel_quantized_tensor(whole[0], whole[1], whole[2], node["axis"])  # noqa: SLF001 - no public name
        if layout == torch.sparse_coo:
            made = torch.sparse_coo_tensor(whole[0], whole[1], node["shape"], dtype=dtype, check_invariants=True)
            return made._coalesced_(node["coalesced"])
        if layout in _COMPRESSED:
            return torch.sparse_compressed_tensor(
                whole[0], whole[1], whole[2], node["shape"], dtype=dtype, layout=layout, check_invariants=True
            )
        return torch.nested.nested_tensor(whole, dtype=dtype, layout=layout, device=device)

    def _raw(self, key: str, device: str) -> Tensor:
        """The bytes behind a key, one copy for each device."""
        if (key, device) not in self._loaded:
            with safe_open(self._path, framework="pt") as file:
                stored = file.get_tensor(key)
            flat = _raw(stored.reshape(-1).clone())
            self._loaded[key, device] = (
                flat.view(torch.uint8).to(device) if flat.numel() else torch.empty(0, dtype=torch.uint8)
            )
        return self._loaded[key, device]


def _quiet() -> warnings.catch_warnings[Any]:
    """Torch warns of rare dtypes and layouts; under `-W error` that would cost the evidence."""
    return warnings.catch_warnings(action="ignore")


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    part = part_of(path)
    try:
        save_file({key: _storable(tensor) for key, tensor in tensors.items()}, part)
        seal(part, path)
    except (SafetensorError, OSError, RuntimeError) as e:
        part.unlink(missing_ok=True)
        raise BundleError(f"{path.name} cannot be written: {e}") from e


def _storable(tensor: Tensor) -> Tensor:
    # A copy even of what lies on the host: safetensors refuses tensors that share memory.
    host = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
    if host.dtype in _STORED_AS_IS:
        return host
    return torch.view_as_real(host) if host.is_complex() else host.reshape(-1).view(torch.uint8)


def _raw(flat: Tensor) -> Tensor:
    return torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat


def _is_fake(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "FakeTensor"


def _has_memory(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    plain = plain and tensor.device.type != "meta" and type(tensor) in {Tensor, torch.nn.Parameter, torch.nn.Buffer}
    return plain and tensor.numel() > 0 and not tensor.is_conj() and not tensor.is_neg()


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise BundleError(f"this version of torch knows no dtype {name!r:.60}")
    return dtype
