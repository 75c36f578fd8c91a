//! Texts in requests.

use serde_json::Value;

/// The text of a message's content, which may come in parts.
pub(super) fn text_of(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let texts = parts.map(|part| &part["text"]).chain([content]);
    let texts: Vec<_> = texts.filter_map(Value::as_str).collect();
    texts.join(" ")
}

/// The text of the user's last message.
pub(super) fn last_of_user(messages: &[Value]) -> String {
    let mut last_first = messages.iter().rev();
    let message = last_first.find(|message| message["role"] == "user");
    message.map_or_else(String::new, |message| text_of(&message["content"]))
}

/// A token of the mock is a word.
pub(super) fn tokens(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// The beginning of a text, in quotation marks.
pub(super) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 100;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("“{}…”", &text[..end]),
        None => format!("“{text}”"),
    }
}

/// Splits a text behind its words, and JSON behind its punctuation.
pub(super) fn words(text: &str) -> Vec<String> {
    let words = text.split_inclusive([' ', ',', ':']);
    words.map(str::to_owned).collect()
}
