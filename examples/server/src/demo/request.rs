//! The JSON of a request.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::error::{ApiError, NOT_JSON};

/// Parsed, it may take twenty times as much memory.
const MAX_BYTES: usize = 16 * 1024 * 1024;

pub(super) async fn json(body: &mut Incoming) -> Result<Value, ApiError> {
    let bytes = match Limited::new(body, MAX_BYTES).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("The demo takes at most {MAX_BYTES} bytes of JSON.");
            return Err(ApiError::new(413, None, message));
        }
        Err(_) => return Err(ApiError::new(400, None, NOT_JSON)),
    };
    serde_json::from_slice(&bytes).map_err(|_| ApiError::new(400, None, NOT_JSON))
}

pub(super) fn model(request: &Value) -> Result<&str, ApiError> {
    let model = request["model"].as_str().filter(|model| !model.is_empty());
    model.ok_or_else(|| ApiError::new(400, None, "you must provide a model parameter"))
}

pub(super) fn required<'a>(request: &'a Value, param: &'static str) -> Result<&'a Value, ApiError> {
    let value = &request[param];
    let is_missing = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if is_missing {
        return Err(ApiError::missing(param));
    }
    Ok(value)
}
