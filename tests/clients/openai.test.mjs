// OpenAI's SDK for Node against the server. Started by `run`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const chained = client.withOptions({ baseURL: process.env.CHAINED_BASE_URL });

const hello = { model: 'gpt-demo', messages: [{ role: 'user', content: 'Hello, proxy!' }] };
const tool = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string' },
        unit: { type: 'string', enum: ['celsius', 'fahrenheit'] },
        days: { type: 'integer' },
      },
      required: ['city'],
    },
  },
};

const create = (request, options) => client.chat.completions.create(request, options);
const toBackend = (name) => ({ headers: { 'X-Proxy-Backend': name } });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail('it should have failed');
}

function checkAnswer(answer) {
  assert.equal(answer.model, 'gpt-demo');
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.match(answer.choices[0].message.content, /Hello, proxy!/);
  assert.equal(answer.choices[0].finish_reason, 'stop');
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.ok(prompt_tokens > 0 && completion_tokens > 0);
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
}

async function checkStream(stream) {
  const chunks = [];
  const times = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    times.push(performance.now());
  }
  const choices = chunks.map((chunk) => chunk.choices[0]);
  assert.ok(chunks.every((chunk) => chunk.model === 'gpt-demo'));
  assert.equal(choices[0].delta.role, 'assistant');
  assert.equal(choices.at(-1).finish_reason, 'stop');
  const words = choices.map((choice) => choice.delta.content).filter(Boolean);
  assert.ok(words.length > 20);
  assert.match(words.join(''), /Hello, proxy!/);
  // It is told in more than a second: nothing was held back until the end.
  assert.ok(times.at(-1) - times[0] > 300, `all within ${times.at(-1) - times[0]} ms`);
}

function checkCall(id, name, json) {
  assert.ok(id);
  assert.equal(name, 'get_weather');
  const { city, unit, days } = JSON.parse(json);
  assert.equal(typeof city, 'string');
  assert.equal(unit, 'celsius');
  assert.ok(Number.isInteger(days));
}

function checkHeaders(headers) {
  assert.match(headers.get('x-request-id'), /^req_/);
  assert.equal(headers.get('openai-version'), '2020-10-01');
  assert.ok(headers.has('openai-processing-ms'));
  for (const of of ['requests', 'tokens']) {
    for (const what of ['limit', 'remaining', 'reset']) {
      assert.ok(headers.has(`x-ratelimit-${what}-${of}`));
    }
  }
}

function checkError(error, exception, status, code) {
  assert.ok(error instanceof exception, `${error}`);
  assert.equal(error.status, status);
  assert.equal(error.code, code);
  assert.ok(error.error.message);
  assert.ok('param' in error.error);
}

function checkProxyError(error, exception, status, code) {
  checkError(error, exception, status, code);
  assert.equal(error.type, status >= 500 ? 'proxy_error' : 'invalid_request_error');
  assert.match(error.headers.get('proxy-status'), new RegExp(`error=${code}`));
}

test('answer', async () => checkAnswer(await create(hello)));

test('stream', async () => checkStream(await create({ ...hello, stream: true })));

test('stream with usage', async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await create({ ...hello, ...options }));
  assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

test('tool call', async () => {
  const answer = await create({ ...hello, tools: [tool] });
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  assert.equal(answer.choices[0].message.tool_calls.length, 1);
  const [call] = answer.choices[0].message.tool_calls;
  checkCall(call.id, call.function.name, call.function.arguments);
});

test('streamed tool call', async () => {
  const chunks = await collect(await create({ ...hello, tools: [tool], stream: true }));
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
  const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.ok(calls.length > 2 && calls.every((call) => call.index === 0));
  const json = calls.map((call) => call.function.arguments).join('');
  checkCall(calls[0].id, calls[0].function.name, json);
});

test('raw headers', async () => {
  const { data, response, request_id } = await create(hello).withResponse();
  checkHeaders(response.headers);
  assert.equal(request_id, response.headers.get('x-request-id'));
  checkAnswer(data);
});

test('raw response of a stream', async () => {
  const response = await create({ ...hello, stream: true }).asResponse();
  checkHeaders(response.headers);
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  assert.match(await response.text(), /data: \[DONE\]\n\n$/);
});

