"""Stable Diffusion pipelines of random weights, made on the spot: each part is diffusers' or transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

#: What differs between the sizes: the networks' shapes. `full` has those of Stable Diffusion 1.5.
_UNET: dict[str, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    },
    "full": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
}
_VAE: dict[str, dict[str, Any]] = {
    "tiny": {"block_out_channels": [16, 16, 16, 32], "norm_num_groups": 8},
    "full": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
}
_TEXT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4},
    "full": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}


def save_stable_diffusion(folder: Path, size: Literal["tiny", "full"] = "tiny") -> None:
    """Writes it; needs transformers (`hf_models.install`). It draws noise: `tiny` of 64x64 pixels by itself, `full` of
    512x512 at the pace of Stable Diffusion 1.5, with 4 GB of weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        **_VAE[size],
    )
    text = CLIPTextModel(CLIPTextConfig(vocab_size=1000, bos_token_id=0, eos_token_id=2, **_TEXT[size]))
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(in_channels=4, out_channels=4, **_UNET[size]),
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(folder.parent / "vocabulary"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def _tokenizer(folder: Path) -> object:
    from transformers import CLIPTokenizer

    from backends.workers.embedded.token_table import byte_of_char

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(byte_of_char())
    tokens = ["<|startoftext|>", "<unk>", "<|endoftext|>", *letters, *[f"{letter}</w>" for letter in letters]]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
