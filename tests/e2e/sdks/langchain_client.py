"""LangChain's chat model, unchanged but for its base URL. Usage: langchain_client.py GATEWAY."""

import json
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url=sys.argv[1] + "/v1", api_key="none", model="tide", max_tokens=12, temperature=0, stream_usage=True
)
chain = ChatPromptTemplate.from_messages([("human", "What is {thing}?")]) | model | StrOutputParser()
message = model.invoke("What is a lighthouse?")
print(
    json.dumps(
        {
            "whole": message.content,
            "tokens": message.usage_metadata["output_tokens"],
            "streamed": "".join(chunk.content for chunk in model.stream("What is a lighthouse?")),
            "chain": chain.invoke({"thing": "a lighthouse"}),
            "batch": chain.batch([{"thing": "a lighthouse"}] * 3),
        }
    )
)
