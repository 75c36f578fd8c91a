//! The one error of the stack, and how a client sees it.
//!
//! Stages return `Err(Error)`; the edge ([`OpenAiProxy`](crate::OpenAiProxy)) turns it into a response once:
//! JSON in the form of the [OpenAI API's errors] with a `Proxy-Status` field ([RFC 9209]).
//!
//! ```
//! use tower_openai_proxy::Error;
//!
//! let response = Error::not_found().to_response();
//!
//! assert_eq!(response.status(), 404);
//! assert_eq!(
//!     response.headers()["proxy-status"],
//!     "tower-openai-proxy; error=destination_not_found"
//! );
//! assert!(response.body().starts_with(br#"{"error":{"message":"#));
//! ```
//!
//! Limits of an application's own can answer in the same form, so that OpenAI's SDKs raise the
//! error they would for the API's:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_openai_proxy::Error;
//!
//! let wait = Duration::from_millis(1500);
//! let response = Error::too_many_requests().with_retry_after(wait).to_response();
//!
//! assert_eq!(response.status(), 429);
//! assert_eq!(response.headers()["retry-after"], "2");
//! ```
//!
//! [OpenAI API's errors]: https://platform.openai.com/docs/guides/error-codes
//! [RFC 9209]: https://www.rfc-editor.org/rfc/rfc9209

use std::{error::Error as StdError, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::backend::Backend;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

const PROXY_STATUS: &str = "proxy-status";

/// Why an exchange failed: what the client did, what the backend did, or which clock ran out.
///
/// Its text names the backend by its configured name and never holds an address, a URL, a key or
/// a part of a body. The cause, where there is one, is [`source`](StdError::source).
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    backend: Option<Backend>,
    source: Option<BoxError>,
    retry_after: Option<Duration>,
}

/// What went wrong. The order is that of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    DotSegments,
    NoCredentials,
    UnknownBackend,
    NoBackend,
    Overloaded,
    TooManyRequests,
    BodyTooLarge,
    BodyBroken,
    BodySilent,
    BodyCoded,
    BodyEncoded,
    NotAJsonObject,
    Refused,
    Dns,
    #[cfg_attr(
        not(any(feature = "native-tls", feature = "rustls")),
        expect(dead_code)
    )]
    TlsCertificate,
    TlsProtocol,
    ConnectTimeout,
    ClosedBeforeHead,
    NotHttp,
    ResponseTimeout,
    TotalTimeout,
    BrokeOff,
    BackendSilent,
    Draining,
    Foreign,
}

