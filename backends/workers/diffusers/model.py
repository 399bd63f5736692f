"""The built-in image model: a pixel diffusion model on 4x4 patches, conditioned on the slots of a prompt.

Diffusion as in Ho et al. 2020 with DDIM sampling (Song et al. 2021), the clean image predicted directly, the cosine
schedule of Nichol and Dhariwal 2021, and classifier-free guidance (Ho and Salimans 2022).
"""

import math
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from backends.workers.diffusers.corpus import SIZE, SLOTS, slots_of

PATCH = 4
GRID = SIZE // PATCH
CHANNELS = 3 * PATCH * PATCH
POSITIONS = 6
WIDTH = 64
MODEL_DIR = Path(__file__).parent / "models" / "shoal"


class PromptEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Turns slot indices (batch, slots) into embeddings (batch, slots, width)."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, slots: int = len(SLOTS), words: int = 1 + max(map(len, SLOTS)), width: int = WIDTH) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.words = words
        self.table = torch.nn.Embedding(slots * words, width)
        self.register_buffer("offsets", torch.arange(slots) * words, persistent=False)

    def forward(self, slots: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.table(slots + self.offsets)
        return embedded

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Embeddings of prompts, shape (prompts, slots, width); an empty prompt is the unconditional one."""
        slots = torch.tensor([slots_of(prompt) for prompt in prompts], device=self.table.weight.device)
        embedded: torch.Tensor = self(slots)
        return embedded


def new_unet() -> UNet2DConditionModel:
    """The denoiser, about 2.5 million parameters: latents and positions (batch, 48 + 6, 16, 16)."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=GRID,
        in_channels=CHANNELS + POSITIONS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        # The whole prompt also joins the time embedding: colours are global, and this learns them much sooner.
        class_embed_type="projection",
        projection_class_embeddings_input_dim=WIDTH * len(SLOTS),
        resnet_time_scale_shift="scale_shift",
    )
    return unet


def new_scheduler() -> DDIMScheduler:
    """The noise schedule, for training and sampling alike."""
    scheduler: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
        timestep_spacing="trailing",
    )
    return scheduler


def to_patches(images: torch.Tensor) -> torch.Tensor:
    """Images (batch, 3, 64, 64) in -1..1 as latents (batch, 48, 16, 16)."""
    return torch.nn.functional.pixel_unshuffle(images, PATCH)


def to_pixels(patches: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_patches`."""
    return torch.nn.functional.pixel_shuffle(patches, PATCH)


def positions(grid: int, device: torch.device) -> torch.Tensor:
    """Where each patch lies, (6, grid, grid): convolutions alone learn places slowly (CoordConv, Liu et al. 2018)."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, grid, device=device)] * 2, indexing="ij")
    waves = [wave(math.pi * axis) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    return torch.stack([x, y, *waves])


def predict(
    unet: UNet2DConditionModel, noisy: torch.Tensor, timesteps: torch.Tensor | int, embedded: torch.Tensor
) -> torch.Tensor:
    """The predicted clean patches for noisy ones, given prompt embeddings."""
    placed = torch.cat([noisy, positions(GRID, noisy.device).expand(len(noisy), -1, -1, -1)], dim=1)
    answer = unet(
        placed, timesteps, encoder_hidden_states=embedded, class_labels=embedded.flatten(1), return_dict=False
    )
    predicted: torch.Tensor = answer[0]
    return predicted
