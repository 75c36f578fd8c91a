//! The one error of the stack, and how a client sees it.
//!
//! Stages return `Err(Error)`; the edge ([`OpenAiProxy`](crate::OpenAiProxy)) turns it into a response once:
//! JSON in the form of the [OpenAI API's errors] with a `Proxy-Status` field ([RFC 9209]).
//!
//! ```
//! use bytes::Bytes;
//! use tower_openai_proxy::Error;
//!
//! let response = Error::not_found().to_response::<Bytes>();
//!
//! assert_eq!(response.status(), 404);
//! assert_eq!(
//!     response.headers()["proxy-status"],
//!     "tower-openai-proxy; error=destination_not_found"
//! );
//! assert!(response.body().starts_with(br#"{"error":{"message":"#));
//! ```
//!
//! An application's own checks and limits can answer in the same form, so that OpenAI's SDKs raise
//! the error they would for the API's:
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::StatusCode;
//! use tower_openai_proxy::Error;
//!
//! let wait = Duration::from_millis(1500);
//! let response = Error::too_many_requests().with_retry_after(wait).to_response::<Bytes>();
//!
//! assert_eq!(response.status(), 429);
//! assert_eq!(response.headers()["retry-after"], "2");
//!
//! let error = Error::custom(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota")
//!     .with_type("insufficient_quota")
//!     .with_message("You exceeded your monthly budget.");
//! assert!(error.to_response::<Bytes>().body().ends_with(br#""code":"insufficient_quota"}}"#));
//! ```
//!
//! [OpenAI API's errors]: https://platform.openai.com/docs/guides/error-codes
//! [RFC 9209]: https://www.rfc-editor.org/rfc/rfc9209

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{backend::Backend, json, multipart};

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Of a model's name in a message.
const MAX_MODEL_CHARACTERS: usize = 128;

/// `Retry-After` in milliseconds, which OpenAI's SDKs prefer.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why an exchange failed: the client's fault, the backend's, or a timeout.
///
/// Its text names the backend by its configured name, a model that isn't found as the client named
/// it, and never contains an address, a URL, a key or another part of a body. The cause, where there is one, is [`source`](StdError::source).
///
/// A response that [`OpenAiProxy`](crate::OpenAiProxy) made of an error has a clone of it in its
/// extensions, so that outer layers can tell what failed.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    custom: Option<Custom>,
    backend: Option<Backend>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    retry_after: Option<Duration>,
}

/// What a caller says of an error in place of the table's words.
#[derive(Clone, Default)]
struct Custom {
    status: Option<StatusCode>,
    code: Option<Cow<'static, str>>,
    kind: Option<Cow<'static, str>>,
    message: Option<Cow<'static, str>>,
    param: Option<Cow<'static, str>>,
}

/// What went wrong, in the order of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    DotSegments,
    NoCredentials,
    InvalidApiKey,
    Forbidden,
    ModelNotAllowed,
    PathNotAllowed,
    BackendNotAllowed,
    RateLimited,
    ConcurrencyLimited,
    UnknownBackend,
    NoCandidate,
    ModelNotFound,
    WebSocketUnsupported,
    UpgradeUnavailable,
    Overloaded,
    TooManyRequests,
    AllFull,
    OutOfMemory,
    BodyTooLarge,
    BodyTruncated,
    BodyIdle,
    UnsupportedTransferCoding,
    UnsupportedContentEncoding,
    NotAJsonObject,
    BadForm,
    NoBoundary,
    TwoModels,
    Unrouted,
    Refused,
    Dns,
    TlsCertificate,
    TlsProtocol,
    ConnectTimeout,
    ClosedBeforeHead,
    NotHttp,
    UpgradeFailed,
    ResponseTimeout,
    TotalTimeout,
    Truncated,
    BackendIdle,
    TunnelIdle,
    Draining,
    Internal,
}

