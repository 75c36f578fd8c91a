//! What chat completions and completions have in common.

use serde_json::{Value, json};

use super::{
    answer::{Answer, event},
    error::ApiError,
    id,
    reply::Reply,
    request,
};

/// How an endpoint writes its completions.
pub(super) struct Shape {
    pub(super) id_prefix: &'static str,
    pub(super) object: &'static str,
    pub(super) chunk_object: &'static str,
    /// A choice of a whole answer.
    pub(super) choice: fn(&Reply) -> Value,
    /// A choice of a stream's event.
    pub(super) delta: fn(&Reply, Step<'_>) -> Value,
}

pub(super) enum Step<'a> {
    First,
    Word(&'a str),
    Last,
}

struct Completion {
    shape: &'static Shape,
    id: String,
    created: u64,
    model: String,
    choices: u64,
    reply: Reply,
    prompt_tokens: u64,
    /// Whether a stream's events have `usage`.
    include_usage: bool,
}

/// Completes a prompt of this many tokens.
pub(super) fn complete(
    shape: &'static Shape,
    request: &Value,
    reply: Reply,
    prompt_tokens: u64,
) -> Result<Answer, ApiError> {
    let completion = Completion {
        shape,
        id: id::unique(shape.id_prefix),
        created: id::now(),
        model: request::model(request)?.to_owned(),
        choices: request["n"].as_u64().unwrap_or(1).clamp(1, 128),
        reply,
        prompt_tokens,
        include_usage: request["stream_options"]["include_usage"] == true,
    };
    Ok(if request["stream"] == true {
        completion.stream()
    } else {
        Answer::Json(completion.whole())
    })
}

impl Completion {
    fn whole(&self) -> Value {
        let choice = |index| {
            let choice = (self.shape.choice)(&self.reply);
            numbered(choice, index, Some(self.finish_reason()))
        };
        let mut whole = self.envelope(self.shape.object);
        whole["choices"] = (0..self.choices).map(choice).collect();
        whole["usage"] = self.usage();
        whole
    }

    /// Several choices advance side by side.
    fn stream(self) -> Answer {
        let mut closing = self.step(Step::Last);
        if self.include_usage {
            closing += &self.event(json!([]), self.usage());
        }
        closing += "data: [DONE]\n\n";
        let words = 0..self.reply.words.len();
        Answer::Stream {
            opening: self.step(Step::First),
            words: Box::new(words.map(move |at| self.step(Step::Word(&self.reply.words[at])))),
            closing,
        }
    }

    /// An event for each choice.
    fn step(&self, step: Step<'_>) -> String {
        let finish_reason = matches!(step, Step::Last).then(|| self.finish_reason());
        let delta = (self.shape.delta)(&self.reply, step);
        let choice = |index| numbered(delta.clone(), index, finish_reason);
        let events = (0..self.choices).map(|index| self.event(json!([choice(index)]), Value::Null));
        events.collect()
    }

    fn event(&self, choices: Value, usage: Value) -> String {
        let mut chunk = self.envelope(self.shape.chunk_object);
        chunk["choices"] = choices;
        if self.include_usage {
            chunk["usage"] = usage;
        }
        event(&chunk)
    }

    fn envelope(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_demo",
        })
    }

    fn finish_reason(&self) -> &'static str {
        match &self.reply {
            Reply { call: Some(_), .. } => "tool_calls",
            Reply {
                truncated: true, ..
            } => "length",
            _ => "stop",
        }
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.choices * self.reply.tokens();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": { "cached_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        })
    }
}

fn numbered(mut choice: Value, index: u64, finish_reason: Option<&str>) -> Value {
    choice["index"] = index.into();
    choice["logprobs"] = Value::Null;
    choice["finish_reason"] = finish_reason.into();
    choice
}
