//! Which endpoint answers a request.

use hyper::{Response, body::Incoming, header, http::request::Parts};
use serde_json::Value;

use super::{
    answer::{Answer, Script},
    audio, chat, completions, embeddings,
    error::{ApiError, NO_CREDENTIALS},
    files,
    form::Form,
    images, models, request, responses, trouble,
};

/// What answers a request, by what it reads of it.
enum Endpoint<'a> {
    List(fn() -> Answer),
    /// The model with this id, percent-encoded.
    Model(&'a str),
    Json(fn(&Value) -> Result<Answer, ApiError>),
    Form(fn(&Form) -> Result<Answer, ApiError>),
}

impl<'a> Endpoint<'a> {
    fn find(method: &str, path: &'a str) -> Option<Self> {
        match (method, path) {
            ("GET" | "HEAD", "/v1/models") => Some(Self::List(models::list)),
            ("GET" | "HEAD", "/v1/chat/completions") => Some(Self::List(chat::list)),
            ("GET" | "HEAD", _) => {
                let id = path.strip_prefix("/v1/models/");
                id.filter(|id| !id.is_empty()).map(Self::Model)
            }
            ("POST", "/v1/chat/completions") => Some(Self::Json(chat::create)),
            ("POST", "/v1/completions") => Some(Self::Json(completions::create)),
            ("POST", "/v1/responses") => Some(Self::Json(responses::create)),
            ("POST", "/v1/embeddings") => Some(Self::Json(embeddings::create)),
            ("POST", "/v1/images/generations") => Some(Self::Json(images::generate)),
            ("POST", "/v1/audio/transcriptions") => Some(Self::Form(audio::transcribe)),
            ("POST", "/v1/files") => Some(Self::Form(files::upload)),
            _ => None,
        }
    }
}

pub(super) async fn answer(
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Script>, ApiError> {
    let (method, path) = (head.method.as_str(), head.uri.path());
    if !has_credentials(head) {
        return Err(ApiError::unauthorized(None, NO_CREDENTIALS));
    }
    let Some(endpoint) = Endpoint::find(method, path) else {
        return Err(no_endpoint(method, path));
    };
    let (model, answer) = match endpoint {
        Endpoint::List(list) => (String::new(), Ok(list())),
        Endpoint::Model(id) => {
            let id = models::decode(id);
            let answer = models::retrieve(&id);
            (id, Ok(answer))
        }
        Endpoint::Json(create) => {
            let json = request::json(body).await?;
            let model = json["model"].as_str().unwrap_or_default();
            (model.to_owned(), create(&json))
        }
        Endpoint::Form(create) => {
            let form = Form::read(head, body).await?;
            let model = form.field("model").unwrap_or_default();
            (model.to_owned(), create(&form))
        }
    };
    let end = trouble::asked_for(head, &model)?;
    Ok(answer?.into_response(end).await)
}

pub(super) fn has_credentials(head: &Parts) -> bool {
    head.headers.contains_key(header::AUTHORIZATION) || head.headers.contains_key("api-key")
}

fn no_endpoint(method: &str, path: &str) -> ApiError {
    let mut allowed = vec!["GET", "HEAD", "POST"];
    allowed.retain(|method| Endpoint::find(method, path).is_some());
    if allowed.is_empty() {
        let message = format!(
            "Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs \
             at https://platform.openai.com/docs/api-reference/."
        );
        return ApiError::new(404, Some("unknown_url"), message);
    }
    let message = format!(
        "Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP \
         method?)"
    );
    let error = ApiError::new(405, Some("method_not_supported"), message);
    error.header("allow", allowed.join(", "))
}
