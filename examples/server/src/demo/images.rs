//! `/images/generations`.

use serde_json::{Value, json};

use super::{answer::Answer, error::ApiError, id, request, text::tokens};

/// One green pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mMQ\
    WFwPAAH5ATMkmPowAAAAAElFTkSuQmCC";

/// The images are all the same.
pub(super) fn generate(request: &Value) -> Result<Answer, ApiError> {
    let prompt = request::required(request, "prompt")?;
    let images = request["n"].as_u64().unwrap_or(1).clamp(1, 10);
    let data: Vec<_> = (0..images).map(|_| json!({ "b64_json": PNG })).collect();
    let input_tokens = tokens(prompt.as_str().unwrap_or_default());
    Ok(Answer::Json(json!({
        "created": id::now(),
        "background": "opaque",
        "output_format": "png",
        "data": data,
        "usage": {
            "input_tokens": input_tokens,
            "input_tokens_details": { "image_tokens": 0, "text_tokens": input_tokens },
            "output_tokens": images,
            "total_tokens": input_tokens + images,
        },
    })))
}