impl Kind {
    /// The status code and the RFC 9209 error type (section 2.3) that a client gets.
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Kind::NotFound | Kind::UnknownBackend | Kind::NoBackend => {
                (StatusCode::NOT_FOUND, "destination_not_found")
            }
            Kind::DotSegments | Kind::NotAJsonObject | Kind::BodyBroken | Kind::BodyCoded => {
                (StatusCode::BAD_REQUEST, "http_request_error")
            }
            Kind::NoCredentials => (StatusCode::UNAUTHORIZED, "http_request_denied"),
            Kind::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable"),
            Kind::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "http_request_denied"),
            Kind::BodySilent => (StatusCode::REQUEST_TIMEOUT, "http_request_error"),
            Kind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "http_request_error"),
            Kind::BodyEncoded => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "http_request_error"),
            Kind::Refused => (StatusCode::BAD_GATEWAY, "connection_refused"),
            Kind::Dns => (StatusCode::BAD_GATEWAY, "dns_error"),
            Kind::TlsCertificate => (StatusCode::BAD_GATEWAY, "tls_certificate_error"),
            Kind::TlsProtocol => (StatusCode::BAD_GATEWAY, "tls_protocol_error"),
            Kind::ClosedBeforeHead | Kind::BrokeOff => {
                (StatusCode::BAD_GATEWAY, "connection_terminated")
            }
            Kind::NotHttp => (StatusCode::BAD_GATEWAY, "http_protocol_error"),
            Kind::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
            Kind::ResponseTimeout | Kind::TotalTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout")
            }
            Kind::BackendSilent => (StatusCode::GATEWAY_TIMEOUT, "connection_read_timeout"),
            Kind::Draining => (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable"),
            Kind::Foreign => (StatusCode::INTERNAL_SERVER_ERROR, "proxy_internal_error"),
        }
    }

    /// The text a client reads. `{}` stands for the backend.
    fn message(self) -> &'static str {
        match self {
            Kind::NotFound => {
                "There is nothing at this path; the proxy serves /v1/chat/completions and /chat/completions."
            }
            Kind::DotSegments => "The path must not have `.` or `..` segments.",
            Kind::NoCredentials => {
                "No credentials: send an API key as `Authorization: Bearer <key>` or `api-key: <key>`."
            }
            Kind::UnknownBackend => {
                "`X-Proxy-Backend` names no backend of this proxy; send one of its names, or leave the field out."
            }
            Kind::NoBackend => "No backend of this proxy takes this request.",
            Kind::Overloaded => "Too many requests are being served; try again later.",
            Kind::TooManyRequests => "Too many requests have come; try again later.",
            Kind::BodyTooLarge => "The request's body is larger than this proxy accepts.",
            Kind::BodyBroken => "The request's body could not be read to its end.",
            Kind::BodySilent => "The request's body did not arrive in time.",
            Kind::BodyCoded => "The request's body must have no transfer coding but `chunked`.",
            Kind::BodyEncoded => {
                "The proxy replaces the model, so the request's body must come without `Content-Encoding`."
            }
            Kind::NotAJsonObject => {
                "The proxy replaces the model, so the request's body must be a JSON object."
            }
            Kind::Refused => "No connection to {} could be made.",
            Kind::Dns => "The host name of {} could not be resolved.",
            Kind::TlsCertificate => "The TLS certificate of {} is not valid or not trusted.",
            Kind::TlsProtocol => "The TLS handshake with {} failed.",
            Kind::ConnectTimeout => "Connecting to {} took too long.",
            Kind::ClosedBeforeHead => "The connection was closed before a response came from {}.",
            Kind::NotHttp => "No valid HTTP response came from {}.",
            Kind::ResponseTimeout => "No response came in time from {}.",
            Kind::TotalTimeout => "The exchange took longer than this proxy allows.",
            Kind::BrokeOff => "The response was broken off by {}.",
            Kind::BackendSilent => "The response of {} fell silent.",
            Kind::Draining => "This proxy is shutting down; please send the request again.",
            Kind::Foreign => "The request failed inside the proxy.",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(Box::new(Inner {
            kind,
            backend: None,
            source: None,
            retry_after: None,
        }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the backend, unless a stage nearer to it has.
    pub(crate) fn with_backend(mut self, backend: &Backend) -> Self {
        self.0.backend.get_or_insert_with(|| backend.clone());
        self
    }

    /// Takes the error of a wrapped service: one of ours as it is, any other as the source.
    pub(crate) fn from_service(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Error>() {
            Ok(ours) => *ours,
            Err(foreign) => Self::new(Kind::Foreign).with_source(foreign),
        }
    }

    /// The error for a path that nothing answers: 404, `destination_not_found`.
    pub fn not_found() -> Self {
        Self::new(Kind::NotFound)
    }

    /// The error for a limit on requests at a time: 503, `destination_unavailable`.
    ///
    /// Below [`BackendRoute`](crate::BackendRoute) it says that this backend was not asked, so the
    /// next one is tried.
    pub fn overloaded() -> Self {
        Self::new(Kind::Overloaded)
    }

    /// The error for a limit on requests in a period: 429, `http_request_denied`.
    ///
    /// Below [`BackendRoute`](crate::BackendRoute) it says that this backend was not asked, so the
    /// next one is tried.
    pub fn too_many_requests() -> Self {
        Self::new(Kind::TooManyRequests)
    }

    /// Tells the client when to try again: `Retry-After`, in whole seconds, rounded up.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// The error of a proxy that is shutting down: 503, `destination_unavailable`, with
    /// `Connection: close`.
    pub fn draining() -> Self {
        Self::new(Kind::Draining)
    }

    /// The status code of [`to_response`](Self::to_response).
    pub fn status(&self) -> StatusCode {
        self.0.kind.answer().0
    }

    /// The `code` of the JSON and the `error` of `Proxy-Status`: a type of RFC 9209, section 2.3.
    pub fn code(&self) -> &'static str {
        self.0.kind.answer().1
    }

    /// The backend that was being asked, where one was.
    pub fn backend(&self) -> Option<&Backend> {
        self.0.backend.as_ref()
    }

    /// No connection could be made (refused, name not resolved, TLS failed, connect timeout), so
    /// nothing of the request was sent and another backend may be tried.
    pub fn is_connect(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::Refused
                | Kind::Dns
                | Kind::TlsCertificate
                | Kind::TlsProtocol
                | Kind::ConnectTimeout
        )
    }

    /// Nothing of the request was sent, so another backend may be tried.
    pub(crate) fn was_not_sent(&self) -> bool {
        self.is_connect() || matches!(self.0.kind, Kind::Overloaded | Kind::TooManyRequests)
    }

    /// A clock ran out: connecting, the response's head, a silence, or the whole exchange.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::BodySilent
                | Kind::ConnectTimeout
                | Kind::ResponseTimeout
                | Kind::TotalTimeout
                | Kind::BackendSilent
        )
    }

    /// The request is at fault, no backend is.
    pub fn is_client(&self) -> bool {
        self.status().is_client_error()
    }

    /// The backend failed: no connection, broken off before a head, or no head in time.
    pub(crate) fn is_backend_failure(&self) -> bool {
        self.is_connect()
            || matches!(
                self.0.kind,
                Kind::ClosedBeforeHead | Kind::NotHttp | Kind::ResponseTimeout
            )
    }

    /// How the exchange ended, in a word or two for a log.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.0.kind {
            Kind::BodySilent => "client idle_timeout",
            Kind::BodyBroken => "client broke off",
            Kind::ConnectTimeout => "connect_timeout",
            Kind::ResponseTimeout => "timeout",
            Kind::TotalTimeout => "total_timeout",
            Kind::BackendSilent => "idle_timeout",
            Kind::BrokeOff => "backend broke off",
            _ => self.code(),
        }
    }

    /// The response a client gets for this error.
    ///
    /// `type` is `invalid_request_error` for a 4xx status and `proxy_error` for a 5xx; `code` is
    /// [`code`](Self::code).
    pub fn to_response(&self) -> Response<Bytes> {
        let (status, code) = self.0.kind.answer();
        let kind = if status.is_client_error() {
            "invalid_request_error"
        } else {
            "proxy_error"
        };
        let message = serde_json::Value::from(self.to_string());
        let body = format!(
            r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":"{code}"}}}}"#
        );
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Ok(value) = HeaderValue::try_from(format!("tower-openai-proxy; error={code}")) {
            headers.insert(PROXY_STATUS, value);
        }
        // Whoever was in front of us may have seen another end of a body in two codings.
        if matches!(self.0.kind, Kind::Draining | Kind::BodyCoded) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.0.retry_after {
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.0.kind.message();
        match (message.split_once("{}"), &self.0.backend) {
            (None, _) => f.write_str(message),
            (Some((before, after)), None) => write!(f, "{before}the backend{after}"),
            (Some((before, after)), Some(backend)) => {
                write!(f, "{before}backend `{}`{after}", backend.name())
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind);
        if let Some(backend) = &self.0.backend {
            debug.field("backend", &backend.name());
        }
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
