"""Estimators for photographs: conversions on known numbers, and public classes at tiny size, by path."""

from __future__ import annotations

import importlib.machinery
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_estimators as tiny
import tiny_faces
import torch
from tiny_pipelines import make_mini, make_reference

from bolid.avatars.world import sample_row
from bolid.estimators import catalogue, faces, joints, openpose, part_labels
from bolid.estimators.catalogue import CATALOGUE, MissingModel, find_weights
from bolid.estimators.choice import MiniEstimator, automatic, open_estimator
from bolid.estimators.networks import Boxes, VitPoseKeypoints
from bolid.estimators.parsing import PartFinder
from bolid.estimators.photo import Networks, PhotoEstimator
from bolid.pose import JOINTS, POSES, known

PICTURE = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny RT-DETR, ViTPose and SegFormer, each saved to a folder."""
    return tiny.all_three(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def photo(folders: dict[str, str]) -> PhotoEstimator:
    return PhotoEstimator(**folders)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model on this machine, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HOME", str(tmp_path))


# --- key-points


def test_coco_joints_take_their_places_among_openpose() -> None:
    """Each COCO joint i stands at (i, 10 i): the OpenPose joint of the same name must be found there."""
    names = [
        "nose",
        "eyeL",
        "eyeR",
        "earL",
        "earR",
        "shL",
        "shR",
        "elL",
        "elR",
        "wrL",
        "wrR",
        "hiL",
        "hiR",
        "knL",
        "knR",
        "anL",
        "anR",
    ]
    points = np.stack([np.arange(17.0), 10 * np.arange(17.0)], axis=1)
    found = joints.from_coco(points, np.full(17, 0.95), (200, 100))
    for joint, name in enumerate(JOINTS):
        index = 5.5 if name == "neck" else names.index(name)
        np.testing.assert_allclose(found[joint], (index / 100, index * 10 / 200, 1.0), rtol=1e-6)


def test_confidences_tell_seen_hidden_and_turned_away() -> None:
    scores = np.full(17, 0.35)
    found = joints.from_coco(np.ones((17, 2)), scores, (10, 10))
    body, face = found[[2, 3, 8]], found[[0, 14, 15, 16, 17]]
    assert ((body[:, 2] >= 0.3) & (body[:, 2] < 0.75)).all()  # hidden, but placed
    assert not face.any()  # a face joint that is not seen is unknown: the person looks away
    assert not joints.from_coco(np.ones((17, 2)), np.full(17, 0.1), (10, 10)).any()
    scores[5] = 0.1  # one shoulder unknown: no neck either
    assert not joints.from_coco(np.ones((17, 2)), scores, (10, 10))[1].any()
    with pytest.raises(ValueError, match=r"\[133, 2\].*trained on COCO bodies"):
        joints.from_coco(np.ones((133, 2)), np.ones(133), (10, 10))


def test_vitpose_heatmaps_come_out_where_they_peak(folders: dict[str, str]) -> None:
    """The real processor's way from heat-maps to the picture: a peak at a cell is at its place in the box."""
    network = VitPoseKeypoints.open(find_weights("keypoints", folders["keypoints"]))
    box = np.array([30.0, 10.0, 60.0, 50.0], np.float32)  # of 3:4, as the network's picture
    seen: dict[str, Any] = {}

    def peaks(_model: Any, _given: Any, output: Any) -> Any:
        heat = torch.zeros_like(output.heatmaps)
        rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
        heat[:] = 0.9 * torch.exp(-((rows - 7.5) ** 2 + (columns - 5.5) ** 2) / 8)  # the middle of the map
        seen["shape"] = tuple(output.heatmaps.shape)
        output.heatmaps = heat
        return output

    with network.model.register_forward_hook(peaks):
        found = network(PICTURE, box[None])
    assert seen["shape"] == (1, 17, 16, 12)
    np.testing.assert_allclose(found[0, :, 0] * 90, 45, atol=1.0)  # the box's middle
    np.testing.assert_allclose(found[0, :, 1] * 120, 30, atol=1.0)
    assert (found[0, :, 2] > 0.75).all()


