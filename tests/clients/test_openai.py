"""OpenAI's SDK for Python, sync and async, against the server. Started by `run`."""

import asyncio
import json
import os
import time
import unittest

import openai

CHAINED_BASE_URL = os.environ["CHAINED_BASE_URL"]

HELLO = {"model": "gpt-demo", "messages": [{"role": "user", "content": "Hello, proxy!"}]}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
            },
            "required": ["city"],
        },
    },
}
# What the API itself answers with: the model that asks for it, the exception, status and code.
API_ERRORS = [
    ("demo-401", openai.AuthenticationError, 401, "invalid_api_key"),
    ("demo-404", openai.NotFoundError, 404, "model_not_found"),
    ("demo-429", openai.RateLimitError, 429, "rate_limit_exceeded"),
    ("demo-500", openai.InternalServerError, 500, None),
]


def asking(model, **more):
    return {**HELLO, "model": model, **more}


def to_backend(name):
    return {"extra_headers": {"X-Proxy-Backend": name}}


# What the proxy answers with: the backend, the request, and the same as above.
PROXY_ERRORS = [
    ("NOBODY", HELLO, openai.NotFoundError, 404, "destination_not_found"),
    ("REFUSED", HELLO, openai.InternalServerError, 502, "connection_refused"),
    ("REFUSED", {**HELLO, "stream": True}, openai.InternalServerError, 502, "connection_refused"),
    ("HASTY", asking("demo-silent"), openai.InternalServerError, 504, "http_response_timeout"),
]


class Checks:
    """What both clients have to see."""

    def check_answer(self, answer):
        self.assertEqual(answer.model, "gpt-demo")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertIn("Hello, proxy!", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def check_stream(self, timed):
        """`timed`: the chunks, each with the time of its arrival."""
        chunks = [chunk for _, chunk in timed]
        self.assertEqual({chunk.model for chunk in chunks}, {"gpt-demo"})
        choices = [chunk.choices[0] for chunk in chunks]
        self.assertEqual(choices[0].delta.role, "assistant")
        self.assertEqual(choices[-1].finish_reason, "stop")
        words = [choice.delta.content for choice in choices if choice.delta.content]
        self.assertGreater(len(words), 20)
        self.assertIn("Hello, proxy!", "".join(words))
        # It is told in more than a second: nothing was held back until the end.
        self.assertGreater(timed[-1][0] - timed[0][0], 0.3)

    def check_stream_usage(self, chunks):
        self.assertEqual([chunk for chunk in chunks[:-1] if chunk.usage], [])
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.total_tokens, 0)

    def check_tool_call(self, answer):
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        [call] = answer.choices[0].message.tool_calls
        self.check_call(call.id, call.function.name, call.function.arguments)

    def check_streamed_tool_call(self, chunks):
        self.assertEqual(chunks[-1].choices[0].finish_reason, "tool_calls")
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        self.assertEqual({call.index for call in calls}, {0})
        self.assertGreater(len(calls), 2)
        arguments = "".join(call.function.arguments for call in calls)
        self.check_call(calls[0].id, calls[0].function.name, arguments)

    def check_call(self, id, name, arguments):
        self.assertTrue(id)
        self.assertEqual(name, "get_weather")
        arguments = json.loads(arguments)
        self.assertIsInstance(arguments["city"], str)
        self.assertEqual(arguments["unit"], "celsius")
        self.assertIsInstance(arguments["days"], int)

    def check_headers(self, headers):
        self.assertRegex(headers["x-request-id"], "^req_")
        self.assertEqual(headers["openai-version"], "2020-10-01")
        self.assertIn("openai-processing-ms", headers)
        for of in ["requests", "tokens"]:
            for what in ["limit", "remaining", "reset"]:
                self.assertIn(f"x-ratelimit-{what}-{of}", headers)

    def check_error(self, error, status, code):
        self.assertEqual(error.status_code, status)
        self.assertEqual(error.code, code)
        self.assertTrue(error.body["message"])
        self.assertIn("param", error.body)

    def check_api_error(self, error, status, code):
        self.check_error(error, status, code)
        self.assertRegex(error.request_id, "^req_")
        self.assertNotIn("proxy-status", error.response.headers)
        if status == 429:
            self.assertEqual(error.response.headers["retry-after"], "1")
            self.assertEqual(error.response.headers["x-ratelimit-remaining-requests"], "0")

    def check_proxy_error(self, error, status, code):
        self.check_error(error, status, code)
        self.assertEqual(error.type, "proxy_error" if status >= 500 else "invalid_request_error")
        self.assertIn(f"error={code}", error.response.headers["proxy-status"])


