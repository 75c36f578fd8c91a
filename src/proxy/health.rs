use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};

use crate::backend::Backend;

pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    request.uri().path() == "/health"
        && (request.method() == Method::GET || request.method() == Method::HEAD)
}

/// The state of the proxy and of each backend. No backend is asked; no address is told.
pub(super) fn response(backends: &[Backend]) -> Response<Bytes> {
    let backends: Vec<_> = backends
        .iter()
        .map(|backend| {
            let name = serde_json::Value::from(backend.name());
            let status = match backend.is_cooling_down() {
                true => "cooldown",
                false => "up",
            };
            format!(r#"{{"name":{name},"status":"{status}"}}"#)
        })
        .collect();
    let body = format!(
        r#"{{"status":"ok","version":"{}","backends":[{}]}}"#,
        env!("CARGO_PKG_VERSION"),
        backends.join(","),
    );
    let mut response = Response::new(Bytes::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
