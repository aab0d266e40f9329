"""What every picture carries: that it was generated, with which settings, and an invisible watermark.

The text goes into the PNG: "bolid" (JSON, for reloading), "Software", and an XMP packet with IPTC's digital
source type "trained algorithmic media", which picture services read. The watermark is of the package that
diffusers' SDXL pipelines use, invisible-watermark, from 256 pixels a side up, with bits of our own, by its
method dwtDctSvd. Its dwtDct lost up to 31 of 48 bits in the PNG of a flat drawing already (three of eight
example people, enlarged, could not be read); dwtDctSvd lost none, and at most 9 in a JPEG of quality 90.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import iTXt

import bolid

LEAST_SIDE = 256  # pixels; the method needs 256 x 256
METHOD = "dwtDctSvd"
MESSAGE = b"BoLID\x01"  # 48 bits, as many as SDXL's own
ENOUGH_BITS = 40  # of 48, to call it ours; unmarked pictures had 16 to 32
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
)


def can_watermark() -> bool:
    """Whether the library for the watermark is installed."""
    return importlib.util.find_spec("imwatermark") is not None


def marked(image: Image.Image, settings: str, watermark: bool = True) -> Image.Image:
    """The picture, watermarked where it is large enough, with the texts that gradio writes into its PNG.

    settings: JSON of `bolid.space.settings.picture_text`. The given picture stays as it is.
    """
    picture = watermarked(image) if watermark else image.convert("RGB").copy()
    picture.info = {
        "bolid": settings,
        "Software": f"BoLID {bolid.__version__}",
        "XML:com.adobe.xmp": iTXt(XMP),
    }
    return picture


def watermarked(image: Image.Image) -> Image.Image:
    """A copy with the watermark; a plain copy below 256 pixels a side, or where the library is missing."""
    if min(image.size) < LEAST_SIDE or not can_watermark():
        return image.convert("RGB").copy()
    from imwatermark import WatermarkEncoder

    coded = WatermarkEncoder(MESSAGE).encode(np.asarray(image.convert("RGB"))[:, :, ::-1], METHOD)
    return Image.fromarray(np.ascontiguousarray(coded[:, :, ::-1]))


def has_watermark(image: Image.Image) -> bool:
    """Whether at least `ENOUGH_BITS` of the watermark's 48 bits are there.

    Raises ValueError where the library is missing, or the picture is too small to carry one.
    """
    if not can_watermark():
        raise ValueError("the watermark is read by invisible-watermark: pip install invisible-watermark")
    if min(image.size) < LEAST_SIDE:
        raise ValueError(f"the picture is {image.size}; only from {LEAST_SIDE} pixels a side is there one")
    from imwatermark import WatermarkDecoder

    bits = WatermarkDecoder("bits", 8 * len(MESSAGE)).decode(
        np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]), METHOD
    )
    own = np.unpackbits(np.frombuffer(MESSAGE, np.uint8)).astype(bool)
    return int((np.asarray(bits, bool) == own).sum()) >= ENOUGH_BITS
