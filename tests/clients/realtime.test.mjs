// OpenAI's SDK for Node at `/realtime`, with a scripted backend and with the demo. Started by `run`.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import OpenAI from 'openai';
import { OpenAIRealtimeWebSocket } from 'openai/realtime/websocket';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { WebSocket, WebSocketServer } from 'ws';

const model = 'gpt-realtime';
const operatorKey = {
  api_key_env: 'REALTIME_KEY',
  environment: { REALTIME_KEY: 'sk-operator' },
};
const created = { type: 'session.created', event_id: 'event_1', session: { type: 'realtime' } };
// Unlike what any library would write.
const oddEvent =
  '{ "type":"response.output_text.delta",  "delta" : "\\u00e9é 🦀", "new": 1.50e0 }\n';
const refusal = '{ "error": {"message": "No.", "type": "proxy_test", "code": "refused"} }';

// Starts the server with this configuration.
async function startServer(t, config, environment) {
  const directory = await mkdtemp(join(tmpdir(), 'realtime-'));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, 'config.json');
  await writeFile(path, JSON.stringify(config));
  const log = openSync(process.env.SERVER_LOG, 'a');
  const server = spawn(process.env.SERVER, ['--listen', '127.0.0.1:0', '--config', path], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', log],
  });
  closeSync(log);
  t.after(() => server.kill('SIGKILL'));
  for await (const line of createInterface(server.stdout)) {
    const [, port] = line.match(/^listening on http:.*:(\d+)$/);
    return port;
  }
  assert.fail('the server did not start');
}

// Starts a backend and a server in front of it.
async function start(t, { refuse = false, environment = {}, ...config } = {}) {
  const verifyClient = (_, answer) => {
    const headers = { 'Content-Type': 'application/json', 'X-Request-Id': 'req_refused' };
    answer(!refuse, 401, refusal, headers);
  };
  const handleProtocols = () => 'realtime';
  const wss = new WebSocketServer({ host: '127.0.0.1', port: 0, verifyClient, handleProtocols });
  t.after(() => {
    wss.close();
    for (const socket of wss.clients) socket.terminate();
  });
  await once(wss, 'listening');
  const url = `http://127.0.0.1:${wss.address().port}/v1`;
  const primary_backends = [{ name: 'LLM1', url, ...config }];
  const port = await startServer(t, { primary_backends }, environment);
  // The SDK asks for wss:// always. The proxy is plain HTTP.
  const options = { createConnection: () => connect(port, '127.0.0.1') };
  const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0 });
  return { client, wss, options };
}

// Both ends of a WebSocket: the SDK's, and the backend's with its request.
async function open(t, config) {
  const { client, wss, options } = await start(t, config);
  const connected = once(wss, 'connection');
  const realtime = new OpenAIRealtimeWS({ model, options }, client);
  t.after(() => realtime.socket.terminate());
  const [[backend, request]] = await Promise.all([connected, once(realtime.socket, 'open')]);
  return { realtime, backend, request };
}

function realtimeTest(name, run) {
  test(`realtime: ${name}`, { timeout: 20_000 }, run);
}

async function message(socket) {
  const [data, isBinary] = await once(socket, 'message');
  return isBinary ? data : data.toString();
}

for (const [name, target, authorization, config] of [
  ['handshake', '/v1/realtime?model=gpt-realtime', 'Bearer sk-demo', {}],
  ['model override', '/v1/realtime?model=other', 'Bearer sk-demo', { model: 'other' }],
  ['key of the backend', '/v1/realtime?model=gpt-realtime', 'Bearer sk-operator', operatorKey],
]) {
  realtimeTest(name, async (t) => {
    const { request } = await open(t, config);
    assert.equal(request.url, target);
    assert.deepEqual(request.headersDistinct.authorization, [authorization]);
  });
}

realtimeTest('events', async (t) => {
  const { realtime, backend } = await open(t);
  const atClient = realtime.emitted('session.created');
  backend.send(JSON.stringify(created));
  assert.deepEqual(await atClient, created);
  const update = { type: 'session.update', session: { type: 'realtime', instructions: 'Hé!' } };
  const atBackend = message(backend);
  realtime.send(update);
  assert.equal(await atBackend, JSON.stringify(update));
});

