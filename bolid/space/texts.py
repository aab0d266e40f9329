"""What the page says, and the ages that it states."""

from __future__ import annotations

KEPT = 3600  # seconds until uploads and results are deleted; the page says so
SWEPT = 600  # seconds between two sweeps for them
TAGLINE = "The same person, whole body, in any pose, from one picture."
FIRST_POSE = "standing"
PROMPTS = (
    "standing on a beach",
    "in the snow",
    "in a park",
    "in a city at night",
    "wearing a red hoodie",
)
NO_REFERENCE = "No reference yet: upload a picture, or pick an example person."
READY = "Ready."
WAITING = "Waiting for the model; others may be before you."
STOPPED = "Stopped."
NOT_DRAWN = "Not drawn: the message says why."
CONSENT = (
    "**Consent.** Use pictures of people only with their consent; never to deceive, harass or sexualise "
    "anyone, and never of children in such a way. Do not pass results off as photographs: every PNG says "
    "inside that it was generated, with its settings, {watermark}. "
    f"Uploads and results are deleted after {KEPT // 60} minutes."
)
WATERMARKED = "and from 256 pixels a side up it bears an invisible watermark"
UNMARKED = "but it bears no invisible watermark here"
AVATARS = (
    "**bolid-mini** draws avatars only, at {width} × {height} pixels; photographs need a model trained on "
    "them: `python app.py --model DIR_OR_HUB_ID`."
)
OTHER_MODEL = (
    "The example people can be drawn here. Photographs need a model trained on them, for example on SDXL: "
    "python app.py --model DIR_OR_HUB_ID"
)
