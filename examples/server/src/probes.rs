//! What an orchestrator or a load balancer asks: whether the process lives, and whether it is to
//! get more requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

/// 200 for as long as the process serves.
const LIVE_PATH: &str = "/livez";

/// 200, or 503 from the first signal to end on.
const READY_PATH: &str = "/readyz";

/// The paths of both.
pub(crate) const PATHS: [&str; 2] = [LIVE_PATH, READY_PATH];

/// Whether more requests are to come. Those that do come are served until the server drains.
#[derive(Clone, Default)]
pub(crate) struct Readiness {
    is_ending: Arc<AtomicBool>,
}

impl Readiness {
    /// From now on, no more are to come.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Relaxed);
    }

    /// The answer to a probe; none if the request is something else.
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let is_ending = match request.uri().path() {
            LIVE_PATH => false,
            READY_PATH => self.is_ending.load(Relaxed),
            _ => return None,
        };
        let (code, body) = if is_ending {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
        } else {
            (StatusCode::OK, r#"{"status":"ok"}"#)
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = code;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Some(response)
    }
}