realtimeTest('messages unchanged', async (t) => {
  const { realtime, backend } = await open(t);
  for (const [from, to] of [[backend, realtime.socket], [realtime.socket, backend]]) {
    const arrived = message(to);
    from.send(oddEvent);
    assert.equal(await arrived, oddEvent);
  }
  const arrived = message(backend);
  realtime.socket.send(Buffer.from([0, 255]));
  assert.deepEqual(await arrived, Buffer.from([0, 255]));
});

realtimeTest('a large message', async (t) => {
  const { realtime, backend } = await open(t);
  const audio = randomBytes(1_000_000).toString('base64');
  const atBackend = message(backend);
  realtime.send({ type: 'input_audio_buffer.append', audio });
  assert.ok(JSON.parse(await atBackend).audio === audio);
  const atClient = realtime.emitted('response.output_audio.delta');
  backend.send(JSON.stringify({ type: 'response.output_audio.delta', delta: audio }));
  assert.ok((await atClient).delta === audio);
});

realtimeTest('closed by the client', async (t) => {
  const { realtime, backend } = await open(t);
  const closed = once(backend, 'close');
  realtime.close({ code: 3000, reason: "That's all." });
  const [code, reason] = await closed;
  assert.deepEqual([code, reason.toString()], [3000, "That's all."]);
});

realtimeTest('closed by the backend', async (t) => {
  const { realtime, backend } = await open(t);
  const event = realtime.emitted('session.created');
  const closed = [realtime.socket, backend].map((socket) => once(socket, 'close'));
  backend.send(JSON.stringify(created));
  backend.close(4001, 'session expired');
  // What was sent before still arrives.
  assert.deepEqual(await event, created);
  const [[code, reason], [answer]] = await Promise.all(closed);
  assert.deepEqual([code, reason.toString()], [4001, 'session expired']);
  assert.equal(answer, 4001);
});

realtimeTest('broken by the backend', async (t) => {
  const { realtime, backend } = await open(t);
  const closed = once(realtime.socket, 'close');
  backend.terminate();
  const [code] = await closed;
  assert.equal(code, 1006);
});

realtimeTest('refusal', async (t) => {
  const { client, options } = await start(t, { refuse: true });
  const realtime = new OpenAIRealtimeWS({ model, options }, client);
  const [request, response] = await once(realtime.socket, 'unexpected-response');
  t.after(() => request.destroy());
  assert.equal(response.statusCode, 401);
  assert.equal(response.statusMessage, 'Unauthorized');
  assert.equal(response.headers['content-type'], 'application/json');
  assert.equal(response.headers['x-request-id'], 'req_refused');
  assert.equal(response.headers['proxy-status'], undefined);
  assert.equal(Buffer.concat(await response.toArray()).toString(), refusal);
});

for (const [name, authorization, protocols, config] of [
  ["a browser's key", undefined, 'realtime,openai-insecure-api-key.sk-demo', {}],
  ["key of the backend, not the browser's", 'Bearer sk-operator', 'realtime', operatorKey],
]) {
  realtimeTest(name, async (t) => {
    const { client, wss, options } = await start(t, config);
    const connected = once(wss, 'connection');
    globalThis.WebSocket = class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, options);
      }
    };
    const realtime = new OpenAIRealtimeWebSocket({ model }, client);
    t.after(() => realtime.socket.terminate());
    const event = realtime.emitted('session.created');
    const [backend, request] = await connected;
    assert.equal(request.headers.authorization, authorization);
    assert.equal(request.headers['sec-websocket-protocol'], protocols);
    backend.send(JSON.stringify(created));
    assert.deepEqual(await event, created);
    assert.equal(realtime.socket.protocol, 'realtime');
  });
}

realtimeTest('the conversation of the demo', async (t) => {
  const client = new OpenAI({ maxRetries: 0 });
  const port = new URL(client.baseURL).port;
  const options = { createConnection: () => connect(port, '127.0.0.1') };
  const realtime = new OpenAIRealtimeWS({ model, options }, client);
  t.after(() => realtime.socket.terminate());
  const created = await realtime.emitted('session.created');
  assert.equal(created.session.model, model);
  let text = '';
  realtime.on('response.output_text.delta', ({ delta }) => (text += delta));
  const done = realtime.emitted('response.done');
  const content = [{ type: 'input_text', text: 'What is a tunnel?' }];
  const item = { type: 'message', role: 'user', content };
  realtime.send({ type: 'conversation.item.create', item });
  realtime.send({ type: 'response.create' });
  const { response } = await done;
  assert.equal(response.status, 'completed');
  assert.equal(response.output[0].content[0].text, text);
  assert.match(text, /“What is a tunnel\?”/);
});
