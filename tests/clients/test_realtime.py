"""OpenAI's SDK for Python at `/realtime`, with a scripted backend and with the demo. Started by `run`."""

import asyncio
import base64
import contextlib
import json
import os
import tempfile
import unittest
from http import HTTPStatus

import openai
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Response

MODEL = "gpt-realtime"
CREATED = {"type": "session.created", "event_id": "event_1", "session": {"type": "realtime"}}
# Unlike what any library would write.
ODD_EVENT = '{ "type":"response.output_text.delta",  "delta" : "\\u00e9é 🦀", "new": 1.50e0 }\n'
REFUSAL = b'{ "error": {"message": "No.", "type": "invalid_request_error", "code": "refused"} }'


class Session:
    """The proxy, a client of it, and what its backend has seen."""

    def __init__(self):
        self.handshakes = []
        self.backend = asyncio.get_running_loop().create_future()

    def connect(self, **more):
        return self.client.realtime.connect(model=MODEL, **more)


@contextlib.asynccontextmanager
async def session(refuse=False, environment={}, **config):
    """`config`: the backend's, besides its name and URL."""
    it = Session()

    async def opened(connection):
        it.backend.set_result(connection)
        await connection.wait_closed()

    def handshake(_, request):
        it.handshakes.append(request)
        if refuse:
            headers = Headers()
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(REFUSAL))
            headers["X-Request-Id"] = "req_refused"
            return Response(401, HTTPStatus(401).phrase, headers, REFUSAL)

    async with (
        asyncio.timeout(20),
        serve(opened, "127.0.0.1", 0, process_request=handshake, max_size=None) as backend,
    ):
        port = backend.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        config = {"primary_backends": [{"name": "LLM1", "url": url, **config}]}
        async with server(config, environment) as base_url:
            async with openai.AsyncOpenAI(base_url=base_url, max_retries=0) as it.client:
                yield it


