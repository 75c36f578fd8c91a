//! `/completions`.

use serde_json::{Value, json};

use super::{
    answer::Answer,
    completion::{self, Shape, Step},
    error::ApiError,
    reply::{Prompt, Reply},
    request,
    text::tokens,
};

static SHAPE: Shape = Shape {
    id_prefix: "cmpl-",
    object: "text_completion",
    chunk_object: "text_completion",
    choice: |reply| json!({ "text": reply.text() }),
    delta: |_, step| match step {
        Step::First | Step::Last => json!({ "text": "" }),
        Step::Word(word) => json!({ "text": word }),
    },
};

/// Completes the prompt, the first one of several.
pub(super) fn create(request: &Value) -> Result<Answer, ApiError> {
    let prompt = request::required(request, "prompt")?;
    let text = prompt.as_str().or(prompt[0].as_str()).unwrap_or_default();
    let reply = Reply::new(&Prompt {
        text: text.to_owned(),
        max_tokens: request["max_tokens"].as_u64(),
        ..Prompt::default()
    });
    completion::complete(&SHAPE, request, reply, tokens(text))
}
