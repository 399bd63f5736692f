"""LlamaIndex's OpenAI-like model, unchanged but for its base URL. Usage: llamaindex_client.py GATEWAY."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    api_base=sys.argv[1] + "/v1", api_key="none", model="tide", is_chat_model=True, max_tokens=12, temperature=0
)
asked = [ChatMessage(role="user", content="What is a lighthouse?")]
print(
    json.dumps(
        {
            "whole": model.chat(asked).message.content,
            "streamed": "".join(chunk.delta or "" for chunk in model.stream_chat(asked)),
        }
    )
)