def test_openpose_bodies_go_to_the_box_they_lie_in() -> None:
    left, right = POSES["standing"].copy(), POSES["standing"].copy()
    left[:, 0] = left[:, 0] * 0.5
    right[:, 0] = right[:, 0] * 0.5 + 0.5
    boxes = np.array([[50, 0, 100, 100], [0, 0, 50, 100], [0, 0, 3, 3]], np.float32)
    found = openpose.matched(np.stack([left, right]).astype(np.float32), boxes, (100, 100))
    np.testing.assert_allclose(found[0], right, rtol=1e-6)
    np.testing.assert_allclose(found[1], left, rtol=1e-6)
    assert not found[2].any()


def test_openpose_results_of_the_real_type() -> None:
    body = pytest.importorskip("controlnet_aux.open_pose.body")
    points: list[Any] = [None] * 18
    points[4] = body.Keypoint(x=0.25, y=0.75)
    found = joints.from_openpose(body.BodyResult(points, 1.0, 1))
    assert found[4].tolist() == [0.25, 0.75, 1.0]
    assert found.any(axis=1).sum() == 1
    # DWPose: 134 joints in pixels, of which the first 18 are the body
    places, scores = np.full((2, 134, 2), 30.0), np.full((2, 134), 0.9)
    np.testing.assert_allclose(
        joints.from_dwpose(places, scores, (60, 90))[1, 3], (1 / 3, 0.5, 1.0), rtol=1e-6
    )


@pytest.mark.slow
def test_openpose_of_controlnet_aux_runs(tmp_path: Path) -> None:
    """The real class with random weights (200 MB), read from a folder; who finds nobody gives zeros."""
    model = pytest.importorskip("controlnet_aux.open_pose.model")
    file = tmp_path / "annotator" / "ckpts" / "body_pose_model.pth"
    file.parent.mkdir(parents=True)
    state = model.bodypose_model().state_dict()
    # CMU's file names the layers without their blocks
    torch.save({".".join(name.split(".")[1:]): tensor for name, tensor in state.items()}, file)
    weights = catalogue.Weights(
        "openpose", "keypoints", str(tmp_path), 209, "", find_weights("keypoints", "openpose").files
    )
    network = openpose.OpenPoseKeypoints.open(weights)
    assert network(PICTURE, np.array([[0, 0, 90, 120]], np.float32)).shape == (1, 18, 3)


# --- parts


@pytest.mark.parametrize(
    ("label", "kind"),
    [("Upper-clothes", 2), ("Left-leg", 3), ("left_upper_leg", 3), ("Left_Lower_Arm", 2), ("Sunglasses", 1),
     ("Face_Neck", 1), ("Right-shoe", 4), ("sock", 4), ("dresses_only_torso_region", 2), ("Dress", 5),
     ("headband, head covering, hair accessory", 1), ("top, t-shirt, sweatshirt", 2), ("Bag", 2),
     ("person", 6), ("tights, stockings", 3), ("Background", None), ("bicycle", None), ("plant", None)],
)  # fmt: skip
def test_class_names_become_parts(label: str, kind: int | None) -> None:
    assert part_labels.kind_of(label) == kind


def test_a_silhouette_is_divided_by_the_limbs() -> None:
    """Exact silhouettes of avatars against their exact parts; long hair and boots are where bones mislead."""
    by_limbs, by_height = [], []
    for seed in range(12):
        row = sample_row(seed, "validation")
        truth, body = row["masks"], row["masks"] > 0
        kinds = np.where(body, part_labels.PERSON, 0).astype(np.uint8)
        parts = part_labels.divide(kinds, known(row["keypoints"]))
        assert np.array_equal(parts > 0, body)
        by_limbs.append((parts == truth)[body].mean())
        by_height.append((part_labels.divide(kinds, np.zeros((18, 3), np.float32)) == truth)[body].mean())
    assert np.mean(by_limbs) > 0.84
    assert np.mean(by_height) > 0.65


