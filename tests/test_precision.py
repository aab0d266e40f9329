"""bfloat16 where it is native, float32 elsewhere."""

import pytest
import torch
from accelerate.state import AcceleratorState

from bolid.training.config import TrainConfig
from bolid.training.loop import make_accelerator
from bolid.training.muon import orthogonalised
from bolid.training.precision import fast, has_bfloat16, matrix_dtype, resolved

BF16 = {"avx2": True, "avx512_bf16": True}
AVX2 = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(params=(BF16, AVX2), ids=("bf16", "avx2"))
def native(request, monkeypatch):
    """Whether the processor that torch reports has bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param, raising=False)
    return request.param is BF16


def test_auto_takes_what_the_processor_has(native):
    assert has_bfloat16("cpu") is native
    assert resolved("auto", "cpu") == ("bf16" if native else "no")
    assert matrix_dtype("cpu") is (torch.bfloat16 if native else torch.float32)


@pytest.mark.usefixtures("native")
def test_what_is_asked_for_is_kept():
    assert [resolved(asked, "cpu") for asked in ("no", "bf16")] == ["no", "bf16"]
    with pytest.raises(ValueError, match="auto, bf16 or no"):
        resolved("fp16", "cpu")
    assert resolved("fp16", "cuda") == "fp16"


def test_frozen_networks_compute_in_it(native):
    x = torch.ones(2, 2)
    with fast(torch.device("cpu")):
        assert (x @ x).dtype is (torch.bfloat16 if native else torch.float32)
    with fast(torch.device("cpu"), allowed=False):
        assert (x @ x).dtype is torch.float32


@pytest.mark.usefixtures("native")
def test_muons_iteration_is_the_same_but_for_rounding():
    matrix = torch.randn(1, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix)[0])
    assert values.dtype is torch.float32
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_the_script_trains_in_it(native):
    if torch.cuda.is_available():
        pytest.skip("trains on the GPU here")
    AcceleratorState._reset_state(reset_partial_state=True)  # one a process, and other tests ask for others
    assert make_accelerator(TrainConfig()).mixed_precision == ("bf16" if native else "no")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_old_torch_is_asked_by_its_own_operator(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_bfloat16("cpu") is bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
