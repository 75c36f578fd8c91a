//! `/responses`.

use serde_json::{Value, json};

use super::{
    answer::Answer,
    error::ApiError,
    id,
    reply::{Format, Prompt, Reply, choose},
    request,
    text::{last_of_user, text_of, tokens},
};

pub(super) fn create(request: &Value) -> Result<Answer, ApiError> {
    let model = request::model(request)?.to_owned();
    let input = request::required(request, "input")?;
    let items = input.as_array().map_or(&[][..], Vec::as_slice);
    let text = match input {
        Value::String(text) => text.clone(),
        _ => last_of_user(items),
    };
    let last = items.last();
    let after_tool = last.filter(|last| last["type"] == "function_call_output");
    let format = &request["text"]["format"];
    let reply = Reply::new(&Prompt {
        text,
        tool_output: after_tool.map(|item| text_of(&item["output"])),
        function: function(request),
        format: Format::new(&format["type"], &format["schema"]),
        max_tokens: request["max_output_tokens"].as_u64(),
    });
    let of_items = items
        .iter()
        .flat_map(|item| [&item["content"], &item["output"]]);
    let texts = of_items.chain([input, &request["instructions"]]);
    let response = Response {
        id: id::unique("resp_"),
        item_id: id::unique(if reply.call.is_some() { "fc_" } else { "msg_" }),
        created_at: id::now(),
        model,
        input_tokens: texts.map(|text| tokens(&text_of(text))).sum(),
        reply,
    };
    Ok(if request["stream"] == true {
        response.stream()
    } else {
        Answer::Json(response.whole())
    })
}

fn function(request: &Value) -> Option<&Value> {
    let tools = request["tools"].as_array()?.iter();
    let functions = tools.filter(|tool| tool["type"] == "function");
    let choice = &request["tool_choice"];
    choose(functions, choice, &choice["name"])
}

struct Response {
    id: String,
    item_id: String,
    created_at: u64,
    model: String,
    input_tokens: u64,
    reply: Reply,
}

impl Response {
    fn whole(&self) -> Value {
        let mut whole = self.begun();
        whole["status"] = self.status().into();
        if self.reply.truncated {
            whole["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        whole["output"] = json!([self.item(self.status(), &self.reply.text())]);
        let output_tokens = self.reply.tokens();
        whole["usage"] = json!({
            "input_tokens": self.input_tokens,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": output_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": self.input_tokens + output_tokens,
        });
        whole
    }

    fn stream(self) -> Answer {
        let text = self.reply.text();
        let is_text = self.reply.call.is_none();

        let mut opening = Events::starting_at(0);
        opening.push("response.created", json!({ "response": self.begun() }));
        opening.push("response.in_progress", json!({ "response": self.begun() }));
        let item = self.item("in_progress", "");
        opening.push(
            "response.output_item.added",
            json!({ "output_index": 0, "item": item }),
        );
        if is_text {
            let part = self.in_item(json!({ "part": output_text("") }));
            opening.push("response.content_part.added", part);
        }

        let first_word = opening.next;
        let words = self.reply.words.len();
        let mut closing = Events::starting_at(first_word + words);
        if is_text {
            let done = self.in_item(json!({ "text": text, "logprobs": [] }));
            closing.push("response.output_text.done", done);
            let part = self.in_item(json!({ "part": output_text(&text) }));
            closing.push("response.content_part.done", part);
        } else {
            let done = self.in_item(json!({ "arguments": text }));
            closing.push("response.function_call_arguments.done", done);
        }
        let item = self.item(self.status(), &text);
        closing.push(
            "response.output_item.done",
            json!({ "output_index": 0, "item": item }),
        );
        let end = format!("response.{}", self.status());
        closing.push(&end, json!({ "response": self.whole() }));

        let words = (0..words).map(move |at| {
            let mut event = Events::starting_at(first_word + at);
            let word = &self.reply.words[at];
            if is_text {
                let delta = self.in_item(json!({ "delta": word, "logprobs": [] }));
                event.push("response.output_text.delta", delta);
            } else {
                let delta = self.in_item(json!({ "delta": word }));
                event.push("response.function_call_arguments.delta", delta);
            }
            event.text
        });
        Answer::Stream {
            opening: opening.text,
            words: Box::new(words),
            closing: closing.text,
        }
    }

    /// The response before it has any output.
    fn begun(&self) -> Value {
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "service_tier": "default",
            "store": false,
            "temperature": 1.0,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": null,
        })
    }

    /// The message, or the call, with as much of its text.
    fn item(&self, status: &str, text: &str) -> Value {
        match &self.reply.call {
            None => {
                let parts = Some(output_text(text)).filter(|_| !text.is_empty());
                json!({
                    "id": self.item_id,
                    "type": "message",
                    "status": status,
                    "role": "assistant",
                    "content": Vec::from_iter(parts),
                })
            }
            Some(call) => json!({
                "id": self.item_id,
                "type": "function_call",
                "status": status,
                "call_id": call.id,
                "name": call.name,
                "arguments": text,
            }),
        }
    }

    /// The fields of an event, with where in the output it belongs.
    fn in_item(&self, mut fields: Value) -> Value {
        fields["item_id"] = self.item_id.clone().into();
        fields["output_index"] = 0.into();
        if self.reply.call.is_none() {
            fields["content_index"] = 0.into();
        }
        fields
    }

    /// The last one.
    fn status(&self) -> &'static str {
        if self.reply.truncated {
            "incomplete"
        } else {
            "completed"
        }
    }
}

fn output_text(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// Consecutive events of a stream.
struct Events {
    /// The sequence number of the next one.
    next: usize,
    text: String,
}

impl Events {
    fn starting_at(next: usize) -> Self {
        let text = String::new();
        Self { next, text }
    }

    fn push(&mut self, name: &str, mut fields: Value) {
        fields["type"] = name.into();
        fields["sequence_number"] = self.next.into();
        self.next += 1;
        self.text += &format!("event: {name}\ndata: {fields}\n\n");
    }
}