def test_a_dress_is_divided_at_the_hips() -> None:
    kinds = np.zeros((100, 10), np.uint8)
    kinds[20:80] = part_labels.DRESS
    points = np.zeros((18, 3), np.float32)
    assert (part_labels.divide(kinds, points)[20:43] == part_labels.UPPER).all()
    points[8] = points[11] = (0.5, 0.6, 1)
    parts = part_labels.divide(kinds, points)
    assert (parts[20:60] == part_labels.UPPER).all()
    assert (parts[60:80] == part_labels.LOWER).all()


def test_segmenters_that_know_no_person_are_refused(tmp_path: Path) -> None:
    weights = find_weights("parts", tiny.parts(tmp_path, ("wall", "sky", "tree")))
    with pytest.raises(ValueError, match=r"classes \(wall, sky, tree, ...\) are no parts of a person; give"):
        PartFinder.open(weights)


def test_parts_are_looked_for_around_the_person_only(folders: dict[str, str]) -> None:
    network = PartFinder.open(find_weights("parts", folders["parts"]))
    box = np.array([20, 30, 60, 90], np.float32)
    parts = network(PICTURE, box, POSES["standing"])
    outside = np.ones(parts.shape, bool)
    outside[24:96, 14:66] = False  # the box and its margin of a tenth
    assert not parts[outside].any()
    assert parts.shape == PICTURE.shape[:2]
    # what the network says of the crop is what stands there
    crop = network.table[network.classes(np.ascontiguousarray(PICTURE[24:96, 14:66]))]
    told = crop <= 4
    assert np.array_equal(parts[24:96, 14:66][told], crop[told])


def test_a_universal_segmenter_of_persons(tmp_path: Path) -> None:
    network = PartFinder.open(find_weights("parts", tiny.silhouettes(tmp_path)))
    assert network.table.tolist() == [part_labels.PERSON, 0]
    network.table = np.array([0, part_labels.PERSON], np.uint8)  # random weights see the second class
    parts = network(PICTURE, np.array([0, 0, 90, 120], np.float32), POSES["standing"])
    assert parts.shape == (120, 90)


# --- faces


def test_insightface_faces_of_the_real_type() -> None:
    face_type = pytest.importorskip("insightface.app.common").Face
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, 512)).astype(np.float32) * 20
    points = np.arange(10.0).reshape(5, 2)
    found = faces.faces_of(
        [
            face_type(bbox=np.array([1.0, 1, 11, 11]), det_score=0.9, kps=points, embedding=embeddings[0]),
            face_type(bbox=np.array([1.0, 1, 41, 41]), det_score=0.8, kps=points, embedding=embeddings[1]),
            face_type(
                bbox=np.array([0.0, 0, 90, 90]), det_score=0.7
            ),  # rejected by insightface: no embedding
        ],
        scale=0.5,
    )
    assert [face.score for face in found] == [0.8, 0.9]  # the largest first
    np.testing.assert_array_equal(found[0].embedding, embeddings[1])  # not normalised
    np.testing.assert_allclose(np.linalg.norm(found[0].normalised), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0].box, (2, 2, 82, 82))  # of the picture before it was shrunk
    np.testing.assert_allclose(found[0].points, 2 * points)


