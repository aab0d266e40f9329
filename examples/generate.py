"""One person in four poses: `python examples/generate.py` writes examples/generated.png."""

from pathlib import Path

from PIL import Image

from bolid import BoLIDPipeline

HERE = Path(__file__).parent
POSES = ("standing", "sitting", "lying", "standing from behind")

pipe = BoLIDPipeline.from_pretrained(HERE.parent / "models" / "bolid-mini")
person = pipe.encode_identity(HERE / "reference.png")
pictures = [pipe("in a park", person, pose=pose, generator=7).images[0] for pose in POSES]

strip = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
for index, picture in enumerate(pictures):
    strip.paste(picture, (index * picture.width, 0))
strip.save(HERE / "generated.png")
print(HERE / "generated.png")
