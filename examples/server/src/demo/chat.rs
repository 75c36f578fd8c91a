//! `/chat/completions`.

use serde_json::{Value, json};

use super::{
    answer::Answer,
    completion::{self, Shape, Step},
    error::ApiError,
    reply::{Call, Format, Prompt, Reply, choose},
    request,
    text::{last_of_user, text_of, tokens},
};

static SHAPE: Shape = Shape {
    id_prefix: "chatcmpl-",
    object: "chat.completion",
    chunk_object: "chat.completion.chunk",
    choice: |reply| json!({ "message": message(reply) }),
    delta: |reply, step| json!({ "delta": delta(reply, step) }),
};

/// The stored completions: there are none.
pub(super) fn list() -> Answer {
    Answer::Json(json!({ "object": "list", "data": [], "has_more": false }))
}

pub(super) fn create(request: &Value) -> Result<Answer, ApiError> {
    let messages = request::required(request, "messages")?;
    let messages = messages.as_array().map_or(&[][..], Vec::as_slice);
    let limits = [&request["max_completion_tokens"], &request["max_tokens"]];
    let format = &request["response_format"];
    let after_tool = messages.last().filter(|last| last["role"] == "tool");
    let reply = Reply::new(&Prompt {
        text: last_of_user(messages),
        tool_output: after_tool.map(|message| text_of(&message["content"])),
        function: function(request),
        format: Format::new(&format["type"], &format["json_schema"]["schema"]),
        max_tokens: limits.into_iter().find_map(Value::as_u64),
    });
    let prompt_tokens = messages.iter().map(|it| tokens(&text_of(&it["content"])));
    completion::complete(&SHAPE, request, reply, prompt_tokens.sum())
}

fn function(request: &Value) -> Option<&Value> {
    let tools = request["tools"].as_array()?.iter();
    let functions = tools.map(|tool| &tool["function"]);
    let choice = &request["tool_choice"];
    choose(functions, choice, &choice["function"]["name"])
}

fn message(reply: &Reply) -> Value {
    let mut message = json!({
        "role": "assistant",
        "content": null,
        "refusal": null,
        "annotations": [],
    });
    match &reply.call {
        None => message["content"] = reply.text().into(),
        Some(call) => message["tool_calls"] = json!([tool_call(call, &reply.text())]),
    }
    message
}

fn delta(reply: &Reply, step: Step<'_>) -> Value {
    match (step, &reply.call) {
        (Step::First, None) => json!({ "role": "assistant", "content": "", "refusal": null }),
        (Step::First, Some(call)) => {
            let mut call = tool_call(call, "");
            call["index"] = 0.into();
            json!({
                "role": "assistant",
                "content": null,
                "tool_calls": [call],
                "refusal": null,
            })
        }
        (Step::Word(word), None) => json!({ "content": word }),
        (Step::Word(word), Some(_)) => {
            json!({ "tool_calls": [{ "index": 0, "function": { "arguments": word } }] })
        }
        (Step::Last, _) => json!({}),
    }
}

fn tool_call(call: &Call, arguments: &str) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": arguments },
    })
}
