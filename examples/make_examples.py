"""Draw the example pictures: `python examples/make_examples.py`. All show people of the test split."""

from pathlib import Path

from PIL import Image

from bolid.avatars.world import sample_row
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


def save(picture, name: str) -> None:
    """Write uint8 [H, W, 3] as examples/<name>.png."""
    path = FOLDER / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)


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


if __name__ == "__main__":
    main()
