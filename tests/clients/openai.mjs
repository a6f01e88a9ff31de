// OpenAI's package for JavaScript against a server: `node openai.mjs URL`. Prints one JSON object.
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "none", maxRetries: 0 });
const question = "What is the capital of France? Answer in one sentence.";
const sum = "What is 17 + 25? Call the tool add with these two numbers.";
const number = { type: "integer", minimum: 0, maximum: 99 };
const parameters = { type: "object", properties: { a: number, b: number }, required: ["a", "b"], additionalProperties: false };
const model = "default", temperature = 0, told = {};

const asked = { model, temperature, max_tokens: 24, messages: [{ role: "user", content: question }] };
told["chat answer"] = (await client.chat.completions.create(asked)).choices[0].message.content;
let text = "";
for await (const part of await client.chat.completions.create({ ...asked, stream: true })) text += part.choices[0]?.delta?.content ?? "";
told["chat streamed"] = text;
const tools = [{ type: "function", function: { name: "add", parameters } }];
const called = await client.chat.completions.create({ model, temperature, messages: [{ role: "user", content: sum }], tools, tool_choice: "required", parallel_tool_calls: false });
told["chat call"] = JSON.parse(called.choices[0].message.tool_calls[0].function.arguments);
const format = { type: "json_schema", name: "sum", schema: parameters, strict: true };
const typed = await client.responses.create({ model, temperature, input: sum, text: { format } });
told["responses typed"] = JSON.parse(typed.output_text);
text = "";
for await (const event of await client.responses.create({ model, temperature, input: question, max_output_tokens: 24, stream: true }))
  if (event.type === "response.output_text.delta") text += event.delta;
told["responses streamed"] = text;
const functions = [{ type: "function", name: "add", parameters, strict: true }];
const response = await client.responses.create({ model, temperature, input: sum, tools: functions, tool_choice: "required", parallel_tool_calls: false });
told["responses call"] = JSON.parse(response.output.find(item => item.type === "function_call").arguments);
told["models answer"] = "Paris " + (await client.models.list()).data[0].id;
console.log(JSON.stringify(told));
