"""The decoder: reading in one go, in pieces, alone and in company all come to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backends.workers.embedded.model import Decoder, ModelConfig

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
PROMPTS = [[1, 5, 9, 2, 8, 3], [7], [4, 4, 4, 60, 61, 62, 63, 0, 1], [33, 12]]


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).double().eval()


def alone(model: Decoder, ids: list[int]) -> torch.Tensor:
    return model.step([(ids, model.new_cache(len(ids)))])[0]


def test_serving_computes_what_training_computed(model: Decoder) -> None:
    for ids in PROMPTS:
        with torch.inference_mode():
            expected = model(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(alone(model, ids), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1, 1, 1, 1, 1, 1], [4, 5], [8, 1], [3, 1, 5]])
def test_a_prompt_read_in_pieces_gives_the_same_logits(model: Decoder, pieces: list[int]) -> None:
    ids, cache, start = PROMPTS[2], model.new_cache(9), 0
    for size in pieces:
        logits = model.step([(ids[start : start + size], cache)])[0]
        start += size
    torch.testing.assert_close(logits, alone(model, ids), rtol=0, atol=1e-12)


def test_a_sequence_does_not_see_its_company(model: Decoder) -> None:
    together = model.step([(ids, model.new_cache(len(ids))) for ids in PROMPTS])
    for ids, logits in zip(PROMPTS, together, strict=True):
        torch.testing.assert_close(logits, alone(model, ids), rtol=0, atol=1e-12)


def test_what_was_saved_is_what_is_loaded(model: Decoder, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = Decoder.load(tmp_path)
    assert loaded.config == CONFIG
    torch.testing.assert_close(alone(loaded, PROMPTS[0]), alone(model, PROMPTS[0]), rtol=0, atol=2e-2)


def test_weights_that_do_not_fit_are_refused(model: Decoder, tmp_path: Path) -> None:
    model.save(tmp_path)
    written = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(written.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ValueError, match="do not fit"):
        Decoder.load(tmp_path)
