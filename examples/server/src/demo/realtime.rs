//! `/realtime`: a conversation in text, by events.

use std::{mem, ops::ControlFlow, vec};

use serde_json::{Value, json};

use super::{
    answer::End,
    id,
    reply::{Prompt, Reply},
    text::{last_of_user, text_of, tokens},
};

/// The server's side of a conversation.
pub(super) struct Session {
    /// As clients see it and may change it.
    settings: Value,
    conversation_id: String,
    /// The user's last message, and what a tool has said since.
    text: String,
    tool_output: Option<String>,
    last_item: Option<String>,
    response: Option<Response>,
    /// How responses end.
    end: End,
    /// To be sent.
    events: Vec<Value>,
}

/// A response in progress.
struct Response {
    id: String,
    item_id: String,
    reply: Reply,
    /// Those that haven't been said.
    words: vec::IntoIter<String>,
    said: String,
    input_tokens: u64,
}

impl Session {
    pub(super) fn new(model: &str, end: End) -> Self {
        let settings = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": id::unique("sess_"),
            "model": model,
            "output_modalities": ["text"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "audio": {},
            "tracing": null,
            "truncation": "auto",
            "prompt": null,
            "include": null,
            "expires_at": id::now() + 3600,
        });
        let mut session = Self {
            settings,
            conversation_id: id::unique("conv_"),
            text: String::new(),
            tool_output: None,
            last_item: None,
            response: None,
            end,
            events: Vec::new(),
        };
        let settings = session.settings.clone();
        session.push("session.created", json!({ "session": settings }));
        session
    }

    /// What is to be sent now.
    pub(super) fn take_events(&mut self) -> Vec<Value> {
        mem::take(&mut self.events)
    }

    pub(super) fn receive(&mut self, text: &str) {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.refuse(&Value::Null, "invalid_json", "The event is not JSON.");
        };
        match event["type"].as_str().unwrap_or_default() {
            "session.update" => self.update(&event["session"]),
            "conversation.item.create" => self.add(&event),
            "response.create" => self.respond(&event),
            "response.cancel" => match self.response.take() {
                Some(response) => self.finish(&response, "cancelled"),
                None => {
                    let message = "Cancellation failed: no active response found";
                    self.refuse(&event, "response_cancel_not_active", message);
                }
            },
            // It isn't answered, and the demo hears nothing.
            "input_audio_buffer.append" => {}
            other => {
                let message = format!("The demo doesn't know the event type '{other}'.");
                self.refuse(&event, "invalid_value", &message);
            }
        }
    }

    fn update(&mut self, changes: &Value) {
        for (name, value) in changes.as_object().into_iter().flatten() {
            let is_fixed = matches!(&**name, "type" | "object" | "id" | "model" | "expires_at");
            if let Some(setting) = self.settings.get_mut(name).filter(|_| !is_fixed) {
                *setting = value.clone();
            }
        }
        let settings = self.settings.clone();
        self.push("session.updated", json!({ "session": settings }));
    }

    /// Adds the client's item to the conversation.
    fn add(&mut self, event: &Value) {
        let mut item = event["item"].clone();
        if !item["type"].is_string() {
            let message = "Missing required parameter: 'item.type'.";
            return self.refuse(event, "missing_required_parameter", message);
        }
        if !item["id"].is_string() {
            item["id"] = id::unique("item_").into();
        }
        item["object"] = "realtime.item".into();
        item["status"] = "completed".into();
        if item["type"] == "function_call_output" {
            self.tool_output = Some(text_of(&item["output"]));
        } else if item["role"] == "user" {
            self.text = text_of(&item["content"]);
            self.tool_output = None;
        }
        self.push_item("added", &item);
        self.push_item("done", &item);
        self.last_item = item["id"].as_str().map(str::to_owned);
    }

    fn respond(&mut self, event: &Value) {
        if self.response.is_some() {
            let message = "Conversation already has an active response in progress.";
            return self.refuse(event, "conversation_already_has_active_response", message);
        }
        let options = &event["response"];
        let text = match options["input"].as_array() {
            Some(items) => last_of_user(items),
            None => self.text.clone(),
        };
        let limits = [options, &self.settings].map(|from| from["max_output_tokens"].as_u64());
        let reply = Reply::new(&Prompt {
            tool_output: self.tool_output.take(),
            max_tokens: limits.into_iter().flatten().next(),
            text: text.clone(),
            ..Prompt::default()
        });
        let response = Response {
            id: id::unique("resp_"),
            item_id: id::unique("item_"),
            words: reply.words.clone().into_iter(),
            said: String::new(),
            input_tokens: tokens(&text),
            reply,
        };
        let begun = self.object(&response, "in_progress");
        self.push("response.created", json!({ "response": begun }));
        let item = response.item("in_progress");
        let added = json!({ "response_id": response.id, "output_index": 0, "item": item });
        self.push("response.output_item.added", added);
        self.push_item("added", &item);
        let part = response.in_part(json!({ "part": { "type": "text", "text": "" } }));
        self.push("response.content_part.added", part);
        self.response = Some(response);
    }

    pub(super) fn is_responding(&self) -> bool {
        self.response.is_some()
    }

    /// Says the next word of the response in progress, or ends it.
    pub(super) fn go_on(&mut self) -> ControlFlow<()> {
        let Some(mut response) = self.response.take() else {
            return ControlFlow::Continue(());
        };
        let said = response.said_words();
        match self.end {
            End::Broken if said == 4 => return ControlFlow::Break(()),
            End::Silent if said == 1 => {}
            End::Complete | End::Broken | End::Silent => match response.words.next() {
                Some(word) => {
                    response.said += &word;
                    let delta = response.in_part(json!({ "delta": word }));
                    self.push("response.output_text.delta", delta);
                }
                None => {
                    let is_whole = !response.reply.truncated;
                    let status = if is_whole { "completed" } else { "incomplete" };
                    self.finish(&response, status);
                    return ControlFlow::Continue(());
                }
            },
        }
        self.response = Some(response);
        ControlFlow::Continue(())
    }

    fn finish(&mut self, response: &Response, status: &str) {
        let text = &response.said;
        let done = response.in_part(json!({ "text": text }));
        self.push("response.output_text.done", done);
        let part = response.in_part(json!({ "part": { "type": "text", "text": text } }));
        self.push("response.content_part.done", part);
        let is_whole = status == "completed";
        let item = response.item(if is_whole { status } else { "incomplete" });
        self.push_item("done", &item);
        let done = json!({ "response_id": response.id, "output_index": 0, "item": item });
        self.push("response.output_item.done", done);
        let mut whole = self.object(response, status);
        whole["output"] = json!([item]);
        whole["usage"] = response.usage();
        let reason = match status {
            "incomplete" => Some("max_output_tokens"),
            "cancelled" => Some("client_cancelled"),
            _ => None,
        };
        if let Some(reason) = reason {
            whole["status_details"] = json!({ "type": status, "reason": reason });
        }
        self.push("response.done", json!({ "response": whole }));
        self.last_item = Some(response.item_id.clone());
    }

    /// A response without its output.
    fn object(&self, response: &Response, status: &str) -> Value {
        json!({
            "object": "realtime.response",
            "id": response.id,
            "conversation_id": self.conversation_id,
            "status": status,
            "status_details": null,
            "output": [],
            "output_modalities": ["text"],
            "max_output_tokens": self.settings["max_output_tokens"],
            "metadata": null,
            "usage": null,
        })
    }

    fn push_item(&mut self, what: &str, item: &Value) {
        let fields = json!({ "previous_item_id": self.last_item, "item": item });
        self.push(&format!("conversation.item.{what}"), fields);
    }

    /// Answers an event of the client that can't be taken.
    fn refuse(&mut self, event: &Value, code: &str, message: &str) {
        let error = json!({
            "type": "invalid_request_error",
            "code": code,
            "message": message,
            "param": null,
            "event_id": event["event_id"],
        });
        self.push("error", json!({ "error": error }));
    }

    fn push(&mut self, name: &str, mut fields: Value) {
        fields["type"] = name.into();
        fields["event_id"] = id::unique("event_").into();
        self.events.push(fields);
    }
}

impl Response {
    /// The message, as far as it has been said.
    fn item(&self, status: &str) -> Value {
        let part = json!({ "type": "output_text", "text": self.said });
        let content = Some(part).filter(|_| !self.said.is_empty());
        json!({
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": Vec::from_iter(content),
        })
    }

    /// The fields of an event, with where in the response it belongs.
    fn in_part(&self, mut fields: Value) -> Value {
        fields["response_id"] = self.id.clone().into();
        fields["item_id"] = self.item_id.clone().into();
        fields["output_index"] = 0.into();
        fields["content_index"] = 0.into();
        fields
    }

    fn said_words(&self) -> usize {
        self.reply.words.len() - self.words.len()
    }

    fn usage(&self) -> Value {
        let output_tokens = self.said_words();
        json!({
            "input_tokens": self.input_tokens,
            "input_token_details": {
                "text_tokens": self.input_tokens,
                "audio_tokens": 0,
                "cached_tokens": 0,
            },
            "output_tokens": output_tokens,
            "output_token_details": { "text_tokens": output_tokens, "audio_tokens": 0 },
            "total_tokens": self.input_tokens + output_tokens as u64,
        })
    }
}
