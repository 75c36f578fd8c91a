// OpenAI's SDK for Node at the endpoints besides chat. Started by `run`.

import assert from 'node:assert/strict';
import { createReadStream, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
const question = { model: 'gpt-demo', input: 'Hello, proxy!' };
// Of the server at UPLOAD_BASE_URL, which is one process with its mock.
const status = `/proc/${process.env.UPLOAD_PID}/status`;

function checkResponse(response) {
  assert.equal(response.model, 'gpt-demo');
  assert.equal(response.status, 'completed');
  assert.match(response.output_text, /Hello, proxy!/);
  const { input_tokens, output_tokens, total_tokens } = response.usage;
  assert.ok(input_tokens > 0 && output_tokens > 20);
  assert.equal(total_tokens, input_tokens + output_tokens);
}

test('models', async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes('gpt-4o'));
  assert.equal((await client.models.retrieve('maker/model')).id, 'maker/model');
  await assert.rejects(client.models.retrieve('demo-404'), OpenAI.NotFoundError);
});

test('response', async () => checkResponse(await client.responses.create(question)));

test('response as a stream', async () => {
  const events = [];
  const times = [];
  for await (const event of await client.responses.create({ ...question, stream: true })) {
    events.push(event);
    times.push(performance.now());
  }
  assert.equal(events[0].type, 'response.created');
  assert.ok(events.every((event, at) => event.sequence_number === at));
  assert.equal(events.at(-1).type, 'response.completed');
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  const text = deltas.map((event) => event.delta).join('');
  assert.equal(text, events.at(-1).response.output[0].content[0].text);
  // It takes more than a second: nothing was buffered until the end.
  assert.ok(times.at(-1) - times[0] > 300);
});

test("response by the SDK's stream helper", async () => {
  checkResponse(await client.responses.stream(question).finalResponse());
});

test('response with a tool', async () => {
  const properties = { city: { type: 'string' } };
  const parameters = { type: 'object', properties };
  const tools = [{ type: 'function', name: 'get_weather', parameters, strict: false }];
  const { output } = await client.responses.create({ ...question, tools });
  assert.equal(output.length, 1);
  assert.equal(output[0].name, 'get_weather');
  assert.deepEqual(JSON.parse(output[0].arguments), { city: 'demo city' });
});

test('embeddings', async () => {
  const ask = { model: 'gpt-demo', input: ['one', 'two'] };
  // By default the SDK asks for base64.
  const decoded = await client.embeddings.create(ask);
  const floats = await client.embeddings.create({ ...ask, encoding_format: 'float' });
  for (const { data, usage } of [decoded, floats]) {
    assert.deepEqual(data.map(({ embedding }) => embedding.length), [8, 8]);
    assert.equal(usage.total_tokens, 2);
  }
  for (const [at, number] of floats.data[0].embedding.entries()) {
    assert.ok(Math.abs(number - decoded.data[0].embedding[at]) < 1e-6);
  }
});

test('completions', async () => {
  const ask = { model: 'gpt-demo', prompt: 'Hello, proxy!' };
  const whole = (await client.completions.create(ask)).choices[0].text;
  assert.match(whole, /Hello, proxy!/);
  let text = '';
  for await (const chunk of await client.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, whole);
});

test('transcriptions', async () => {
  const file = await toFile(Buffer.alloc(5_000_000), 'speech.mp3');
  const { text } = await client.audio.transcriptions.create({ model: 'whisper-1', file });
  assert.match(text, / 5000000 bytes of speech\.mp3 /);
});

test('images', async () => {
  const { data } = await client.images.generate({ model: 'gpt-image-1', prompt: 'A proxy' });
  const png = Buffer.from(data[0].b64_json, 'base64');
  assert.equal(png.subarray(1, 4).toString(), 'PNG');
});

test('a large upload', { skip: !existsSync(status) && 'no /proc' }, async () => {
  const directory = await mkdtemp(join(tmpdir(), 'upload-'));
  try {
    const path = join(directory, 'large.bin');
    writeFileSync(path, '');
    truncateSync(path, 100_000_000);
    const { files } = client.withOptions({ baseURL: process.env.UPLOAD_BASE_URL });
    const upload = { file: createReadStream(path), purpose: 'user_data' };
    const { bytes, filename } = await files.create(upload);
    assert.deepEqual({ bytes, filename }, { bytes: 100_000_000, filename: 'large.bin' });
    const [, peak] = readFileSync(status, 'utf8').match(/VmHWM:\s+(\d+) kB/);
    assert.ok(peak < 30_000, `${peak} kB`);
  } finally {
    await rm(directory, { recursive: true });
  }
});
