//! `/embeddings`.

use serde_json::{Value, json};

use super::{answer::Answer, base64, error::ApiError, request, text::tokens};

const DIMENSIONS: u64 = 8;

// The API's own limits, as of its largest model.
const MAX_DIMENSIONS: u64 = 3072;
const MAX_INPUTS: usize = 2048;

/// All vectors of an answer together.
const MAX_NUMBERS: u64 = 256 * 1024;

pub(super) fn create(request: &Value) -> Result<Answer, ApiError> {
    let model = request::model(request)?;
    let input = request::required(request, "input")?;
    let inputs = match input.as_array() {
        // Of numbers: the tokens of one text.
        Some(items) if !items[0].is_number() => items,
        _ => std::slice::from_ref(input),
    };
    let dimensions = request["dimensions"].as_u64().unwrap_or(DIMENSIONS);
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let message = format!("'dimensions' must be between 1 and {MAX_DIMENSIONS}.");
        return Err(ApiError::new(400, None, message).param("dimensions"));
    }
    if inputs.len() > MAX_INPUTS || inputs.len() as u64 * dimensions > MAX_NUMBERS {
        let message = format!(
            "The demo takes at most {MAX_INPUTS} inputs, and makes at most {MAX_NUMBERS} numbers."
        );
        return Err(ApiError::new(400, None, message).param("input"));
    }

    let as_base64 = request["encoding_format"] == "base64";
    let embedding = |(index, input): (usize, &Value)| {
        let vector = vector(input, dimensions);
        let embedding = if as_base64 {
            let bytes = vector
                .iter()
                .flat_map(|&number| (number as f32).to_le_bytes());
            base64::encode(&Vec::from_iter(bytes)).into()
        } else {
            Value::from(vector)
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let data: Vec<_> = inputs.iter().enumerate().map(embedding).collect();
    let prompt_tokens: u64 = inputs.iter().map(count).sum();
    Ok(Answer::Json(json!({
        "object": "list",
        "data": data,
        "model": model,
        "usage": { "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens },
    })))
}

/// The tokens of an input, which are given or words.
fn count(input: &Value) -> u64 {
    match input {
        Value::Array(tokens) => tokens.len() as u64,
        _ => tokens(input.as_str().unwrap_or_default()),
    }
}

/// A unit vector that depends on the input only.
fn vector(input: &Value, dimensions: u64) -> Vec<f64> {
    let seed = fnv1a(input.to_string().as_bytes());
    let number = |at: u64| {
        let hash = fnv1a(&(seed ^ at).to_le_bytes());
        hash as f64 / u64::MAX as f64 - 0.5
    };
    let vector: Vec<_> = (0..dimensions).map(number).collect();
    let length = vector
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt();
    // As many digits as the API writes.
    let rounded = |number: f64| (number / length * 1e8).round() / 1e8;
    vector.into_iter().map(rounded).collect()
}

/// The hash of Fowler, Noll and Vo.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