def test_the_licence_is_said_once_when_insightface_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package, whose models cannot be had here."""
    asked: dict[str, Any] = {}

    class FaceAnalysis:
        def __init__(self, name: str, **options: Any) -> None:
            asked.update(options, name=name)

        def prepare(self, **options: Any) -> None:
            asked.update(options)

        def get(self, _: np.ndarray) -> list[Any]:
            return []

    for name in ("insightface", "insightface.app", "onnxruntime"):
        stand_in: Any = types.ModuleType(name)
        stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stand_in.FaceAnalysis = FaceAnalysis
        monkeypatch.setitem(sys.modules, name, stand_in)
    (tmp_path / "det_10g.onnx").write_bytes(b"")
    networks = Networks()
    with pytest.warns(UserWarning, match="non-commercial research only; use face='opencv-face'"):
        first = networks.get("face", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert networks.get("face", str(tmp_path)) is first
    assert first(PICTURE) == []
    assert asked["name"] == str(tmp_path)
    assert asked["det_size"] == (640, 640)
    assert asked["allowed_modules"] == ["detection", "recognition"]


def test_yunet_rows() -> None:
    rows = np.zeros((2, 15), np.float32)
    rows[:, :4] = [[5, 6, 10, 10], [50, 60, 30, 40]]
    assert [faces.box_of(row).tolist() for row in faces.by_size(rows)] == [[50, 60, 80, 100], [5, 6, 15, 16]]
    assert faces.by_size(None) == []
    rows[0, 4:14] = np.arange(10)
    assert faces.points_of(rows[0]).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    small, scale = faces.shrunk(np.zeros((3200, 1000, 3), np.uint8))
    assert small.shape == (1600, 500, 3)
    assert scale == 0.5


def test_opencvs_faces_from_picture_to_embedding() -> None:
    """The permissive alternative by OpenCV's own classes on tiny networks: colours and places."""
    weights = catalogue.Weights("opencv-face", "face", str(tiny_faces.FOLDER), 0, "")
    network = faces.OpenCvFaces.open(weights)
    picture = np.zeros((64, 96, 3), np.uint8)
    assert network(picture) == []
    picture[16:24, 40:48] = (255, 128, 0)
    (found,) = network(picture)
    side = 8 * np.exp(tiny_faces.SIDE)
    np.testing.assert_allclose(
        found.box, (40 - side / 2, 16 - side / 2, 40 + side / 2, 16 + side / 2), rtol=1e-5
    )
    np.testing.assert_allclose(found.points[[0, 2, 4]], [[32, 8], [40, 16], [48, 24]])
    assert found.embedding.shape == (network.width,) == (128,)
    red, green, blue = found.embedding[:3]
    assert red > green > blue == 0
    assert np.linalg.norm(found.embedding) > 1.1  # as the network gives it
    large = np.kron(picture, np.ones((25, 25, 1), np.uint8))  # 2400 pixels a side are looked at as 1600
    np.testing.assert_allclose(network(large)[0].box.mean(), found.box.mean() * 25, rtol=0.2)


def test_files_that_are_no_face_model(tmp_path: Path) -> None:
    for _, file in catalogue.OPENCV_FACE_FILES:
        (tmp_path / file).write_bytes(b"not a network")
    with pytest.raises(
        ValueError, match=r"no model that OpenCV .* reads; fetch them again: hf download opencv"
    ):
        faces.OpenCvFaces.open(
            catalogue.Weights(
                "opencv-face", "face", str(tmp_path), 0, "", fetch=find_weights("face", "opencv-face").fetch
            )
        )


# --- vision encoders


@pytest.mark.parametrize("kind", ["clip", "dinov2", "siglip"])
def test_vision_encoders_give_one_feature_per_patch(tmp_path: Path, kind: str) -> None:
    encoder = Networks().get("vision", str(tiny.vision(tmp_path, kind)))
    pictures = torch.rand(2, 3, encoder.size, encoder.size) * 2 - 1
    patches = encoder.patches(pictures)
    assert patches.shape == (2, 4, 16)  # 28 x 28 pixels in patches of 14; no class token
    torch.testing.assert_close(encoder.patches(pictures[1:])[0], patches[1])


# --- together


def test_predict_has_the_mini_estimators_form(photo: PhotoEstimator) -> None:
    both = photo.predict(np.stack([PICTURE, PICTURE[:, ::-1]]))
    assert both.keypoints.shape == (2, 18, 3)
    assert both.parts.shape == (2, 120, 90)
    assert both.parts.dtype == np.uint8
    assert both.keypoints.dtype == both.person.dtype == np.float32
    assert both.person.min() > 0.9
    single = photo.predict(PICTURE)
    np.testing.assert_array_equal(single.keypoints[0], both.keypoints[0])
    np.testing.assert_array_equal(single.parts[0], both.parts[0])
    with pytest.raises(ValueError, match=r"uint8 RGB .* got float32 \[120, 90\]"):
        photo.predict(np.zeros((120, 90), np.float32))


