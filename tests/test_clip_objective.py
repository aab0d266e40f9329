from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from bolid.avatars.identity import ATTRIBUTES
from bolid.evaluators import Projections
from bolid.training.objectives.clip import PART_ATTRIBUTES, ClipObjective, ClipOptions, class_loss
from bolid.training.tokenizer import train_tokenizer

CAPTIONS = ["a woman in a red dress, walking on the beach", "a man in blue trousers, sitting in a park"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, directory, vocab_size=600)
    return directory


@pytest.fixture(scope="module")
def objective(folder: Path) -> ClipObjective:
    torch.manual_seed(0)
    options = ClipOptions(
        tokenizer=str(folder),
        image_size=16,
        vision_width=16,
        vision_layers=2,
        vision_heads=2,
        text_width=16,
        text_layers=1,
        text_heads=2,
        embedding=8,
        crop_rows=0.5,
    )
    return ClipObjective(options, scenes=8, families=12, views=3)


def make_batch(tokenizer: CLIPTokenizer, size: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    encoded = tokenizer(CAPTIONS[:size], padding="max_length", truncation=True, return_tensors="pt")
    batch = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
    for prefix, picture in (("", "image"), ("reference_", "reference")):
        batch[picture] = torch.rand(size, 3, 48, 32, generator=generator) * 2 - 1
        masks = torch.zeros(size, 48, 32, dtype=torch.uint8)
        for label in range(1, 5):
            masks[:, 10 * label : 10 * label + 8, 8:24] = label
        batch[f"{prefix}masks"] = masks
        batch[f"{prefix}visible"] = torch.rand(size, len(ATTRIBUTES), generator=generator) > 0.3
    columns = [torch.randint(len(v), (size,), generator=generator) for v in ATTRIBUTES.values()]
    batch["labels"] = torch.stack(columns, 1)
    for name, count in (("scene", 8), ("pose_family", 12), ("view", 3)):
        batch[name] = torch.randint(count, (size,), generator=generator)
    return batch


def test_tokenizer_loads_offline_and_knows_every_text(folder: Path) -> None:
    for loaded in (AutoTokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)):
        assert isinstance(loaded, CLIPTokenizer)
        assert loaded.model_max_length == 64
        assert loaded.pad_token_id == loaded.eos_token_id == len(loaded) - 1
        assert loaded.eos_token_id != 2  # CLIPTextModel would pool by another rule
        for text in ("a woman on the beach", "Zoë's Ärmel, 日本 #7!"):
            ids = loaded(text).input_ids
            assert ids.count(loaded.eos_token_id) == 1  # the end, and nothing unknown
            assert loaded.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(
                " ", ""
            )
        long = loaded("walking " * 100, truncation=True, padding="max_length").input_ids
        assert len(long) == 64
        assert long[-1] == loaded.eos_token_id


def test_tokenizer_learns_words(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert len(tokenizer(CAPTIONS[0]).input_ids) < len(CAPTIONS[0]) / 3


def test_tokenizer_refuses_too_small_a_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="600 or more"):
        train_tokenizer(CAPTIONS, tmp_path, vocab_size=500)


def test_text_is_pooled_at_its_first_end_token(objective: ClipObjective) -> None:
    text, tokenizer = objective.clip.text_model, objective.tokenizer
    short = tokenizer("a woman", return_tensors="pt").input_ids
    padded = tokenizer("a woman", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        alone, among = text(input_ids=short), text(input_ids=padded)
    torch.testing.assert_close(alone.pooler_output, alone.last_hidden_state[:, -1])
    torch.testing.assert_close(alone.pooler_output, among.pooler_output, rtol=0, atol=1e-5)


def test_every_attribute_is_read_from_some_part() -> None:
    assert {name for names in PART_ATTRIBUTES.values() for name in names} == set(ATTRIBUTES)


def test_objective_trains_everything_and_learns(objective: ClipObjective) -> None:
    torch.manual_seed(0)
    batch = make_batch(objective.tokenizer)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    history = []
    for step in range(10):
        losses = objective(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            missing = {n for n, p in objective.named_parameters() if p.grad is None}
            assert missing == set()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert np.mean(history[-3:]) < np.mean(history[:3])
    figures = objective.evaluate(batch)
    assert {"recall_at_1", "scene", "pose_family", "view", "attributes"} <= figures.keys()
    assert np.isfinite(list(figures.values())).all()


def test_exports_load_as_stock_classes_with_the_same_weights(
    objective: ClipObjective, tmp_path: Path
) -> None:
    classes = {
        "clip": CLIPModel,
        "text_encoder": CLIPTextModel,
        "image_encoder": CLIPVisionModel,
        "projections": Projections,
    }
    assert objective.models.keys() == classes.keys()
    for name, model in objective.models.items():
        model.save_pretrained(tmp_path / name)
    loaded = {name: cls.from_pretrained(tmp_path / name).eval() for name, cls in classes.items()}
    ids = objective.tokenizer(CAPTIONS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        expected = objective.clip.text_model(input_ids=ids).pooler_output
        for text in (loaded["clip"].text_model, loaded["text_encoder"]):
            torch.testing.assert_close(text(input_ids=ids).pooler_output, expected, rtol=0, atol=1e-5)
        pixels = torch.rand(1, 3, 16, 16)
        expected = objective.clip.vision_model(pixel_values=pixels).pooler_output
        for vision in (loaded["clip"].vision_model, loaded["image_encoder"]):
            torch.testing.assert_close(vision(pixel_values=pixels).pooler_output, expected, rtol=0, atol=1e-5)
        projected = objective.clip.visual_projection(expected)
        torch.testing.assert_close(loaded["projections"].picture(expected), projected, rtol=0, atol=1e-5)


def test_class_loss_counts_only_the_rows_it_is_told_to() -> None:
    logits, labels = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])
    loss, right = class_loss(logits, labels, torch.tensor([True, False]))
    assert loss < 0.01
    assert right == 1
    assert class_loss(logits, labels, torch.tensor([False, False]))[0] == 0
