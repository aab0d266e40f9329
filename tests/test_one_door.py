"""Everything people do with a stock pipeline works with ours, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from stock_pipelines import NEAR, draw, stock
from tiny_pipelines import make_sd15, make_xl

from bolid import BoLIDPipeline, BoLIDXLPipeline, Reference
from bolid.attention import IdentityAttnProcessor

MAKERS: dict[str, Any] = {"sd15": make_sd15, "xl": make_xl}
FAMILIES = pytest.mark.parametrize("family", list(MAKERS))


def with_person(pipe: Any, person: Reference, **options: Any) -> torch.Tensor:
    return draw(pipe, reference=person, pose="sitting", **options)


@FAMILIES
def test_lora(family: str, person: Reference) -> None:
    """A LoRA on the base changes the picture, leaves with its scale, and the adapter goes on acting."""
    peft = pytest.importorskip("peft")
    pipe = MAKERS[family]()
    before = with_person(pipe, person)
    pipe.unet.add_adapter(
        peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style"
    )
    styled = with_person(pipe, person)
    assert not torch.allclose(styled, before, **NEAR)
    assert not torch.allclose(styled, draw(pipe), **NEAR)
    pipe.set_adapters(["style"], adapter_weights=[0.0])
    torch.testing.assert_close(with_person(pipe, person), before, **NEAR)
    pipe.delete_adapters("style")
    torch.testing.assert_close(with_person(pipe, person), before, **NEAR)


@FAMILIES
def test_a_lora_file(family: str, person: Reference, tmp_path: Path) -> None:
    """Loaded, scaled by a call, fused, unfused and unloaded as with a stock pipeline."""
    peft = pytest.importorskip("peft")
    pipe, maker = MAKERS[family](), MAKERS[family]()
    before = with_person(pipe, person)
    config = peft.LoraConfig(r=2, target_modules=["to_k", "to_v", "to_out.0"], init_lora_weights=False)
    maker.unet.add_adapter(config)
    layers = peft.get_peft_model_state_dict(maker.unet)
    type(pipe).save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe.load_lora_weights(tmp_path)
    styled = with_person(pipe, person)
    assert not torch.allclose(styled, before, **NEAR)
    half, none = (with_person(pipe, person, cross_attention_kwargs={"scale": scale}) for scale in (0.5, 0.0))
    torch.testing.assert_close(none, before, **NEAR)
    assert not torch.allclose(half, styled, **NEAR)
    pipe.fuse_lora()
    torch.testing.assert_close(with_person(pipe, person), styled, **NEAR)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(with_person(pipe, person), before, **NEAR)


@FAMILIES
@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LCM"]
)
def test_other_schedulers(family: str, name: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    first = with_person(pipe, person, num_inference_steps=3)
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    state = dict(pipe.scheduler.__dict__)
    seen = with_person(pipe, person, num_inference_steps=3)
    assert torch.isfinite(seen).all()
    assert not torch.allclose(seen, first, **NEAR)
    assert torch.equal(seen, with_person(pipe, person, num_inference_steps=3))
    assert all(pipe.scheduler.__dict__[key] is value for key, value in state.items())


@FAMILIES
def test_from_pipe_both_ways(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    expected, nothing = with_person(pipe, person), draw(pipe)
    own = {name: pipe.components[name] for name in ("adapter", "estimator")}
    again = type(pipe).from_pipe(stock(pipe), **own)
    again.set_progress_bar_config(disable=True)
    assert again.unet is pipe.unet
    assert torch.equal(with_person(again, person, guidance_scale=2.0), expected)
    plain = type(stock(pipe)).from_pipe(pipe)
    plain.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(7)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
    assert torch.equal(plain("a beach", generator=noise, **options).images, nothing)


@FAMILIES
def test_vae_slicing_and_tiling(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    many: dict[str, Any] = {
        "num_images_per_prompt": 2,
        "output_type": "np",
        "image": person.image,
        "strength": 1.0,
    }
    before = with_person(pipe, person, **many)
    pipe.vae.enable_slicing()
    torch.testing.assert_close(with_person(pipe, person, **many), before, rtol=0, atol=1e-4)
    pipe.vae.enable_tiling()
    large: dict[str, Any] = {"height": 128, "width": 64, "output_type": "np"}
    assert with_person(pipe, person, **large).shape == (1, 128, 64, 3)
    noise = torch.Generator().manual_seed(7)
    plain = stock(pipe)("a beach", generator=noise, num_inference_steps=2, guidance_scale=2.0, **large).images
    assert np.array_equal(draw(pipe, **large), plain)  # the decoder's tiles are diffusers' own


def test_a_vae_that_overflows_in_half_precision(person: Reference) -> None:
    """As SDXL's own: the appearance map is encoded in float32, and the VAE is put back."""
    pipe = make_xl()
    torch.nn.init.constant_(pipe.vae.encoder.conv_in.weight, 3e4)
    pipe.vae.register_to_config(force_upcast=False)
    exact = with_person(pipe, person)
    assert torch.isfinite(exact).all()
    pipe.to(torch.float16)
    assert not torch.isfinite(with_person(pipe, person)).all()
    pipe.vae.register_to_config(force_upcast=True)
    half = with_person(pipe, person)
    assert (half.float() - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert pipe.vae.dtype == torch.float16


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(family: str, dtype: torch.dtype, person: Reference) -> None:
    pipe = MAKERS[family]()
    exact = with_person(pipe, person, image_prompt=person.image)
    half = with_person(pipe.to(dtype), person, image_prompt=person.image)
    assert pipe.adapter.dtype == half.dtype == dtype
    assert (half.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_progress_bars(capfd: pytest.CaptureFixture[str], person: Reference) -> None:
    pipe = make_sd15()
    for options, shown in (({"desc": "picture one"}, True), ({"disable": True}, False)):
        pipe.set_progress_bar_config(**options)
        for task in ({}, {"image": person.image}):
            draw(pipe, **task)
            assert ("picture one" in capfd.readouterr().err) == shown


class TestAttentionSwitches:
    @FAMILIES
    def test_slicing_leaves_our_layers_alone(self, family: str, person: Reference) -> None:
        pipe = MAKERS[family]()
        expected = with_person(pipe, person)
        pipe.enable_attention_slicing(1)
        kinds = {type(each).__name__ for name, each in pipe.unet.attn_processors.items() if "attn1" in name}
        assert kinds == {"SlicedAttnProcessor"}
        torch.testing.assert_close(with_person(pipe, person), expected, **NEAR)
        pipe.disable_attention_slicing()
        torch.testing.assert_close(with_person(pipe, person), expected, **NEAR)

    @FAMILIES
    def test_xformers_leave_our_layers_alone(self, family: str, person: Reference) -> None:
        """Without xformers diffusers raises; switching it off again walks the same way over all layers."""
        pipe = MAKERS[family]()
        expected = with_person(pipe, person)
        with pytest.raises((ModuleNotFoundError, ValueError)):
            pipe.enable_xformers_memory_efficient_attention()
        pipe.disable_xformers_memory_efficient_attention()
        ours = [name for name in pipe.unet.attn_processors if "attn2" in name]
        assert all(isinstance(pipe.unet.attn_processors[name], IdentityAttnProcessor) for name in ours)
        torch.testing.assert_close(with_person(pipe, person), expected, **NEAR)

    @FAMILIES
    def test_replacing_them_is_refused(self, family: str, person: Reference) -> None:
        pipe = MAKERS[family]()
        with pytest.raises(ValueError, match="fused projections leave no keys"):
            pipe.fuse_qkv_projections()
        with pytest.raises(ValueError, match="use image_prompt= for a picture's style"):
            pipe.load_ip_adapter("somewhere")
        past: tuple[tuple[str, tuple[Any, ...]], ...] = (  # past the pipeline's own switches
            ("set_attention_slice", ("auto",)),
            ("fuse_qkv_projections", ()),
            ("set_attn_processor", (AttnProcessor(),)),
        )
        for switch, arguments in past:
            pipe = MAKERS[family]()
            getattr(pipe.unet, switch)(*arguments)
            with pytest.raises(ValueError, match="instead of BoLID's processor: attention slicing, xformers"):
                with_person(pipe, person)

    @FAMILIES
    def test_fusing_what_is_not_ours(self, family: str, person: Reference) -> None:
        """The VAE's projections always, the UNet's once the adapter is gone."""
        pipe = MAKERS[family]()
        expected = with_person(pipe, person, output_type="np")
        nothing = draw(pipe)
        pipe.fuse_qkv_projections(unet=False)
        np.testing.assert_allclose(with_person(pipe, person, output_type="np"), expected, atol=1e-4)
        pipe.unload_bolid_adapter()
        pipe.fuse_qkv_projections(vae=False)
        torch.testing.assert_close(draw(pipe), nothing, **NEAR)
        pipe.unfuse_qkv_projections()
        torch.testing.assert_close(draw(pipe), nothing, **NEAR)


def test_adapters_of_other_bases_are_refused(tmp_path: Path) -> None:
    pipes = {name: make() for name, make in MAKERS.items()}
    for name, pipe in pipes.items():
        pipe.save_bolid_adapter(tmp_path / name)
    for name, other in (("sd15", "xl"), ("xl", "sd15")):
        kept = pipes[name].adapter
        with pytest.raises(ValueError, match="made for another base: its cross-attention"):
            pipes[name].load_bolid_adapter(tmp_path / other)
        assert pipes[name].adapter is kept


class TestOffload:
    def test_without_an_accelerator_it_says_so(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is an accelerator")
        for switch in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
            with pytest.raises(RuntimeError, match="requires accelerator"):
                getattr(make_sd15(), switch)()

    @FAMILIES
    def test_models_are_called_through_their_hooks(
        self, family: str, person: Reference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the CPU as the device to compute on: each hooked model is brought in before it runs; adapter
        and estimator, which are called piecewise, have no hook and stay on the device."""
        from accelerate.hooks import CpuOffload

        pipe = MAKERS[family]()
        expected = with_person(pipe, person, output_type="np")
        pipe.enable_model_cpu_offload(device="cpu")
        names = {
            id(model): name for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)
        }
        hooked = [names[id(hook.model)] for hook in pipe._all_hooks]
        assert hooked.index("text_encoder") < hooked.index("unet") < hooked.index("vae")
        assert not {"adapter", "estimator"} & set(hooked)
        log: list[str] = []
        fetch = CpuOffload.pre_forward
        monkeypatch.setattr(
            CpuOffload, "pre_forward",
            lambda hook, model, *a, **k: (log.append(names[id(model)]), fetch(hook, model, *a, **k))[1],
        )  # fmt: skip
        for _ in range(2):  # the hooks are put back after a call
            log.clear()
            assert (with_person(pipe, person, output_type="np") == expected).all()
            assert "image_encoder" in log
            assert (
                log.index("vae") < log.index("text_encoder") < log.index("unet")
            )  # the appearance map first
            assert log[-1] == "vae"

    @FAMILIES
    def test_layer_by_layer(self, family: str) -> None:
        """Sequential offloading takes the base apart and leaves what is called piecewise on the device.

        With the CPU as that device accelerate cannot run even a stock pipeline; see the next test.
        """
        pipe = MAKERS[family]()
        pipe.enable_sequential_cpu_offload(device="cpu")
        places = {
            name: {weight.device.type for weight in part.parameters()}
            for name, part in pipe.components.items()
            if isinstance(part, torch.nn.Module)
        }
        assert places.pop("adapter") == places.pop("estimator") == {"cpu"}
        assert {"unet", "vae", "text_encoder", "image_encoder"} <= places.keys()
        assert all(place == {"meta"} for place in places.values())
        assert pipe._execution_device.type == "cpu"

    @pytest.mark.gpu
    @FAMILIES
    @pytest.mark.parametrize("switch", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
    def test_on_an_accelerator(self, switch: str, family: str, person: Reference) -> None:
        expected = with_person(MAKERS[family]().to("cuda"), person, output_type="np")
        pipe = MAKERS[family]()
        getattr(pipe, switch)()
        for _ in range(2):
            np.testing.assert_allclose(with_person(pipe, person, output_type="np"), expected, atol=1e-3)


@pytest.mark.slow  # a minute and more: run with -m slow
@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile(unet)", "unet.compile()"])
@FAMILIES
def test_a_compiled_unet_draws_the_same(family: str, in_place: bool, person: Reference) -> None:
    pipe = MAKERS[family]()
    expected, nothing = with_person(pipe, person), draw(pipe)
    if in_place:
        pipe.unet.compile(fullgraph=True)
    else:
        pipe.unet = torch.compile(pipe.unet)
    torch.testing.assert_close(with_person(pipe, person), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(pipe), nothing, rtol=0, atol=1e-4)
    weak = {"head": 0.2, "upper": 0.0}
    assert not torch.allclose(with_person(pipe, person, id_strength=weak), expected, atol=1e-3)


def test_the_door_knows_the_family(tmp_path: Path) -> None:
    """A plain base of either family comes back as the right class, whichever class is asked."""
    for family, kind in (("sd15", BoLIDPipeline), ("xl", BoLIDXLPipeline)):
        plain = stock(MAKERS[family]())
        plain.register_modules(image_encoder=None)
        plain.save_pretrained(tmp_path / family)
        for asked in (BoLIDPipeline, BoLIDXLPipeline):
            assert type(asked.from_pretrained(tmp_path / family)) is kind