def test_nobody_in_the_picture(tmp_path: Path, folders: dict[str, str]) -> None:
    nobody = PhotoEstimator(**{**folders, "people": str(tiny.people(tmp_path, sure=False))})
    estimate = nobody.predict(PICTURE)
    assert estimate.person.tolist() == [0.0]
    assert not estimate.keypoints.any()
    assert not estimate.parts.any()


def test_a_detector_without_persons_is_refused(tmp_path: Path) -> None:
    estimator = PhotoEstimator(people=str(tiny.people(tmp_path, names=("cat", "dog"))))
    with pytest.raises(ValueError, match=r"\(cat, dog, ...\) hold no person; give one"):
        estimator.people(PICTURE)


def test_vitpose_with_experts(tmp_path: Path) -> None:
    network = Networks().get("keypoints", str(tiny.keypoints(tmp_path, experts=2)))
    boxes = np.array([[0, 0, 40, 60], [10, 10, 80, 110]], np.float32)
    assert network(PICTURE, boxes).shape == (2, 18, 3)
    assert network(PICTURE, boxes[:0]).shape == (0, 18, 3)


def test_networks_are_opened_once_whoever_asks(folders: dict[str, str]) -> None:
    networks, found = Networks(), []
    ask = [
        threading.Thread(target=lambda: found.append(networks.get("keypoints", folders["keypoints"])))
        for _ in range(4)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1
    assert (
        Networks().get("keypoints", folders["keypoints"]) is not found[0]
    )  # nothing is shared behind one's back


def test_it_is_a_component_that_saves_its_names(
    photo: PhotoEstimator, folders: dict[str, str], tmp_path: Path
) -> None:
    photo.save_pretrained(tmp_path / "estimator", safe_serialization=True)
    assert [path.name for path in (tmp_path / "estimator").iterdir()] == ["config.json"]
    again = PhotoEstimator.from_pretrained(tmp_path / "estimator", dtype=torch.float16)
    assert again.sources == folders


def test_an_adapters_folder_keeps_the_kind_of_its_estimator(
    photo: PhotoEstimator, tmp_path: Path, mini: Any
) -> None:
    from bolid import BoLIDPipeline

    pipe = BoLIDPipeline(**{**mini.components, "estimator": photo})
    pipe.save_bolid_adapter(tmp_path)
    pipe.load_bolid_adapter(tmp_path)
    assert isinstance(pipe.estimator, PhotoEstimator)
    assert pipe.estimator.sources == photo.sources


def test_a_pipeline_takes_a_photograph_by_it(photo: PhotoEstimator, tmp_path: Path, xl: Any) -> None:
    """The seam: find_person, encode_identity and a picture, with a real estimator in the pipeline's place."""
    from bolid import BoLIDXLPipeline

    pipe = BoLIDXLPipeline(**{**xl.components, "estimator": Lenient(photo)})
    found = pipe.find_person(PICTURE)
    assert found.parts.shape == pipe.picture_size
    picture = pipe(
        "on a beach", PICTURE, pose="sitting", num_inference_steps=2, generator=0, output_type="np"
    ).images
    assert np.isfinite(picture).all()
    plain = BoLIDXLPipeline(**{**xl.components, "estimator": photo})
    plain.to("cpu", torch.float32)
    plain.save_pretrained(tmp_path / "pipe")
    opened = BoLIDXLPipeline.from_pretrained(tmp_path / "pipe")
    assert isinstance(opened.estimator, PhotoEstimator)
    assert opened.estimator.sources == photo.sources


class Lenient(PhotoEstimator):
    """Random networks place few joints; for the way through the pipeline any will do."""

    def __init__(self, inner: PhotoEstimator) -> None:
        super().__init__(**inner.sources)

    def look(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, parts = super().look(image, box)
        parts[40:80, 30:60] = 2
        return POSES["standing"].copy(), parts


# --- what is not there


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", [weights.name for weights in CATALOGUE if weights.name != "dwpose"])
def test_a_missing_model_is_named_with_its_size_and_command(name: str) -> None:
    weights = next(weights for weights in CATALOGUE if weights.name == name)
    for package in weights.packages:
        pytest.importorskip(package)
    with pytest.raises(MissingModel) as raised:
        Networks().get(weights.task, name)
    told = str(raised.value)
    assert weights.repo in told
    assert f"about {weights.megabytes} MB" in told
    assert f"run `{weights.command}`" in told
    assert weights.licence in told


@pytest.mark.usefixtures("empty_cache")
def test_a_missing_package_is_told_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingModel, match=r"dwpose needs .*mim install mmcv mmdet mmpose"):
        Networks().get("keypoints", "dwpose")
    monkeypatch.setitem(sys.modules, "insightface", None)
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        MissingModel, match="insightface needs insightface, onnxruntime: pip install insightface onnx"
    ):
        Networks().get("face", "insightface")


