"""Switches of the stock pipelines that replace attention processors: kept away from the adapter's layers."""

from __future__ import annotations

from typing import Any


class CareMixin:
    """Attention slicing and xformers act on self-attention only; fused projections are refused.

    Both would put a processor of their own into every layer of the UNet, ours included, and the identity
    would be left out without a word.
    """

    adapter: Any
    unet: Any

    def set_attention_slice(self, slice_size: Any) -> None:
        """As in the stock pipeline, on all layers but the adapter's."""
        super().set_attention_slice(slice_size)  # pyright: ignore[reportAttributeAccessIssue]
        self._attach_again()

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """As in the stock pipeline, on all layers but the adapter's."""
        stock: Any = super()
        stock.set_use_memory_efficient_attention_xformers(valid, attention_op)
        self._attach_again()

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """As in the stock pipeline for the VAE. Raises ValueError for a UNet with an adapter."""
        if unet and self.adapter is not None:
            raise ValueError(
                "fused projections leave no keys and values of the text to stand beside the identity's; call "
                "fuse_qkv_projections(unet=False), or unload_bolid_adapter() first"
            )
        super().fuse_qkv_projections(unet, vae)  # pyright: ignore[reportAttributeAccessIssue]

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As in the stock pipeline. Raises ValueError beside an adapter: it would replace its processors."""
        if self.adapter is not None:
            raise ValueError(
                "load_ip_adapter would replace the adapter's processors; use image_prompt= for a picture's "
                "style, bolid.baselines.load_baseline for an official file, or unload_bolid_adapter() first"
            )
        super().load_ip_adapter(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _attach_again(self) -> None:
        if self.adapter is not None and self.unet is not None:
            self.adapter.attach(self.unet)
