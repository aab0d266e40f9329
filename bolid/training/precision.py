"""Which float type a device should compute in.

A processor without bfloat16 instructions emulates them: on one with AVX2 a matrix product takes nine times as
long as in float32 (docs/LOG.md). So bfloat16 is taken where it is native and float32 elsewhere.
"""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "no", "bf16", "fp16"]


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has bfloat16 arithmetic of its own (CUDA from compute capability 8.0; CPUs with
    AVX512-BF16, AMX or ARM's bf16)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch from 2.6 on
    if read is None:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return any(there for name, there in read().items() if "bf16" in name)


def resolved(asked: Precision, device: torch.device | str) -> Literal["no", "bf16", "fp16"]:
    """What `mixed_precision` means on a device: "auto" is bf16 where that is native, else no (float32).

    Raises:
        ValueError: fp16 on a CPU.
    """
    if asked == "auto":
        return "bf16" if has_bfloat16(device) else "no"
    if asked == "fp16" and torch.device(device).type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU; on a CPU use auto, bf16 or no.")
    return asked


def fast(device: torch.device, allowed: bool = True) -> torch.autocast:
    """Autocast to bfloat16 where that is native and `allowed`; else none, whatever the caller's is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=allowed and has_bfloat16(device))


def matrix_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where that is native, else float32."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32
