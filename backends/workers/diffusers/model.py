"""The built-in image model: a pixel diffusion model on 4x4 patches, conditioned on the slots of a prompt.

Diffusion as in Ho et al. 2020 with DDIM sampling (Song et al. 2021), the clean image predicted directly, the cosine
schedule of Nichol and Dhariwal 2021, and classifier-free guidance (Ho and Salimans 2022).
"""

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
MAPS = 8
WIDTH = 64
MODEL_DIR = Path(__file__).parent / "models" / "shoal"


class PromptEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Turns slot indices (batch, slots) into embeddings (batch, slots, width) and maps (batch, maps, grid, grid).

    Each word has learned maps beside its embedding, laid out as the picture: a convolution cannot tell left from right.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, slots: int = len(SLOTS), words: int = 1 + max(map(len, SLOTS)), width: int = WIDTH) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.words = words
        self.table = torch.nn.Embedding(slots * words, width)
        self.maps = torch.nn.Embedding(slots * words, MAPS * GRID * GRID)
        self.register_buffer("offsets", torch.arange(slots) * words, persistent=False)

    def forward(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = slots + self.offsets
        return self.table(places), self.maps(places).sum(1).view(-1, MAPS, GRID, GRID)

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and maps of prompts; those of an empty prompt are the unconditional ones."""
        slots = torch.tensor([slots_of(prompt) for prompt in prompts], device=self.table.weight.device)
        embedded, maps = self(slots)
        return embedded, maps


def new_unet() -> UNet2DConditionModel:
    """The denoiser, about 2.5 million parameters: latents and the prompt's maps (batch, 48 + 8, 16, 16)."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=GRID,
        in_channels=CHANNELS + MAPS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
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


def predict(
    unet: UNet2DConditionModel,
    noisy: torch.Tensor,
    timesteps: torch.Tensor | int,
    prompts: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The predicted clean patches for noisy ones, given what the encoder makes of the prompts."""
    embedded, maps = prompts
    answer = unet(
        torch.cat([noisy, maps], dim=1),
        timesteps,
        encoder_hidden_states=embedded,
        class_labels=embedded.flatten(1),
        return_dict=False,
    )
    predicted: torch.Tensor = answer[0]
    return predicted
