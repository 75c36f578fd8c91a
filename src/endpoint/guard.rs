use http::Method;

use super::path::normalize;

/// Requests that make an answer.
const ANSWERS: [&str; 13] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
    "/embeddings",
    "/moderations",
    "/audio/transcriptions",
    "/audio/translations",
    "/audio/speech",
    "/images/generations",
    "/images/edits",
    "/images/variations",
];

/// Administration: never opened by the pattern `*` where the operator's key is sent.
const ADMINISTRATION: [&str; 2] = ["/organization", "/projects"];

/// Whether a request makes an answer or lists models: what a backend with the operator's key serves
/// by default. Stored objects of all clients, files, batches and administration are none of these.
pub(crate) fn is_answer_or_models(method: &Method, path: &str, is_upgrade: bool) -> bool {
    let path = normalize(path);
    let is = |name: &str| *path == *name.as_bytes();
    match *method {
        Method::POST => ANSWERS.into_iter().any(is),
        Method::GET if is_upgrade => is("/realtime") || is("/responses"),
        Method::GET | Method::HEAD => {
            let model = path.strip_prefix(b"/models/");
            is("/models") || model.is_some_and(|model| !model.is_empty())
        }
        _ => false,
    }
}

pub(crate) fn is_administration(path: &str) -> bool {
    let path = normalize(path);
    let mut areas = ADMINISTRATION.into_iter();
    areas.any(|area| {
        let rest = path.strip_prefix(area.as_bytes());
        // Some servers take a backslash for a slash, and ignore what follows a `;`.
        rest.is_some_and(|rest| matches!(rest, [] | [b'/' | b'\\' | b';', ..]))
    })
}