def test_scipy_is_told_before_transformers_fails(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for models by folder: which of them need it, the catalogue does not know."""
    tiny.hide("scipy", monkeypatch)
    sources: tuple[tuple[Any, str], ...] = (
        ("keypoints", "vitpose"),
        ("keypoints", folders["keypoints"]),
        ("parts", str(tiny.silhouettes(tmp_path))),
    )
    for task, source in sources:
        with pytest.raises(MissingModel, match="needs scipy: pip install scipy"):
            Networks().get(task, source)
    Networks().get("people", folders["people"])
    Networks().get("parts", folders["parts"])
    assert "vitpose" not in automatic()[1].values()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"keypoints='vitpos' .* Did you mean 'vitpose'\? Names: vitpose, openpose"
    ):
        PhotoEstimator(keypoints="vitpos")
    with pytest.raises(ValueError, match="estimators='best': choose one of auto, photo, mini"):
        open_estimator("best")
    with pytest.raises(ValueError, match="estimators='mini' has no parts to choose"):
        open_estimator("mini", parts="segformer-clothes")


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "rt_detr"}')
    with pytest.raises(
        ValueError, match=r"cannot be opened as a people model .*; give a folder with config.json"
    ):
        Networks().get("people", str(tmp_path))


@pytest.mark.usefixtures("empty_cache")
def test_auto_takes_the_mini_estimator_when_nothing_else_is_there() -> None:
    assert automatic() == ("mini", {})
    assert isinstance(open_estimator("auto"), MiniEstimator)


def test_auto_takes_models_that_are_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for repo in (
        "PekingU/rtdetr_r50vd_coco_o365",
        "usyd-community/vitpose-base-simple",
        "mattmdjaga/segformer_b2_clothes",
    ):
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (folder / "snapshots" / "abc" / file).write_bytes(b"")
    assert automatic() == (
        "photo",
        {"people": "rtdetr", "keypoints": "vitpose", "parts": "segformer-clothes"},
    )


def test_the_mini_estimator_boxes_its_person() -> None:
    pipe = make_mini()
    torch.nn.init.constant_(pipe.estimator.person.bias, 50.0)
    mini = MiniEstimator(pipe.estimator)
    boxes = mini.people(make_reference().image)
    assert len(boxes) == 1
    keypoints, parts = mini.look(make_reference().image, boxes.xyxy[0])
    assert keypoints.shape == (18, 3)
    assert parts.shape == make_reference().parts.shape
    torch.nn.init.constant_(pipe.estimator.person.bias, -50.0)
    assert len(mini.people(make_reference().image)) == 0


def test_boxes_are_clipped_and_ordered_by_prominence() -> None:
    given = np.array([[0, 0, 10, 10], [-20, -20, 50, 90], [200, 200, 300, 300]], np.float32)
    boxes = Boxes.ordered(given, np.array([0.99, 0.6, 0.9]), (80, 60))
    assert boxes.xyxy.tolist() == [[0, 0, 50, 80], [0, 0, 10, 10]]
    np.testing.assert_allclose(boxes.scores, (0.6, 0.99))
