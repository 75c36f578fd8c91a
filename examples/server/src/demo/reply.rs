//! What the mock says.

use serde_json::{Value, json};

use super::{
    id,
    sample::sample,
    text::{excerpt, words},
};

/// What a request asks for.
#[derive(Default)]
pub(super) struct Prompt<'a> {
    /// The user's last message.
    pub(super) text: String,
    /// The result of the tool call that came last.
    pub(super) tool_output: Option<String>,
    /// The function to call: `name` and `parameters`.
    pub(super) function: Option<&'a Value>,
    pub(super) format: Format<'a>,
    pub(super) max_tokens: Option<u64>,
}

#[derive(Default)]
pub(super) enum Format<'a> {
    #[default]
    Text,
    Json,
    Schema(&'a Value),
}

impl<'a> Format<'a> {
    pub(super) fn new(kind: &Value, schema: &'a Value) -> Self {
        match kind.as_str() {
            Some("json_schema") => Self::Schema(schema),
            Some("json_object") => Self::Json,
            _ => Self::Text,
        }
    }
}

/// The API's limit.
const MAX_NAME: usize = 64;

/// The function that `tool_choice` names, else the first one.
pub(super) fn choose<'a>(
    mut functions: impl Iterator<Item = &'a Value>,
    tool_choice: &Value,
    chosen: &Value,
) -> Option<&'a Value> {
    if tool_choice == "none" {
        return None;
    }
    functions.find(|function| match &function["name"] {
        Value::String(name) if name.len() <= MAX_NAME => chosen.is_null() || chosen == name,
        _ => false,
    })
}

/// What the assistant says, or the arguments of the tool it calls.
pub(super) struct Reply {
    pub(super) words: Vec<String>,
    pub(super) call: Option<Call>,
    /// Whether it would have more words without `max_tokens`.
    pub(super) truncated: bool,
}

pub(super) struct Call {
    pub(super) id: String,
    /// The function's.
    pub(super) name: String,
}

impl Reply {
    pub(super) fn new(prompt: &Prompt<'_>) -> Self {
        if let (Some(function), None) = (prompt.function, &prompt.tool_output) {
            let name = function["name"].as_str().unwrap_or_default();
            return Self {
                words: words(&sample(&function["parameters"])),
                call: Some(Call {
                    id: id::unique("call_"),
                    name: name.to_owned(),
                }),
                truncated: false,
            };
        }
        let mut words = words(&match (&prompt.format, &prompt.tool_output) {
            (Format::Schema(schema), _) => sample(schema),
            (Format::Json, _) => json!({ "demo": true }).to_string(),
            (Format::Text, Some(output)) => format!(
                "The tool answered: {}. A real model would now put that into words, but this is \
                 the demo.",
                excerpt(output),
            ),
            (Format::Text, None) => format!(
                "Hello from the demo! You said: {}. No model wrote this answer, but it came \
                 through the proxy just as a real one does, word by word if you asked for a \
                 stream. Put the URL and the key of a real API into the configuration, omit \
                 --demo, and nothing else changes.",
                excerpt(&prompt.text),
            ),
        });
        let limit = prompt.max_tokens.map(usize::try_from);
        let limit = limit.and_then(Result::ok).unwrap_or(usize::MAX);
        let truncated = words.len() > limit;
        words.truncate(limit);
        Self {
            words,
            call: None,
            truncated,
        }
    }

    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.words.len() as u64
    }
}
