"""The dialects by the `kind` that gateway.yaml gives a backend."""

from __future__ import annotations

from collections.abc import Mapping

from backends.anthropic import AnthropicDialect
from backends.dialect import Dialect
from backends.diffusers import DiffusersDialect
from backends.embedded import EmbeddedDialect
from backends.llamacpp import LlamaCppDialect
from backends.ollama import OllamaDialect
from backends.openai import OpenAIDialect
from backends.sglang import SGLangDialect
from backends.tgi import TGIDialect
from backends.triton import TritonDialect
from backends.vllm import VLLMDialect

_ALL: tuple[Dialect, ...] = (
    VLLMDialect(),
    SGLangDialect(),
    LlamaCppDialect(),
    TGIDialect(),
    OllamaDialect(),
    OpenAIDialect(),
    AnthropicDialect(),
    TritonDialect(),
    DiffusersDialect(),
    EmbeddedDialect(),
)
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _ALL}


def dialect_for(kind: str) -> Dialect:
    """The dialect of a backend kind. Raises KeyError for an unknown one."""
    return DIALECTS[kind]