@contextlib.asynccontextmanager
async def server(config, environment):
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
        open(os.environ["SERVER_LOG"], "a") as log,
    ):
        json.dump(config, file)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *[os.environ["SERVER"], "--listen", "127.0.0.1:0", "--config", file.name],
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            line = (await process.stdout.readline()).decode()
            assert line.startswith("listening on http://"), f"the server did not start: {line!r}"
            yield line.split()[-1] + "/v1"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Realtime(unittest.IsolatedAsyncioTestCase):
    async def check_handshake(self, target, authorization, query={}, **config):
        async with session(**config) as it:
            async with it.connect(extra_query=query):
                await it.backend
            [request] = it.handshakes
            self.assertEqual(request.path, target)
            self.assertEqual(request.headers.get_all("Authorization"), [authorization])

    async def test_handshake(self):
        target = "/v1/realtime?model=gpt-realtime&more=a+b"
        await self.check_handshake(target, "Bearer sk-demo", {"more": "a b"})

    async def test_model_override(self):
        target = "/v1/realtime?model=other%2Fmodel&more=a+b"
        query = {"more": "a b"}
        await self.check_handshake(target, "Bearer sk-demo", query, model="other/model")

    async def test_key_of_the_backend(self):
        target = "/v1/realtime?model=gpt-realtime"
        environment = {"REALTIME_KEY": "sk-operator"}
        config = {"api_key_env": "REALTIME_KEY", "environment": environment}
        await self.check_handshake(target, "Bearer sk-operator", **config)

    async def test_events(self):
        async with session() as it, it.connect() as client:
            backend = await it.backend
            await backend.send(json.dumps(CREATED))
            event = await client.recv()
            self.assertEqual((event.type, event.event_id), ("session.created", "event_1"))
            await client.session.update(session={"type": "realtime", "instructions": "Hé!"})
            event = json.loads(await backend.recv())
            self.assertEqual(event["type"], "session.update")
            self.assertEqual(event["session"]["instructions"], "Hé!")

    async def test_messages_unchanged(self):
        async with session() as it, it.connect() as client:
            backend = await it.backend
            await backend.send(ODD_EVENT)
            self.assertEqual(await client.recv_bytes(), ODD_EVENT.encode())
            await client.send_raw(ODD_EVENT)
            self.assertEqual(await backend.recv(), ODD_EVENT)
            await client.send_raw(b"\x00\xff")
            self.assertEqual(await backend.recv(), b"\x00\xff")

    async def test_large_message(self):
        audio = base64.b64encode(os.urandom(1_000_000)).decode()
        for compression in [None, "deflate"]:
            options = {"compression": compression, "max_size": 10_000_000}
            with self.subTest(compression=compression):
                async with session() as it:
                    async with it.connect(websocket_connection_options=options) as client:
                        backend = await it.backend
                        # Whether the two have agreed on it.
                        self.assertEqual(len(backend.protocol.extensions), bool(compression))
                        await client.input_audio_buffer.append(audio=audio)
                        self.assertEqual(json.loads(await backend.recv())["audio"], audio)
                        event = {"type": "response.output_audio.delta", "delta": audio}
                        await backend.send(json.dumps(event))
                        self.assertEqual((await client.recv()).delta, audio)

    async def test_close_by_client(self):
        async with session() as it, it.connect() as client:
            backend = await it.backend
            await client.close(code=3000, reason="That's all.")
            await backend.wait_closed()
            self.assertEqual((backend.close_code, backend.close_reason), (3000, "That's all."))

    async def test_close_by_backend(self):
        async with session() as it, it.connect() as client:
            backend = await it.backend
            await backend.send(json.dumps(CREATED))
            closing = asyncio.create_task(backend.close(4001, "session expired"))
            # What was sent before still arrives.
            self.assertEqual((await client.recv()).type, "session.created")
            with self.assertRaises(ConnectionClosedError) as raised:
                await client.recv()
            close = raised.exception.rcvd
            self.assertEqual((close.code, close.reason), (4001, "session expired"))
            await closing
            # The client's answer to it.
            self.assertEqual(backend.protocol.close_rcvd.code, 4001)

    async def test_broken_by_backend(self):
        async with session() as it, it.connect() as client:
            (await it.backend).transport.abort()
            with self.assertRaises(ConnectionClosedError) as raised:
                await client.recv()
            self.assertIsNone(raised.exception.rcvd)

    async def test_refusal(self):
        async with session(refuse=True) as it:
            with self.assertRaises(InvalidStatus) as raised:
                await it.connect().enter()
            answer = raised.exception.response
            self.assertEqual((answer.status_code, answer.reason_phrase), (401, "Unauthorized"))
            self.assertEqual(answer.headers["Content-Type"], "application/json")
            self.assertEqual(answer.headers["X-Request-Id"], "req_refused")
            self.assertNotIn("Proxy-Status", answer.headers)
            self.assertEqual(answer.body, REFUSAL)
            self.assertEqual(len(it.handshakes), 1)


class Demo(unittest.IsolatedAsyncioTestCase):
    """The demo's conversation."""

    async def test_conversation(self):
        client = openai.AsyncOpenAI(max_retries=0)
        async with asyncio.timeout(20), client, client.realtime.connect(model=MODEL) as connection:
            self.assertEqual((await connection.recv()).type, "session.created")
            await connection.session.update(
                session={"type": "realtime", "output_modalities": ["text"]}
            )
            self.assertEqual((await connection.recv()).session.model, MODEL)
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "What is a tunnel?"}],
                }
            )
            await connection.response.create()
            deltas = []
            async for event in connection:
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
                elif event.type == "response.done":
                    break
            [item] = event.response.output
            self.assertEqual(item.content[0].text, "".join(deltas))
            self.assertIn("“What is a tunnel?”", item.content[0].text)
            self.assertGreater(len(deltas), 10)
            self.assertEqual(event.response.status, "completed")
            self.assertEqual(event.response.usage.output_tokens, len(deltas))


if __name__ == "__main__":
    unittest.main(verbosity=2)
