"""Official checkpoints of IP-Adapter, InstantID and PuLID on BoLID's attention.

    baseline = load_baseline("ip-adapter-plus_sd15.safetensors", pipe.unet)
    baseline.attach(pipe.unet)
    features = Features(patches=encoder(pixels, output_hidden_states=True).hidden_states[-2])
    zero_pixels = encoder(0 * pixels, output_hidden_states=True).hidden_states[-2]
    negative = baseline.conditions(baseline.negative(features, zero_pixels))
    conditions = Conditions.cat(negative, baseline.conditions(baseline.tokens(features)))
    pipe(prompt, cross_attention_kwargs=conditions.kwargs())

`METHODS` says per method which features, which convention, which negative half and which strength.
"""

from .baseline import Baseline, build_baseline, load_baseline
from .checkpoint import read_checkpoint, split_checkpoint
from .export import export_ip_adapter_plus
from .face_control import draw_face_points, listening_to
from .records import METHODS, Features, Method

__all__ = [
    "METHODS",
    "Baseline",
    "Features",
    "Method",
    "build_baseline",
    "draw_face_points",
    "export_ip_adapter_plus",
    "listening_to",
    "load_baseline",
    "read_checkpoint",
    "split_checkpoint",
]