impl Kind {
    /// The status code and the RFC 9209 error type (section 2.3) that a client gets.
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Kind::NotFound | Kind::UnknownBackend | Kind::NoCandidate | Kind::ModelNotFound => {
                (StatusCode::NOT_FOUND, "destination_not_found")
            }
            Kind::DotSegments
            | Kind::NotAJsonObject
            | Kind::BadForm
            | Kind::NoBoundary
            | Kind::TwoModels
            | Kind::BodyTruncated
            | Kind::UnsupportedTransferCoding => (StatusCode::BAD_REQUEST, "http_request_error"),
            Kind::NoCredentials | Kind::InvalidApiKey => {
                (StatusCode::UNAUTHORIZED, "http_request_denied")
            }
            Kind::Forbidden
            | Kind::ModelNotAllowed
            | Kind::PathNotAllowed
            | Kind::BackendNotAllowed => (StatusCode::FORBIDDEN, "http_request_denied"),
            Kind::TooManyRequests | Kind::RateLimited | Kind::ConcurrencyLimited => {
                (StatusCode::TOO_MANY_REQUESTS, "http_request_denied")
            }
            Kind::WebSocketUnsupported => (StatusCode::UPGRADE_REQUIRED, "http_request_denied"),
            Kind::BodyIdle => (StatusCode::REQUEST_TIMEOUT, "http_request_error"),
            Kind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "http_request_error"),
            Kind::UnsupportedContentEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "http_request_error")
            }
            Kind::Overloaded | Kind::OutOfMemory | Kind::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable")
            }
            Kind::AllFull => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
            Kind::Refused => (StatusCode::BAD_GATEWAY, "connection_refused"),
            Kind::Dns => (StatusCode::BAD_GATEWAY, "dns_error"),
            Kind::TlsCertificate => (StatusCode::BAD_GATEWAY, "tls_certificate_error"),
            Kind::TlsProtocol => (StatusCode::BAD_GATEWAY, "tls_protocol_error"),
            Kind::ClosedBeforeHead | Kind::Truncated => {
                (StatusCode::BAD_GATEWAY, "connection_terminated")
            }
            Kind::NotHttp => (StatusCode::BAD_GATEWAY, "http_protocol_error"),
            Kind::UpgradeFailed => (StatusCode::BAD_GATEWAY, "http_upgrade_failed"),
            Kind::UpgradeUnavailable => (StatusCode::NOT_IMPLEMENTED, "http_upgrade_failed"),
            Kind::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
            Kind::ResponseTimeout | Kind::TotalTimeout | Kind::BackendIdle | Kind::TunnelIdle => {
                (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout")
            }
            Kind::Unrouted | Kind::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "proxy_internal_error")
            }
        }
    }

    /// The text a client reads. `{}` stands for the backend.
    fn message(self) -> &'static str {
        match self {
            Kind::NotFound => "Nothing is served at this path.",
            Kind::DotSegments => "The path must not contain `.` or `..` segments.",
            Kind::NoCredentials => {
                "No credentials: send an API key as `Authorization: Bearer <key>` or `api-key: <key>`."
            }
            Kind::InvalidApiKey => {
                "No valid API key: send one of this proxy's as `Authorization: Bearer <key>` or `api-key: <key>`."
            }
            Kind::Forbidden => "These credentials don't allow this request.",
            Kind::ModelNotAllowed => "This API key doesn't allow this model.",
            Kind::PathNotAllowed => "This API key doesn't allow this path.",
            Kind::BackendNotAllowed => {
                "This API key doesn't allow the backend that `X-Proxy-Backend` names."
            }
            Kind::RateLimited => {
                "Rate limit reached for this API key: too many requests per minute; try again later."
            }
            Kind::ConcurrencyLimited => {
                "Too many requests of this API key are in flight; try again when one has ended."
            }
            Kind::UnknownBackend => {
                "`X-Proxy-Backend` names no backend of this proxy; send one of its names, or leave the field out."
            }
            Kind::NoCandidate => "No backend is configured for this request.",
            Kind::ModelNotFound => "The model does not exist or you do not have access to it.",
            Kind::WebSocketUnsupported => {
                "No backend for this request takes WebSockets; send it by plain HTTP."
            }
            Kind::UpgradeUnavailable => {
                "This server doesn't let the proxy switch protocols; send the request by plain HTTP."
            }
            Kind::Overloaded => "The proxy is overloaded; try again later.",
            Kind::AllFull => "Every backend for this request is busy; try again in a moment.",
            Kind::TooManyRequests => "Rate limit exceeded; try again later.",
            Kind::OutOfMemory => {
                "Too many request bodies are being buffered; try again in a moment."
            }
            Kind::BodyTooLarge => "The request body is larger than this proxy accepts.",
            Kind::BodyTruncated => "The request body could not be read to its end.",
            Kind::BodyIdle => "The request body did not arrive in time.",
            Kind::UnsupportedTransferCoding => {
                "The request body must have no transfer coding other than `chunked`."
            }
            Kind::UnsupportedContentEncoding => {
                "The proxy reads or replaces the model, so the request body must come without `Content-Encoding`."
            }
            Kind::NotAJsonObject => {
                "The proxy reads or replaces the model, so the request body must be a JSON object"
            }
            Kind::BadForm => {
                "The proxy reads or replaces the model, so the request body must be a valid form"
            }
            Kind::NoBoundary => {
                "The `Content-Type` of a form must have a valid `boundary` parameter."
            }
            Kind::TwoModels => {
                "The request names two different models; send one `model`, spelled in lower case."
            }
            Kind::Refused => "No connection to {} could be established.",
            Kind::Dns => "The host name of {} could not be resolved.",
            Kind::TlsCertificate => "The TLS certificate of {} is invalid or not trusted.",
            Kind::TlsProtocol => "The TLS handshake with {} failed.",
            Kind::ConnectTimeout => "Connecting to {} timed out.",
            Kind::ClosedBeforeHead => "The connection was closed before {} responded.",
            Kind::NotHttp => "The response of {} was not valid HTTP.",
            Kind::UpgradeFailed => {
                "The response of {} switched to a protocol that was not asked for."
            }
            Kind::ResponseTimeout => "No response came in time from {}.",
            Kind::TotalTimeout => "The exchange took longer than this proxy allows.",
            Kind::Truncated => "The response of {} was truncated.",
            Kind::BackendIdle => "The response of {} stopped sending data.",
            Kind::TunnelIdle => "The WebSocket to {} was idle for too long.",
            Kind::Draining => "This proxy is shutting down; please send the request again.",
            Kind::Unrouted => "The request reached no backend: `BackendRouteLayer` is missing.",
            Kind::Internal => "The request failed inside the proxy.",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(Arc::new(Inner {
            kind,
            custom: None,
            backend: None,
            source: None,
            retry_after: None,
        }))
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    fn customize(&mut self) -> &mut Custom {
        self.inner().custom.get_or_insert_default()
    }

    /// An error of the application's own: its status and the `code` of the JSON, such as
    /// `insufficient_quota`.
    ///
    /// `Proxy-Status` says `http_request_denied` for a status below 500, else
    /// `proxy_internal_error`.
    pub fn custom(status: StatusCode, code: impl Into<Cow<'static, str>>) -> Self {
        let kind = if status.is_server_error() {
            Kind::Internal
        } else {
            Kind::Forbidden
        };
        let mut error = Self::new(kind);
        let custom = error.customize();
        custom.status = Some(status);
        custom.code = Some(code.into());
        error
    }

    /// The error for a path at which nothing is served: 404, `destination_not_found`.
    pub fn not_found() -> Self {
        Self::new(Kind::NotFound)
    }

    /// The error for missing or invalid credentials: 401, `http_request_denied`, with
    /// `WWW-Authenticate: Bearer`.
    pub fn unauthorized() -> Self {
        Self::new(Kind::NoCredentials)
    }

    /// The error for credentials that don't allow the request: 403, `http_request_denied`.
    pub fn forbidden() -> Self {
        Self::new(Kind::Forbidden)
    }

    /// The error for a limit on concurrent requests: 503, `destination_unavailable`.
    ///
    /// Below [`BackendRoute`](crate::BackendRoute) it says that this backend was not asked, so the
    /// next one is tried.
    pub fn overloaded() -> Self {
        Self::new(Kind::Overloaded)
    }

    /// The error for a rate limit: 429, `http_request_denied`.
    ///
    /// Below [`BackendRoute`](crate::BackendRoute) it says that this backend was not asked, so the
    /// next one is tried.
    pub fn too_many_requests() -> Self {
        Self::new(Kind::TooManyRequests)
    }

    /// The error for a backend that no connection could be established to: 502,
    /// `connection_refused`. What a client of your own says, so that the next backend is tried.
    pub fn connect(source: impl Into<BoxError>) -> Self {
        Self::new(Kind::Refused).with_source(source)
    }

    /// The error for a connection that was closed before the response headers: 502,
    /// `connection_terminated`. The request may have been processed, so no other backend is tried.
    ///
    /// If the cause is an `Error`, it is returned instead: that of the request body, which a client
    /// of your own wraps, says what happened (the client was idle, say).
    pub fn closed_before_response(source: impl Into<BoxError>) -> Self {
        let source = source.into();
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*source);
        while let Some(error) = next {
            if let Some(own) = error.downcast_ref::<Error>() {
                return own.clone();
            }
            next = error.source();
        }
        Self::new(Kind::ClosedBeforeHead).with_source(source)
    }

    /// The error for a model that no backend serves, in OpenAI's words: 404, `model_not_found`.
    pub fn model_not_found(model: &str) -> Self {
        // A client may send anything.
        let model: String = model.chars().take(MAX_MODEL_CHARACTERS).collect();
        let message =
            format!("The model `{model}` does not exist or you do not have access to it.");
        let error = Self::new(Kind::ModelNotFound).with_param("model");
        error.with_message(message)
    }

    /// The error of a proxy that is shutting down: 503, `destination_unavailable`, with
    /// `Connection: close`.
    pub fn draining() -> Self {
        Self::new(Kind::Draining)
    }

    /// Takes the error of a wrapped service: an `Error` as it is, any other as the source.
    pub(crate) fn from_service(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Error>() {
            Ok(error) => *error,
            Err(foreign) => Self::new(Kind::Internal).with_source(foreign),
        }
    }

    /// Sets the cause, which [`source`](StdError::source) returns. Clients never see it; logs do.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner().source = Some(source.into().into());
        self
    }

    /// Sets the `message` of the JSON.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.customize().message = Some(message.into());
        self
    }

    /// Sets the `type` of the JSON. Default: `invalid_request_error` for a 4xx status,
    /// `rate_limit_error` for the limits of a client key, `proxy_error` for any other.
    #[must_use]
    pub fn with_type(mut self, kind: impl Into<Cow<'static, str>>) -> Self {
        self.customize().kind = Some(kind.into());
        self
    }

    /// Sets the `param` of the JSON, such as `model`. Default: `null`.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.customize().param = Some(param.into());
        self
    }

    /// Tells the client when to try again: `Retry-After`, in whole seconds, rounded up.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.inner().retry_after = Some(wait);
        self
    }

    /// Names the backend, unless a stage nearer to it has.
    pub(crate) fn with_backend(mut self, backend: &Backend) -> Self {
        if self.0.backend.is_none() {
            self.inner().backend = Some(backend.clone());
        }
        self
    }

    /// The status code of [`to_response`](Self::to_response).
    pub fn status(&self) -> StatusCode {
        let custom = self.0.custom.as_ref().and_then(|custom| custom.status);
        custom.unwrap_or(self.0.kind.answer().0)
    }

    /// The `code` of the JSON: the one given to [`custom`](Self::custom), `model_not_found` for a
    /// model that no backend serves, `websocket_unsupported` with the status 426, those of [client
    /// keys](crate::keys#errors), else
    /// [`proxy_status`](Self::proxy_status).
    pub fn code(&self) -> &str {
        let custom = self.0.custom.as_ref();
        let code = custom.and_then(|custom| custom.code.as_deref());
        code.unwrap_or(match self.0.kind {
            Kind::ModelNotFound => "model_not_found",
            Kind::InvalidApiKey => "invalid_api_key",
            Kind::ModelNotAllowed => "model_not_allowed",
            Kind::PathNotAllowed => "path_not_allowed",
            Kind::BackendNotAllowed => "backend_not_allowed",
            Kind::RateLimited => "rate_limit_exceeded",
            Kind::ConcurrencyLimited => "concurrency_limit_exceeded",
            Kind::WebSocketUnsupported => "websocket_unsupported",
            _ => self.proxy_status(),
        })
    }

    /// The `error` of the `Proxy-Status` field: a type of RFC 9209, section 2.3.
    pub fn proxy_status(&self) -> &'static str {
        self.0.kind.answer().1
    }

    /// The backend that the request was sent to, if any.
    pub fn backend(&self) -> Option<&Backend> {
        self.0.backend.as_ref()
    }

    /// Whether no connection could be established (refused, name not resolved, TLS failed, connect
    /// timeout), so that nothing of the request was sent and another backend may be tried.
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

    /// Whether nothing of the request was sent, so that another backend may be tried.
    pub(crate) fn was_not_sent(&self) -> bool {
        self.is_connect() || matches!(self.0.kind, Kind::Overloaded | Kind::TooManyRequests)
    }

    /// Whether a timeout elapsed: connecting, the response headers, an idle body or WebSocket, or the
    /// whole exchange.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::BodyIdle
                | Kind::ConnectTimeout
                | Kind::ResponseTimeout
                | Kind::TotalTimeout
                | Kind::BackendIdle
                | Kind::TunnelIdle
        )
    }

    /// Whether the request itself caused the error: its status is a 4xx.
    pub fn is_client_error(&self) -> bool {
        self.status().is_client_error()
    }

    /// Whether the proxy refused the request by itself, without asking a backend.
    pub(crate) fn is_refusal(&self) -> bool {
        let status = self.status();
        let refuses = status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE;
        refuses && self.0.backend.is_none()
    }

    /// Whether the backend failed: no connection, closed before the response headers, no valid ones,
    /// or none in time. Not a failed upgrade, which the client's request may be the cause of.
    pub(crate) fn is_backend_failure(&self) -> bool {
        self.is_connect()
            || matches!(
                self.0.kind,
                Kind::ClosedBeforeHead | Kind::NotHttp | Kind::ResponseTimeout
            )
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The response a client gets for this error: JSON in the form of the OpenAI API's errors.
    pub fn to_response<B: From<Bytes>>(&self) -> Response<B> {
        let status = self.status();
        let custom = self.0.custom.as_ref();
        let kind = custom.and_then(|custom| custom.kind.as_deref());
        let kind = kind.unwrap_or(match self.0.kind {
            Kind::RateLimited | Kind::ConcurrencyLimited => "rate_limit_error",
            _ if status.is_client_error() => "invalid_request_error",
            _ => "proxy_error",
        });
        let param = custom.and_then(|custom| custom.param.as_deref());
        let json = |text: &str| serde_json::Value::from(text).to_string();
        let body = format!(
            r#"{{"error":{{"message":{},"type":{},"param":{},"code":{}}}}}"#,
            json(&self.to_string()),
            json(kind),
            param.map_or("null".to_owned(), json),
            json(self.code()),
        );
        let mut response = Response::new(Bytes::from(body).into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let proxy_status = format!("tower-openai-proxy; error={}", self.proxy_status());
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert(PROXY_STATUS, value);
        }
        // A proxy in front may have found another end of a body in two codings.
        if matches!(
            self.0.kind,
            Kind::Draining | Kind::UnsupportedTransferCoding
        ) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.0.kind == Kind::WebSocketUnsupported {
            headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.0.retry_after {
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            if self.0.kind == Kind::RateLimited {
                let millis = wait.as_micros().div_ceil(1000);
                let millis = u64::try_from(millis).unwrap_or(u64::MAX);
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
            }
        }
        response
    }
}

impl From<json::Invalid> for Error {
    fn from(error: json::Invalid) -> Self {
        Self::new(Kind::NotAJsonObject).with_source(error)
    }
}

impl From<multipart::Invalid> for Error {
    fn from(error: multipart::Invalid) -> Self {
        Self::new(Kind::BadForm).with_source(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let custom = self.0.custom.as_ref();
        if let Some(message) = custom.and_then(|custom| custom.message.as_deref()) {
            return f.write_str(message);
        }
        let message = self.0.kind.message();
        if matches!(self.0.kind, Kind::NotAJsonObject | Kind::BadForm) {
            // Where and what: neither quotes the body.
            return match &self.0.source {
                Some(position) => write!(f, "{message}: {position}."),
                None => write!(f, "{message}."),
            };
        }
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
        debug.field("code", &self.code());
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