test('model override', async () => {
  assert.equal((await create(hello, toBackend('OTHER'))).model, 'other-model');
});

for (const model of ['gpt-demo', 'demo-silent']) {
  test(`abort mid-stream: ${model}`, async () => {
    const stream = await create({ ...hello, model, stream: true });
    let chunks = 0;
    let aborted;
    for await (const _ of stream) {
      if (++chunks === 2) {
        aborted = performance.now();
        stream.controller.abort();
      }
    }
    assert.ok(performance.now() - aborted < 5000);
    checkAnswer(await create(hello));
  });
}

test('abort before an answer', async () => {
  const signal = AbortSignal.timeout(300);
  const error = await failure(create({ ...hello, model: 'demo-silent' }, { signal }));
  assert.ok(error instanceof OpenAI.APIUserAbortError, `${error}`);
  checkAnswer(await create(hello));
});

test('many streams at once', async () => {
  const streams = Array.from({ length: 20 }, () => create({ ...hello, stream: true }));
  await Promise.all(streams.map(async (stream) => checkStream(await stream)));
});

// What the API itself answers with.
for (const [model, exception, status, code] of [
  ['demo-401', OpenAI.AuthenticationError, 401, 'invalid_api_key'],
  ['demo-404', OpenAI.NotFoundError, 404, 'model_not_found'],
  ['demo-429', OpenAI.RateLimitError, 429, 'rate_limit_exceeded'],
  ['demo-500', OpenAI.InternalServerError, 500, null],
]) {
  for (const stream of [false, true]) {
    test(`${model}, ${stream ? 'streamed' : 'whole'}`, async () => {
      const error = await failure(create({ ...hello, model, stream }));
      checkError(error, exception, status, code);
      assert.match(error.requestID, /^req_/);
      assert.equal(error.headers.get('proxy-status'), null);
      if (status === 429) {
        assert.equal(error.headers.get('retry-after'), '1');
        assert.equal(error.headers.get('x-ratelimit-remaining-requests'), '0');
      }
    });
  }
}

test("the client's own timeout", async () => {
  const error = await failure(create({ ...hello, model: 'demo-silent' }, { timeout: 300 }));
  assert.ok(error instanceof OpenAI.APIConnectionTimeoutError, `${error}`);
});

test('a broken stream is an error', async () => {
  const chunks = [];
  await assert.rejects(async () => {
    const stream = await create({ ...hello, model: 'demo-break', stream: true });
    for await (const chunk of stream) chunks.push(chunk);
  });
  assert.ok(chunks.length > 1);
});

test('a broken answer is an error', async () => {
  await assert.rejects(create({ ...hello, model: 'demo-break' }));
});

// What the proxy answers with.
for (const [backend, more, exception, status, code] of [
  ['NOBODY', {}, OpenAI.NotFoundError, 404, 'destination_not_found'],
  ['REFUSED', {}, OpenAI.InternalServerError, 502, 'connection_refused'],
  ['REFUSED', { stream: true }, OpenAI.InternalServerError, 502, 'connection_refused'],
  ['HASTY', { model: 'demo-silent' }, OpenAI.InternalServerError, 504, 'http_response_timeout'],
]) {
  test(`${code}, ${more.stream ? 'streamed' : 'whole'}`, async () => {
    const request = { ...hello, ...more };
    const error = await failure(chained.chat.completions.create(request, toBackend(backend)));
    checkProxyError(error, exception, status, code);
  });
}

test('no credentials', async () => {
  const error = await failure(create(hello, { headers: { Authorization: null } }));
  checkProxyError(error, OpenAI.AuthenticationError, 401, 'http_request_denied');
});

test('the refused backend comes first, the next one answers', async () => {
  checkAnswer(await chained.chat.completions.create(hello));
  await checkStream(await chained.chat.completions.create({ ...hello, stream: true }));
});

test('a silent stream breaks off', async () => {
  const request = { ...hello, model: 'demo-silent', stream: true };
  await assert.rejects(async () =>
    collect(await chained.chat.completions.create(request, toBackend('CHAINED'))),
  );
});
