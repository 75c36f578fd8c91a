//! `/models`.

use serde_json::{Value, json};

use super::answer::Answer;

const IDS: [&str; 11] = [
    "gpt-4o",
    "gpt-4o-mini",
    "text-embedding-3-small",
    "whisper-1",
    "gpt-image-1",
    "demo-401",
    "demo-404",
    "demo-429",
    "demo-500",
    "demo-break",
    "demo-silent",
];

pub(super) fn list() -> Answer {
    let data = Vec::from_iter(IDS.map(model));
    Answer::Json(json!({ "object": "list", "data": data }))
}

/// Any model, as any is answered for.
pub(super) fn retrieve(id: &str) -> Answer {
    Answer::Json(model(id))
}

fn model(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 1_700_000_000, "owned_by": "demo" })
}

/// Decodes the escapes of an id in a path.
pub(super) fn decode(id: &str) -> String {
    let mut pieces = id.split('%');
    let mut bytes = Vec::from(pieces.next().unwrap_or_default());
    for piece in pieces {
        let code = piece.get(..2).map(|digits| u8::from_str_radix(digits, 16));
        match code {
            Some(Ok(byte)) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            _ => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
