"""OpenAI's SDK for Python at the endpoints besides chat. Started by `run`."""

import base64
import os
import struct
import tempfile
import time
import unittest

import openai
from pydantic import BaseModel

QUESTION = {"model": "gpt-demo", "input": "Hello, proxy!"}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
# Of the server at UPLOAD_BASE_URL, which is one process with its mock.
STATUS = f"/proc/{os.environ['UPLOAD_PID']}/status"


class Weather(BaseModel):
    city: str
    degrees: float


def zeros(length):
    """A temporary file."""
    file = tempfile.NamedTemporaryFile(suffix=".bin")
    file.truncate(length)
    return file


def peak_memory():
    """In kB."""
    with open(STATUS) as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1])


class Checks:
    """What both clients have to see."""

    def check_response(self, response):
        self.assertEqual((response.model, response.status), ("gpt-demo", "completed"))
        self.assertIn("Hello, proxy!", response.output_text)
        usage = response.usage
        self.assertEqual(usage.input_tokens, 2)
        self.assertGreater(usage.output_tokens, 20)
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)

    def check_events(self, timed):
        """`timed`: the events, each with the time of its arrival."""
        events = [event for _, event in timed]
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual([it.sequence_number for it in events], list(range(len(events))))
        deltas = [it for it in timed if it[1].type == "response.output_text.delta"]
        # It takes more than a second: nothing was buffered until the end.
        self.assertGreater(deltas[-1][0] - deltas[0][0], 0.3)
        self.assertEqual(events[-1].type, "response.completed")
        self.check_response(events[-1].response)
        text = "".join(event.delta for _, event in deltas)
        self.assertEqual(text, events[-1].response.output_text)

    def check_embeddings(self, answer):
        self.assertEqual([it.index for it in answer.data], [0, 1])
        for vector in (it.embedding for it in answer.data):
            self.assertEqual(len(vector), 8)
            self.assertAlmostEqual(sum(number * number for number in vector), 1, places=5)
        self.assertEqual(answer.usage.total_tokens, 2)


class Sync(Checks, unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(max_retries=0, timeout=60)
        self.addCleanup(self.client.close)

    def test_models(self):
        ids = [model.id for model in self.client.models.list()]
        self.assertIn("gpt-4o", ids)
        for id in ["gpt-4o", "maker/model"]:
            self.assertEqual(self.client.models.retrieve(id).id, id)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("demo-404")

    def test_response(self):
        self.check_response(self.client.responses.create(**QUESTION))

    def test_response_as_stream(self):
        stream = self.client.responses.create(**QUESTION, stream=True)
        self.check_events([(time.monotonic(), event) for event in stream])

    def test_response_as_stream_helper(self):
        with self.client.responses.stream(**QUESTION) as stream:
            for _ in stream:
                pass
            self.check_response(stream.get_final_response())

    def test_response_with_tool(self):
        for stream in [False, True]:
            with self.subTest(stream=stream):
                response = self.client.responses.create(**QUESTION, tools=[TOOL], stream=stream)
                if stream:
                    response = list(response)[-1].response
                [call] = response.output
                self.assertEqual((call.type, call.name), ("function_call", "get_weather"))
                self.assertEqual(call.arguments, '{"city":"demo city"}')
                output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}
                answer = self.client.responses.create(
                    model="gpt-demo", input=[call.model_dump(), output], tools=[TOOL]
                )
                self.assertIn("Rain", answer.output_text)

    def test_response_as_object(self):
        response = self.client.responses.parse(**QUESTION, text_format=Weather)
        self.assertIsInstance(response.output_parsed, Weather)

    def test_response_cut_short(self):
        response = self.client.responses.create(**QUESTION, max_output_tokens=2)
        self.assertEqual(response.status, "incomplete")
        self.assertEqual(response.incomplete_details.reason, "max_output_tokens")
        self.assertEqual(response.output_text, "Hello from ")

    def test_response_broken(self):
        with self.assertRaises(openai.APIConnectionError):
            list(self.client.responses.create(**{**QUESTION, "model": "demo-break"}, stream=True))

    def test_embeddings(self):
        ask = {"model": "gpt-demo", "input": ["one", "two"]}
        # By default the SDK asks for base64.
        decoded = self.client.embeddings.create(**ask)
        self.check_embeddings(decoded)
        floats = self.client.embeddings.create(**ask, encoding_format="float")
        self.check_embeddings(floats)
        for one, other in zip(decoded.data[0].embedding, floats.data[0].embedding):
            self.assertAlmostEqual(one, other, places=6)
        long = self.client.embeddings.create(**ask, dimensions=1536)
        self.assertEqual(len(long.data[1].embedding), 1536)

    def test_completions(self):
        ask = {"model": "gpt-demo", "prompt": "Hello, proxy!"}
        answer = self.client.completions.create(**ask)
        self.assertIn("Hello, proxy!", answer.choices[0].text)
        self.assertGreater(answer.usage.completion_tokens, 20)
        stream = self.client.completions.create(**ask, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in stream), answer.choices[0].text)

    def test_transcriptions(self):
        with zeros(5_000_000) as audio:
            answer = self.client.audio.transcriptions.create(model="whisper-1", file=audio.file)
            self.assertIn(" 5000000 bytes ", answer.text)
            with self.assertRaises(openai.RateLimitError):
                self.client.audio.transcriptions.create(model="demo-429", file=audio.file)

    def test_images(self):
        answer = self.client.images.generate(model="gpt-image-1", prompt="A proxy", n=2)
        for image in answer.data:
            png = base64.b64decode(image.b64_json, validate=True)
            self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
            self.assertEqual(struct.unpack(">II", png[16:24]), (1, 1))

    @unittest.skipUnless(os.path.exists(STATUS), "no /proc")
    def test_large_upload(self):
        client = self.client.with_options(base_url=os.environ["UPLOAD_BASE_URL"])
        with zeros(100_000_000) as upload:
            file = client.files.create(file=upload.file, purpose="user_data")
            self.assertEqual(file.bytes, 100_000_000)
            self.assertEqual(file.filename, os.path.basename(upload.name))
            self.assertEqual((file.purpose, file.status), ("user_data", "processed"))
        self.assertLess(peak_memory(), 30_000)


class Async(Checks, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = openai.AsyncOpenAI(max_retries=0, timeout=60)
        self.addAsyncCleanup(self.client.close)

    async def test_models(self):
        ids = [model.id async for model in self.client.models.list()]
        self.assertIn("gpt-4o", ids)

    async def test_response(self):
        self.check_response(await self.client.responses.create(**QUESTION))

    async def test_response_as_stream(self):
        stream = await self.client.responses.create(**QUESTION, stream=True)
        self.check_events([(time.monotonic(), event) async for event in stream])

    async def test_embeddings(self):
        ask = {"model": "gpt-demo", "input": ["one", "two"]}
        self.check_embeddings(await self.client.embeddings.create(**ask))

    async def test_uploads(self):
        with zeros(5_000_000) as upload:
            transcriptions = self.client.audio.transcriptions
            answer = await transcriptions.create(model="whisper-1", file=upload.file)
            self.assertIn(" 5000000 bytes ", answer.text)
            upload.seek(0)
            file = await self.client.files.create(file=upload.file, purpose="user_data")
            self.assertEqual(file.bytes, 5_000_000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
