// The openai package for Node against a running gateway: prints what it got as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "not-needed", maxRetries: 0 });
const messages = [{ role: "user", content: "What do seals eat?" }];

const chat = await client.chat.completions.create({ model: "tide", messages, temperature: 0 });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model: "tide", messages, temperature: 0, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const completion = await client.completions.create({ model: "tide", prompt: "Once upon a time", max_tokens: 5 });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const image = await client.images.generate({ model: "shoal", prompt: "a large red circle on a blue background" });
let error;
try {
  await client.chat.completions.create({ model: "nope", messages });
} catch (caught) {
  error = { name: caught.constructor.name, status: caught.status, code: caught.code, requestID: caught.requestID };
}
console.log(
  JSON.stringify({
    chat: chat.choices[0].message.content,
    streamed,
    completionTokens: completion.usage.completion_tokens,
    models,
    image: image.data[0].b64_json,
    error,
  }),
);
