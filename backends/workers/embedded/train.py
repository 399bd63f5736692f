"""Makes the models of this package from text the package generates: `python -m backends.workers.embedded.train`.

The same seed gives the same text and the same start. One CPU thread; `tide` takes some 20 minutes, `tide-mini` 8.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backends.workers.embedded.catalogue import MODELS
from backends.workers.embedded.corpus import Message, documents
from backends.workers.embedded.model import Decoder, ModelConfig
from backends.workers.embedded.tokens import ChatTokenizer

VOCABULARY, CONTEXT, WINDOW, IGNORED = 2048, 1024, 512, -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's shape and training: `steps` of `batch` windows of 512 tokens, `learning_rate` at its peak."""

    shape: ModelConfig
    steps: int
    batch: int = 8
    learning_rate: float = 3e-3


_TIDE = ModelConfig(VOCABULARY, 192, 512, 6, 6, 2, CONTEXT)
_MINI = ModelConfig(VOCABULARY, 128, 352, 4, 4, 2, CONTEXT)
RECIPES = {"tide": Recipe(_TIDE, steps=1200), "tide-mini": Recipe(_MINI, steps=1000)}


def train_tokenizer(seed: int, samples: int = 12000) -> ChatTokenizer:
    """A tokenizer fitted to the first `samples` documents of the seed's corpus."""
    drawn = itertools.islice(documents(seed), samples)
    texts = (text for one in drawn for text in ([one] if isinstance(one, str) else [turn.content for turn in one]))
    return ChatTokenizer.train(texts, VOCABULARY)


def tokens_and_labels(tokenizer: ChatTokenizer, document: list[Message] | str) -> tuple[list[int], list[int]]:
    """A document's ids, and the same ids with what a user or the system says `IGNORED`: the model need not guess it."""
    if isinstance(document, str):
        ids = [tokenizer.bos, *tokenizer.encode(document), tokenizer.end]
        return ids, list(ids)
    ids, labels = [tokenizer.bos], [IGNORED]
    for turn in document:
        new = tokenizer.message(turn.role, turn.content)
        ids += new
        labels += [IGNORED, *new[1:]] if turn.role == "assistant" else [IGNORED] * len(new)
    return ids, labels


def windows(tokenizer: ChatTokenizer, seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches `(ids, next ids)`, each `[batch, WINDOW]`: documents packed end to end."""
    ids: list[int] = []
    labels: list[int] = []
    needed = batch * WINDOW + 1
    for document in documents(seed):
        new_ids, new_labels = tokens_and_labels(tokenizer, document)
        ids += new_ids
        labels += new_labels
        if len(ids) >= needed:
            yield torch.tensor(ids[: needed - 1]).view(batch, -1), torch.tensor(labels[1:needed]).view(batch, -1)
            ids, labels = ids[needed - 1 :], labels[needed - 1 :]


def train(recipe: Recipe, tokenizer: ChatTokenizer, seed: int) -> Decoder:
    """A model trained on the seed's corpus, AdamW with a warm-up and a cosine decay; prints its progress."""
    torch.manual_seed(seed)
    model = Decoder(recipe.shape)
    _initialise(model)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))
    started, shown = time.monotonic(), 0.0
    for step, (ids, labels) in enumerate(itertools.islice(windows(tokenizer, seed + 1, recipe.batch), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown = loss.item() if step == 0 else 0.95 * shown + 0.05 * loss.item()
        if step % 20 == 0 or step == recipe.steps - 1:
            print(f"step {step}/{recipe.steps} loss {shown:.3f} {time.monotonic() - started:.0f} s", flush=True)
    return model


def _schedule(step: int, steps: int, warm_up: int = 50) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def _initialise(model: Decoder) -> None:
    depth = math.sqrt(2 * model.config.num_hidden_layers)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=0.02 / depth if residual else 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m backends.workers.embedded.train", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, default=MODELS, help="the folder the models' folders go to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(arguments.seed)
    for name in arguments.models or RECIPES:
        recipe = RECIPES[name]
        if arguments.steps:
            recipe = replace(recipe, steps=arguments.steps)
        model = train(recipe, tokenizer, arguments.seed)
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder)
        tokenizer.save(folder / "tokenizer.json")
        print(f"{name}: {sum(weight.numel() for weight in model.parameters()):,} parameters in {folder}", flush=True)


if __name__ == "__main__":
    main()