class Sync(Checks, unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(max_retries=0, timeout=20)
        self.chained = self.client.with_options(base_url=CHAINED_BASE_URL)
        self.addCleanup(self.client.close)

    def create(self, **request):
        return self.client.chat.completions.create(**request)

    def test_answer(self):
        self.check_answer(self.create(**HELLO))

    def test_stream(self):
        self.check_stream([(time.monotonic(), it) for it in self.create(**HELLO, stream=True)])

    def test_stream_with_usage(self):
        options = {"include_usage": True}
        self.check_stream_usage(list(self.create(**HELLO, stream=True, stream_options=options)))

    def test_tool_call(self):
        self.check_tool_call(self.create(**HELLO, tools=[TOOL]))

    def test_streamed_tool_call(self):
        self.check_streamed_tool_call(list(self.create(**HELLO, tools=[TOOL], stream=True)))

    def test_raw_headers(self):
        raw = self.client.chat.completions.with_raw_response.create(**HELLO)
        self.check_headers(raw.headers)
        self.check_answer(raw.parse())

    def test_raw_headers_of_a_stream(self):
        streaming = self.client.chat.completions.with_streaming_response
        with streaming.create(**HELLO, stream=True) as raw:
            self.check_headers(raw.headers)
            self.assertEqual(list(raw.iter_lines())[-2:], ["data: [DONE]", ""])

    def test_model_override(self):
        self.assertEqual(self.create(**HELLO, **to_backend("OTHER")).model, "other-model")

    def test_abort(self):
        for model in ["gpt-demo", "demo-silent"]:
            with self.subTest(model):
                stream = self.create(**asking(model, stream=True))
                next(stream)
                next(stream)
                started = time.monotonic()
                stream.close()
                self.assertLess(time.monotonic() - started, 5)
                self.check_answer(self.create(**HELLO))

    def test_api_errors(self):
        for model, exception, status, code in API_ERRORS:
            for stream in [False, True]:
                with self.subTest(model, stream=stream):
                    with self.assertRaises(exception) as raised:
                        self.create(**asking(model, stream=stream))
                    self.check_api_error(raised.exception, status, code)

    def test_client_timeout(self):
        with self.assertRaises(openai.APITimeoutError):
            self.create(**asking("demo-silent"), timeout=0.3)

    def test_broken_stream(self):
        words = []
        with self.assertRaises(openai.APIConnectionError):
            for chunk in self.create(**asking("demo-break", stream=True)):
                words.append(chunk)
        self.assertGreater(len(words), 1)

    def test_broken_answer(self):
        with self.assertRaises(openai.APIConnectionError):
            self.create(**asking("demo-break"))

    def test_proxy_errors(self):
        for backend, request, exception, status, code in PROXY_ERRORS:
            with self.subTest(code, stream="stream" in request):
                with self.assertRaises(exception) as raised:
                    self.chained.chat.completions.create(**request, **to_backend(backend))
                self.check_proxy_error(raised.exception, status, code)

    def test_no_credentials(self):
        anonymous = {"extra_headers": {"Authorization": openai.Omit()}}
        with self.assertRaises(openai.AuthenticationError) as raised:
            self.create(**HELLO, **anonymous)
        self.check_proxy_error(raised.exception, 401, "http_request_denied")

    def test_chain(self):
        """The refused backend comes first: the next one answers."""
        self.check_answer(self.chained.chat.completions.create(**HELLO))
        stream = self.chained.chat.completions.create(**HELLO, stream=True)
        self.check_stream([(time.monotonic(), it) for it in stream])

    def test_silent_stream_breaks_off(self):
        request = asking("demo-silent", stream=True, **to_backend("CHAINED"))
        with self.assertRaises(openai.APIConnectionError) as raised:
            list(self.chained.chat.completions.create(**request))
        self.assertNotIsInstance(raised.exception, openai.APITimeoutError)


class Async(Checks, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = openai.AsyncOpenAI(max_retries=0, timeout=20)
        self.chained = self.client.with_options(base_url=CHAINED_BASE_URL)
        self.addAsyncCleanup(self.client.close)

    async def create(self, **request):
        return await self.client.chat.completions.create(**request)

    async def test_answer(self):
        self.check_answer(await self.create(**HELLO))

    async def test_stream(self):
        stream = await self.create(**HELLO, stream=True)
        self.check_stream([(time.monotonic(), it) async for it in stream])

    async def test_stream_with_usage(self):
        options = {"include_usage": True}
        stream = await self.create(**HELLO, stream=True, stream_options=options)
        self.check_stream_usage([chunk async for chunk in stream])

    async def test_tool_call(self):
        self.check_tool_call(await self.create(**HELLO, tools=[TOOL]))

    async def test_streamed_tool_call(self):
        stream = await self.create(**HELLO, tools=[TOOL], stream=True)
        self.check_streamed_tool_call([chunk async for chunk in stream])

    async def test_raw_headers(self):
        raw = await self.client.chat.completions.with_raw_response.create(**HELLO)
        self.check_headers(raw.headers)
        self.check_answer(raw.parse())

    async def test_raw_headers_of_a_stream(self):
        streaming = self.client.chat.completions.with_streaming_response
        async with streaming.create(**HELLO, stream=True) as raw:
            self.check_headers(raw.headers)
            lines = [line async for line in raw.iter_lines()]
            self.assertEqual(lines[-2:], ["data: [DONE]", ""])

    async def test_model_override(self):
        answer = await self.create(**HELLO, **to_backend("OTHER"))
        self.assertEqual(answer.model, "other-model")

    async def test_abort(self):
        for model in ["gpt-demo", "demo-silent"]:
            with self.subTest(model):
                stream = await self.create(**asking(model, stream=True))
                await anext(stream)
                await anext(stream)
                started = time.monotonic()
                await stream.close()
                self.assertLess(time.monotonic() - started, 5)
                self.check_answer(await self.create(**HELLO))

    async def test_abort_before_an_answer(self):
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.create(**asking("demo-silent")), 0.3)
        self.check_answer(await self.create(**HELLO))

    async def test_many_streams_at_once(self):
        async def timed():
            stream = await self.create(**HELLO, stream=True)
            return [(time.monotonic(), chunk) async for chunk in stream]

        for stream in await asyncio.gather(*(timed() for _ in range(20))):
            self.check_stream(stream)

    async def test_api_errors(self):
        for model, exception, status, code in API_ERRORS:
            for stream in [False, True]:
                with self.subTest(model, stream=stream):
                    with self.assertRaises(exception) as raised:
                        await self.create(**asking(model, stream=stream))
                    self.check_api_error(raised.exception, status, code)

    async def test_client_timeout(self):
        with self.assertRaises(openai.APITimeoutError):
            await self.create(**asking("demo-silent"), timeout=0.3)

    async def test_broken_stream(self):
        words = []
        with self.assertRaises(openai.APIConnectionError):
            async for chunk in await self.create(**asking("demo-break", stream=True)):
                words.append(chunk)
        self.assertGreater(len(words), 1)

    async def test_broken_answer(self):
        with self.assertRaises(openai.APIConnectionError):
            await self.create(**asking("demo-break"))

    async def test_proxy_errors(self):
        for backend, request, exception, status, code in PROXY_ERRORS:
            with self.subTest(code, stream="stream" in request):
                with self.assertRaises(exception) as raised:
                    await self.chained.chat.completions.create(**request, **to_backend(backend))
                self.check_proxy_error(raised.exception, status, code)

    async def test_no_credentials(self):
        anonymous = {"extra_headers": {"Authorization": openai.Omit()}}
        with self.assertRaises(openai.AuthenticationError) as raised:
            await self.create(**HELLO, **anonymous)
        self.check_proxy_error(raised.exception, 401, "http_request_denied")

    async def test_chain(self):
        """The refused backend comes first: the next one answers."""
        self.check_answer(await self.chained.chat.completions.create(**HELLO))
        stream = await self.chained.chat.completions.create(**HELLO, stream=True)
        self.check_stream([(time.monotonic(), it) async for it in stream])

    async def test_silent_stream_breaks_off(self):
        request = asking("demo-silent", stream=True, **to_backend("CHAINED"))
        with self.assertRaises(openai.APIConnectionError) as raised:
            async for _ in await self.chained.chat.completions.create(**request):
                pass
        self.assertNotIsInstance(raised.exception, openai.APITimeoutError)


if __name__ == "__main__":
    unittest.main(verbosity=2)
