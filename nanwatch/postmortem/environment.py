"""What the step ran on, for a replay elsewhere: `environment.json`. An allow-list; secrets are never looked at."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SCHEMA = "nanwatch.environment/1"
_VARIABLES = ("CUDA_", "NCCL_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "SLURM_JOB_", "CUBLAS_", "TORCHELASTIC_")
_PACKAGES = ("torch", "numpy", "transformers", "lightning", "pytorch-lightning", "accelerate", "deepspeed", "mlflow")
_SECRET = re.compile(r"(?i)(token|secret|password|passwd|api_?key|credential|auth|private)")
_USER_INFO = re.compile(r"(\w+://)[^/\s@]*@")


def describe_environment(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, device, precision flags, threads, git commit, scrubbed argv, allow-listed environment, error counters.

    hardware:  the counters, as `describe_hardware` gives them.
    """
    cuda = torch.cuda.is_available()
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nanwatch": installed_version("nanwatch"),
        "numpy": installed_version("numpy"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda,
        "flags": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "flush_denormal": bool(torch.tensor(1e-310, dtype=torch.float64).mul(1.0) == 0),
        },
        "hardware": dict(hardware),
        "git_commit": _git_commit(Path.cwd()),
        "argv": scrubbed(sys.argv),
        "environ": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES) and not _SECRET.search(k)},
        "packages": {name: v for name in _PACKAGES if (v := installed_version(name)) is not None},
    }


def scrubbed(argv: list[str]) -> list[str]:
    """The command line without the values of options that look like secrets, and without user info in addresses."""
    out: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            out.append("***")
        elif equals and _SECRET.search(name):
            out.append(f"{name}=***")
        else:
            out.append(_USER_INFO.sub(r"\1***@", word))
        hide_next = word.startswith("-") and not equals and bool(_SECRET.search(word))
    return out


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None where it is not installed (run from a checkout)."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _git_commit(folder: Path) -> str | None:
    """The checked-out commit, read from the files: starting git in somebody's training is not worth it."""
    for place in (folder, *folder.parents):
        head = place / ".git" / "HEAD"
        if not head.is_file():
            continue
        try:
            text = head.read_text().strip()
            if not text.startswith("ref: "):
                return text[:40]
            ref = place / ".git" / text.removeprefix("ref: ")
            return ref.read_text().strip()[:40] if ref.is_file() else None
        except OSError:
            return None
    return None
