"""Clients for Python that others wrote, each with its defaults. Started by `run`."""

import os
import unittest

# None of these may call its maker's servers.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

import agents
import langchain_openai
import litellm
import openai
import pydantic
import pydantic_ai

TEXT = "Hello, proxy!"
RAIN = "Rain, all day"


def get_weather(city: str) -> str:
    """Tells the weather in a city."""
    return RAIN


class Weather(pydantic.BaseModel):
    city: str
    degrees: float


class LangChain(unittest.TestCase):
    def setUp(self):
        self.chat = langchain_openai.ChatOpenAI(model="gpt-demo")

    def test_invoke(self):
        message = self.chat.invoke(TEXT)
        self.assertIn(TEXT, message.content)
        self.assertGreater(message.usage_metadata["total_tokens"], 20)

    def test_stream(self):
        chunks = [chunk.content for chunk in self.chat.stream(TEXT)]
        self.assertGreater(len(chunks), 20)
        self.assertIn(TEXT, "".join(chunks))

    def test_tool(self):
        [call] = self.chat.bind_tools([get_weather]).invoke(TEXT).tool_calls
        self.assertEqual((call["name"], call["args"]), ("get_weather", {"city": "demo city"}))

    def test_structured_output(self):
        weather = self.chat.with_structured_output(Weather).invoke(TEXT)
        self.assertIsInstance(weather, Weather)

    def test_responses(self):
        chat = langchain_openai.ChatOpenAI(model="gpt-demo", use_responses_api=True)
        self.assertIn(TEXT, chat.invoke(TEXT).text)
        self.assertIn(TEXT, "".join(chunk.text for chunk in chat.stream(TEXT)))

    def test_embeddings(self):
        # To count tokens, it would download a vocabulary.
        embeddings = langchain_openai.OpenAIEmbeddings(check_embedding_ctx_length=False)
        self.assertEqual([len(it) for it in embeddings.embed_documents(["one", "two"])], [8, 8])


class OpenAIAgents(unittest.IsolatedAsyncioTestCase):
    async def test_agents(self):
        """In one test, as the agents share a client, which belongs to an event loop."""
        agent = agents.Agent(name="Demo", model="gpt-demo")
        with self.subTest("run"):
            result = await agents.Runner.run(agent, TEXT)
            self.assertIn(TEXT, result.final_output)
        with self.subTest("stream"):
            result = agents.Runner.run_streamed(agent, TEXT)
            kinds = {event.type async for event in result.stream_events()}
            self.assertIn("raw_response_event", kinds)
            self.assertIn(TEXT, result.final_output)
        with self.subTest("tool"):
            agent = agent.clone(tools=[agents.function_tool(get_weather)])
            result = await agents.Runner.run(agent, TEXT)
            self.assertIn(RAIN, result.final_output)


class PydanticAI(unittest.IsolatedAsyncioTestCase):
    async def test_run(self):
        for model in ["openai-chat:gpt-demo", "openai-responses:gpt-demo"]:
            with self.subTest(model):
                agent = pydantic_ai.Agent(model)
                self.assertIn(TEXT, (await agent.run(TEXT)).output)

    async def test_stream(self):
        for model in ["openai-chat:gpt-demo", "openai-responses:gpt-demo"]:
            with self.subTest(model):
                async with pydantic_ai.Agent(model).run_stream(TEXT) as result:
                    texts = [text async for text in result.stream_text()]
                self.assertGreater(len(texts), 1)
                self.assertIn(TEXT, texts[-1])

    async def test_tool(self):
        agent = pydantic_ai.Agent("openai:gpt-demo", tools=[get_weather])
        self.assertIn(RAIN, (await agent.run(TEXT)).output)

    async def test_structured_output(self):
        agent = pydantic_ai.Agent("openai:gpt-demo", output_type=Weather)
        self.assertIsInstance((await agent.run(TEXT)).output, Weather)


class LiteLLM(unittest.TestCase):
    ASK = {"model": "openai/gpt-demo", "messages": [{"role": "user", "content": TEXT}]}

    def test_completion(self):
        answer = litellm.completion(**self.ASK)
        self.assertIn(TEXT, answer.choices[0].message.content)
        self.assertGreater(answer.usage.total_tokens, 20)

    def test_stream(self):
        chunks = litellm.completion(**self.ASK, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertIn(TEXT, text)

    def test_responses(self):
        response = litellm.responses(model="openai/gpt-demo", input=TEXT)
        self.assertIn(TEXT, response.output[0].content[0].text)

    def test_embedding(self):
        answer = litellm.embedding(model="openai/gpt-demo", input=["one", "two"])
        self.assertEqual([len(it["embedding"]) for it in answer.data], [8, 8])

    def test_error(self):
        with self.assertRaises(openai.RateLimitError):
            litellm.completion(**{**self.ASK, "model": "openai/demo-429"}, max_retries=0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
