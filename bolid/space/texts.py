"""What the page says, and the ages that it states."""

from __future__ import annotations

KEPT = 3600  # seconds until uploads and results are deleted; the page says so
SWEPT = 600  # seconds between two sweeps for them
FIRST_POSE = "standing"
PROMPTS = (
    "standing on a beach",
    "in the snow",
    "in a park",
    "in a city at night",
    "wearing a red hoodie",
)
CONSENT = (
    "Use pictures of people only with their consent, and do not pass results off as photographs. Uploads "
    f"and results are deleted after {KEPT // 60} minutes; every downloaded PNG says that it was generated."
)
AVATARS = (
    "This is **bolid-mini**: it draws avatars only, at {width} × {height} pixels. Photographs need a model "
    "trained on them: `python app.py --model DIR_OR_HUB_ID`."
)
