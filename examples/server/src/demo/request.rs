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

/// Every event of a stream repeats the model's name.
const MAX_MODEL: usize = 256;

pub(super) fn model(request: &Value) -> Result<&str, ApiError> {
    let error = match request["model"].as_str() {
        None | Some("") => "you must provide a model parameter",
        Some(model) if model.len() > MAX_MODEL => "'model' is too long.",
        Some(model) => return Ok(model),
    };
    Err(ApiError::new(400, None, error))
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
