"""What one preparation was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Several = Literal["reject", "largest"]
PictureFormat = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Settings:
    """Every choice that shapes the rows; written beside them, and compared when a run is resumed."""

    source: str  # folder of pictures, saved dataset, or Hub id
    height: int = 768  # px of the rows' pictures, a multiple of 8
    width: int = 512  # px, a multiple of 8
    estimators: str = "auto"  # auto, photo or mini (bolid.estimators.choice)
    people: str | None = None  # detector: name, Hub id or folder
    keypoints: str | None = None  # key-point model, likewise
    parts: str | None = None  # segmentation model, likewise
    face: str | None = None  # face model; None: no embeddings
    captioner: str | None = None  # captioning model; None: the template
    caption_template: str = "a photo of a person"  # where no caption was given; {person} is the person's id
    min_person: int = 0  # px a person must be high in the source; 0: half the rows' height
    several: Several = "reject"  # pictures that show two people: reject, or take the largest
    pairs_per_picture: int = 1  # rows a picture is the target of
    picture_format: PictureFormat = "jpeg"  # jpeg (quality 95) or png (lossless)
    rows_per_shard: int = 500  # rows of one parquet file
    split: str = "train"  # split of a dataset
    image_column: str | None = None  # of a dataset; None: image
    person_column: str | None = None  # of a dataset; None: person, person_id, identity, or one person for all
    caption_column: str | None = None  # of a dataset; None: caption or text, where there is one
    mini: str | None = None  # folder of another mini estimator
    seed: int = 0  # of the pairing

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 64 or value % 8:
                raise ValueError(f"{name} is {value}; it must be a multiple of 8 from 64 on, for example 512")
        for name in ("pairs_per_picture", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.min_person < 0:
            raise ValueError(
                f"min_person is {self.min_person}; it must be 0 (half the height) or more pixels"
            )
        try:
            self.caption_template.format(person="someone")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"caption_template {self.caption_template!r} cannot be filled in ({error}); "
                "only {person} may stand in braces"
            ) from error

    @property
    def least_height(self) -> int:
        """Pixels a person must be high in the source picture."""
        return self.min_person or self.height // 2
