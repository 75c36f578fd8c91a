use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::backend::Backend;

/// The state of the proxy and of each backend. It contacts no backend and contains no address.
pub(super) fn response(backends: &[Backend], is_draining: bool) -> Response<Bytes> {
    let (code, status) = if is_draining {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    };
    let backends: Vec<_> = backends
        .iter()
        .map(|backend| {
            let name = serde_json::Value::from(backend.name());
            let status = if backend.is_cooling_down() {
                "cooldown"
            } else {
                "up"
            };
            format!(r#"{{"name":{name},"status":"{status}"}}"#)
        })
        .collect();
    let body = format!(
        r#"{{"status":"{status}","version":"{}","backends":[{}]}}"#,
        env!("CARGO_PKG_VERSION"),
        backends.join(","),
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
