"""Draw the example pictures: `python examples/make_examples.py`. All show people of the test split."""

from pathlib import Path

import numpy as np
from PIL import Image

from bolid.avatars.caption import caption
from bolid.avatars.poses import sample_angles
from bolid.avatars.render import render
from bolid.avatars.world import plan_row, sample_row
from bolid.pose import known, skeleton_map

FOLDER = Path(__file__).parent
PEOPLE = {  # file -> row of the test split whose reference picture it is
    "dots": 30,
    "star": 21,
    "cap": 116,
    "long-skirt": 61,
    "afro": 63,
    "plaid": 104,
    "sitting": 42,
    "side-view": 108,
}
POSES = {"jumping": 1172, "sitting-from-the-side": 1294, "kneeling": 1088, "walking-from-behind": 1000}
SKELETON = ("running-skeleton", 1136)
SCENE = ("night-city", 70)  # the place of that row's reference, as an image prompt
PHOTOS = {"adam": 12, "ben": 34, "cleo": 56}  # person of examples/photos -> row whose identity it is
SHOTS = (  # pose family, view and scene of each of their pictures
    ("standing", "front", "studio"),
    ("walking", "side", "park"),
    ("sitting on a chair", "front", "room"),
    ("waving", "front", "beach"),
)


def save(picture, name: str) -> None:
    """Write uint8 [H, W, 3] as examples/<name>.png."""
    path = FOLDER / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)


def photograph(person: str, seed: int) -> None:
    """A person's pictures for train/prepare.py, with captions: in .txt files, or (cleo) in metadata.csv."""
    identity, captions = plan_row(seed, "test").identity, []
    for number, (family, view, scene) in enumerate(SHOTS, start=1):
        rng = np.random.default_rng([seed, number])
        angles = sample_angles(rng, family, view)
        drawn = render(identity, angles, scene, rng)
        save(drawn.image, f"photos/{person}/{number}")
        captions.append(caption(identity, angles, scene, rng, drawn.visible))
    folder = FOLDER / "photos" / person
    if person == "cleo":
        lines = [f'{number}.png,"{text}"\n' for number, text in enumerate(captions, start=1)]
        (folder / "metadata.csv").write_text("file_name,caption\n" + "".join(lines))
    else:
        for number, text in enumerate(captions, start=1):
            (folder / f"{number}.txt").write_text(text + "\n")


def main() -> None:
    for name, seed in PEOPLE.items():
        save(sample_row(seed, "test")["reference"], f"people/{name}")
    save(sample_row(PEOPLE["dots"], "test")["reference"], "reference")
    for name, seed in POSES.items():
        save(sample_row(seed, "test")["image"], f"poses/{name}")
    name, seed = SKELETON
    keypoints = known(sample_row(seed, "test")["keypoints"][None])
    save(skeleton_map(keypoints, 192, 128)[0], f"poses/{name}")
    name, seed = SCENE
    save(sample_row(seed, "test")["reference"], f"scenes/{name}")
    for person, seed in PHOTOS.items():
        photograph(person, seed)


if __name__ == "__main__":
    main()
