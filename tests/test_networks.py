"""The standard networks behind the interface of all: real classes at tiny size, and what is said of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_estimators import keypoints
from tiny_objective import save_loss_networks

from bolid.estimators.catalogue import find_weights
from bolid.estimators.photo import network_class
from bolid.evaluation.figures import further_figures, picture_figures
from bolid.evaluation.networks import StandardEvaluators
from bolid.evaluation.pairs import Pairs, held_out_pairs
from bolid.evaluation.provenance import load_evaluators
from bolid.evaluation.standard import open_lpips
from bolid.training.objectives.loss_networks import AppearanceNetwork, load_loss_networks

HEIGHT, WIDTH, COUNT = 96, 64, 4


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return held_out_pairs(COUNT, HEIGHT, WIDTH, processes=1)


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> StandardEvaluators:
    """ViTPose, DINOv2 and CLIP of transformers at tiny size, torch modules for Inception and LPIPS."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    weights = find_weights("keypoints", str(keypoints(folder / "pose")))
    tower = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    text_image = load_loss_networks(save_loss_networks(folder / "loss"), ["text_image"])["text_image"]
    shrink = torch.nn.AdaptiveAvgPool2d(2)

    def face(picture: np.ndarray) -> list[SimpleNamespace]:
        """A face in the pictures whose corner is bright."""
        return [SimpleNamespace(embedding=np.arange(1.0, 5.0))] if picture[0, 0].mean() > 100 else []

    return StandardEvaluators(
        network_class(weights).open(weights),
        face,
        AppearanceNetwork(Dinov2Model(tower).eval()),
        lambda pictures: shrink(pictures.float()).flatten(1),
        lambda a, b: (a - b).abs().mean(1, keepdim=True),
        text_image,
        {"FID": "tiny"},
    )


def test_the_standard_set_reads_what_the_mini_set_reads(standard: StandardEvaluators, pairs: Pairs) -> None:
    points, reading = standard.read(pairs.image)
    assert points.shape == (COUNT, 18, 3)
    assert reading.body.shape == (COUNT, 16)
    np.testing.assert_allclose(np.linalg.norm(reading.body, axis=1), 1, atol=1e-5)
    assert reading.features.shape == (COUNT, 12)
    assert reading.face is not None
    assert (np.isfinite(reading.head).all(1) == reading.face).all()


def test_figures_of_the_standard_set_leave_out_what_it_cannot_name(
    standard: StandardEvaluators, pairs: Pairs
) -> None:
    seen, reference = standard.read(pairs.image), standard.read(pairs.reference)[1]
    found = picture_figures(pairs.image, pairs, standard, seen, reference)
    found |= further_figures(pairs.image, pairs, standard, seen, reference, seen[1])
    assert found["lpips"] == pytest.approx(0)
    assert np.isnan(found["attributes"]).all()
    assert np.isfinite(found["clip"]).all()
    assert (np.abs(found["clip"]) <= 1).all()
    worse = further_figures(255 - pairs.image, pairs, standard, seen, reference, seen[1])
    assert (worse["lpips"] > 0.1).all()


def test_faces_are_compared_only_where_they_are_seen(standard: StandardEvaluators, pairs: Pairs) -> None:
    bright, dark = np.full_like(pairs.image, 200), np.zeros_like(pairs.image)
    one, other = standard.read(bright), standard.read(dark)
    shown = further_figures(bright, pairs, standard, one, one[1], one[1])
    assert shown["face_seen"] == pytest.approx(1)
    assert shown["face_similarity"] == pytest.approx(1)
    lost = further_figures(dark, pairs, standard, other, one[1], one[1])
    assert lost["face_seen"] == pytest.approx(0)  # the detection rate falls, the similarity is not measured
    assert np.isnan(lost["face_similarity"]).all()
    hidden = further_figures(bright, pairs, standard, one, one[1], other[1])
    assert np.isnan(hidden["face_seen"]).all()  # the truth shows no face: nothing to find


def test_a_score_says_which_set_it_is_of(standard: StandardEvaluators) -> None:
    mini = load_evaluators(str(Path(__file__).parents[1] / "models" / "evaluators"), "cpu")
    assert (mini.kind, standard.kind) == ("mini", "standard")
    told = mini.signatures()
    assert {"FID", "KID", "LPIPS", "ID_sim", "face", "PCK, OKS-AP", "CLIP score"} <= set(told)
    assert set(mini.weights) == {"pose", "appearance", "attributes", "head", "text_image"}
    by = {"PCK, OKS-AP": "pose", "FID": "appearance", "attributes": "attributes", "CLIP score": "text_image"}
    for score, name in by.items():
        assert [n for n, weights in mini.weights.items() if weights in told[score]] == [name]
    assert mini.weights["head"] in told["face"]
    assert mini.weights["appearance"] in replace(mini, head=None).signatures()["face"]
    without = replace(mini, text_image=None)
    assert np.isnan(without.text_similarity(np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"])).all()
    assert "CLIP score" not in without.signatures()


def test_a_clip_beside_the_mini_evaluators_gives_the_clip_score(tmp_path: Path, pairs: Pairs) -> None:
    from test_comparison import save_evaluators

    save_evaluators(tmp_path)
    save_loss_networks(tmp_path / "loss")
    (tmp_path / "loss" / "text_image").rename(tmp_path / "text_image")
    mini = load_evaluators(str(tmp_path), "cpu")
    assert np.isfinite(mini.text_similarity(pairs.image, list(pairs.prompt))).all()
    assert "CLIP score" in mini.signatures()


def test_lpips_of_its_library_fits_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own network with an untrained backbone: nothing is downloaded."""
    pytest.importorskip("lpips")
    network, note = open_lpips("cpu", random=True)
    x = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        assert network(x, -x).shape == (2, 1, 64, 48)
        assert not network(x, x).any()
    assert note.startswith("lpips ")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips"):
        open_lpips("cpu")
