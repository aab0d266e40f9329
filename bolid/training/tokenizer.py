"""A small CLIP tokenizer of our own: byte-level BPE trained on captions, any text can be written in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
MAX_LENGTH = 64  # tokens of a prompt, start and end included


def train_tokenizer(
    captions: Iterable[str], directory: str | Path, vocab_size: int = 1500, max_length: int = MAX_LENGTH
) -> CLIPTokenizer:
    """Learn merges from captions, save the tokenizer in `directory` and return it as loaded from there.

    The vocabulary is built as CLIP's own: 256 bytes, the same bytes at a word's end, the merges, start and
    end as the two highest ids. So no text is ever unknown, the end token is never id 2 (at which
    CLIPTextModel pools by another rule), padding is by end tokens, and the first end token is where
    CLIPTextModel pools.

    Raises: ValueError when vocab_size leaves no room for merges (514 are taken).
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = vocab_size - 2 * len(letters) - 2
    if room < 1:
        raise ValueError(f"vocab_size is {vocab_size}, and bytes and markers take 514 of it: use 600 or more")
    words = [*letters, *(letter + END_OF_WORD for letter in letters)]
    merges = _learn_merges(captions, letters, len(words) + room)
    known = set(words)
    for pair in merges:
        token = "".join(pair)
        if token not in known:  # two pairs may make the same token
            known.add(token)
            words.append(token)
        if len(words) == vocab_size - 2:
            break
    vocabulary = {word: index for index, word in enumerate([*words, START, END])}
    merges = [pair for pair in merges if "".join(pair) in vocabulary]
    CLIPTokenizer(vocab=vocabulary, merges=cast(Any, merges), model_max_length=max_length).save_pretrained(
        directory
    )
    return CLIPTokenizer.from_pretrained(directory)


def _learn_merges(captions: Iterable[str], letters: list[str], size: int) -> list[tuple[str, str]]:
    """Pairs to merge, most useful first, over text that is cut into words exactly as CLIPTokenizer does."""
    cutting = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.normalizer, tokenizer.pre_tokenizer = cutting.normalizer, cutting.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=letters,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
