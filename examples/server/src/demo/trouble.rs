//! Errors and interruptions on request.

use hyper::http::request::Parts;

use super::{
    answer::End,
    error::{ApiError, INVALID_API_KEY, SERVER_ERROR},
};

/// How the response to a request for `model` ends, or the error that it is.
pub(super) fn asked_for(head: &Parts, model: &str) -> Result<End, ApiError> {
    let trouble = match head.headers.get("x-demo") {
        Some(value) => value.to_str().unwrap_or_default(),
        None => model.strip_prefix("demo-").unwrap_or_default(),
    };
    Err(match trouble {
        "401" => ApiError::unauthorized(Some("invalid_api_key"), INVALID_API_KEY),
        "404" => {
            let message =
                format!("The model `{model}` does not exist or you do not have access to it.");
            ApiError::new(404, Some("model_not_found"), message)
        }
        "429" => {
            let message = format!(
                "Rate limit reached for {model} in organization org-demo on requests per min \
                 (RPM): Limit 60, Used 60, Requested 1. Please try again in 1s. Visit \
                 https://platform.openai.com/account/rate-limits to learn more."
            );
            ApiError::new(429, Some("rate_limit_exceeded"), message)
                .header("retry-after", "1")
                .header("retry-after-ms", "1000")
                .header("x-ratelimit-limit-requests", "60")
                .header("x-ratelimit-remaining-requests", "0")
                .header("x-ratelimit-reset-requests", "1s")
        }
        "500" => ApiError::new(500, None, SERVER_ERROR),
        "break" => return Ok(End::Broken),
        "silent" => return Ok(End::Silent),
        _ => return Ok(End::Complete),
    })
}
