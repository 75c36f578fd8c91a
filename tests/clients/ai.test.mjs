// Vercel's AI SDK, with its defaults. Started by `run`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openai } from '@ai-sdk/openai';
import {
  embedMany,
  experimental_generateImage as generateImage,
  experimental_transcribe as transcribe,
  generateText,
  jsonSchema,
  stepCountIs,
  streamText,
  tool,
} from 'ai';

const prompt = 'Hello, proxy!';
const models = { responses: openai('gpt-demo'), chat: openai.chat('gpt-demo') };

for (const [api, model] of Object.entries(models)) {
  test(`text, ${api}`, async () => {
    const { text, usage } = await generateText({ model, prompt });
    assert.match(text, /Hello, proxy!/);
    assert.ok(usage.totalTokens > 20);
  });

  test(`stream, ${api}`, async () => {
    const texts = [];
    for await (const text of streamText({ model, prompt }).textStream) texts.push(text);
    assert.ok(texts.length > 20);
    assert.match(texts.join(''), /Hello, proxy!/);
  });

  test(`tool, ${api}`, async () => {
    const inputSchema = jsonSchema({ type: 'object', properties: { city: { type: 'string' } } });
    const execute = async ({ city }) => `Rain in ${city}`;
    const tools = { weather: tool({ inputSchema, execute }) };
    const { text } = await generateText({ model, prompt, tools, stopWhen: stepCountIs(2) });
    assert.match(text, /Rain in demo city/);
  });
}

test('embeddings', async () => {
  const model = openai.embedding('text-embedding-3-small');
  const { embeddings } = await embedMany({ model, values: ['one', 'two'] });
  assert.deepEqual(embeddings.map((embedding) => embedding.length), [8, 8]);
});

test('transcription', async () => {
  const audio = Buffer.concat([Buffer.from('ID3'), Buffer.alloc(5_000_000)]);
  const { text } = await transcribe({ model: openai.transcription('whisper-1'), audio });
  assert.match(text, / 5000003 bytes /);
});

test('image', async () => {
  const { image } = await generateImage({ model: openai.image('gpt-image-1'), prompt });
  assert.equal(image.mediaType, 'image/png');
});
