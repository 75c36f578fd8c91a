//! `/audio/transcriptions`.

use serde_json::json;

use super::{answer::Answer, error::ApiError, form::Form};

pub(super) fn transcribe(form: &Form) -> Result<Answer, ApiError> {
    let file = form.file()?;
    if form.field("model").is_none_or(str::is_empty) {
        return Err(ApiError::missing("model"));
    }
    let text = format!(
        "The demo can't hear, but {} bytes of {} came through the proxy.",
        file.bytes, file.name
    );
    Ok(Answer::Json(json!({
        "text": text,
        "usage": { "type": "duration", "seconds": 1 },
    })))
}
