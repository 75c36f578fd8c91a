//! Client keys: who sends a request, what they may use, and how much.
//!
//! Where the backends have keys of the operator's, whoever reaches the proxy spends them. With client
//! keys, only those who have one reach it, and each of them within limits. A client sends its key
//! where it would send OpenAI's: as `Authorization: Bearer …`, as `api-key`, or as the item
//! `openai-insecure-api-key.…` of a WebSocket's `Sec-WebSocket-Protocol`. It never reaches a backend:
//! one without a key of its own gets no credentials at all.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, routing::post};
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_openai_proxy::{BackendConfig, ClientConfig, ClientName, Config, KeysLayer, keys};
//!
//! let config = Config::builder()
//!     .backend(BackendConfig::new("llm", "http://10.0.0.5:8000/v1"))
//!     .client(ClientConfig::new("alice").hash(keys::hash("sk-alice")).requests_per_minute(1))
//!     .build()?;
//!
//! // On any app, or as a part of `OpenAiProxyLayer::from_config(config)`.
//! let app: Router = Router::new()
//!     .route("/ask", post(async |request: Request<Body>| {
//!         assert!(request.headers().get("authorization").is_none());
//!         request.extensions().get::<ClientName>().unwrap().to_string()
//!     }))
//!     .layer(KeysLayer::from_config(&config));
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let ask = async |key: &str| {
//!     let request = Request::post("/ask").header("authorization", format!("Bearer {key}"));
//!     app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
//! };
//! assert_eq!(ask("sk-bob").await.status(), 401);
//! assert_eq!(ask("sk-alice").await.status(), 200);
//!
//! let response = ask("sk-alice").await;
//! assert_eq!(response.status(), 429);
//! assert_eq!(response.headers()["retry-after"], "60");
//! # });
//! # Ok::<(), tower_openai_proxy::ConfigError>(())
//! ```
//!
//! # The keys file
//!
//! [`ConfigBuilder::keys_file`](crate::ConfigBuilder::keys_file), `settings.keys_file` in a
//! configuration file, names a file of JSON with comments:
//!
//! ```json
//! {
//!   "keys": [
//!     {
//!       "name": "alice",
//!       "hash": "sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90",
//!       "models": ["gpt-*"],
//!       "paths": ["/chat/completions", "/models", "/models/*"],
//!       "backends": ["LLM1"],
//!       "requests_per_minute": 60,
//!       "max_in_flight": 8,
//!       "expires": "2027-01-01T00:00:00Z"
//!     }
//!   ]
//! }
//! ```
//!
//! Only `name` and `hash` are required. [`ClientConfig`](crate::ClientConfig) describes the fields; it
//! adds clients in code. The file has SHA-256 digests ([`hash`]), not keys. That is enough for keys
//! that are long and random, such as those of `server --new-key NAME`, and it would not be for
//! passwords.
//!
//! # A host application's own authentication
//!
//! A layer outside the proxy that knows who sends a request puts a [`ClientName`] into its
//! extensions. No key is needed then, and what the client of that name may use, and how much, holds
//! all the same: [`ClientConfig::new`](crate::ClientConfig::new) without a hash. With JSON Web
//! Tokens, for example (by the crate jsonwebtoken):
//!
//! ```
//! # mod jsonwebtoken {
//! #     pub struct TokenData<C> { pub claims: C }
//! #     pub struct DecodingKey; pub struct Validation;
//! #     impl DecodingKey { pub fn from_secret(_: &[u8]) -> Self { Self } }
//! #     impl Default for Validation { fn default() -> Self { Self } }
//! #     pub fn decode<C: From<&'static str>>(token: &str, _: &DecodingKey, _: &Validation) -> Result<TokenData<C>, ()> {
//! #         (token == "valid").then(|| TokenData { claims: "alice".into() }).ok_or(())
//! #     }
//! # }
//! use axum::{Router, extract::Request, middleware::{self, Next}, response::Response};
//! use jsonwebtoken::{DecodingKey, TokenData, Validation, decode};
//! use tower_openai_proxy::{BackendConfig, ClientConfig, ClientName, Config, Error, OpenAiProxyLayer};
//!
//! // #[derive(Deserialize)]
//! struct Claims {
//!     sub: String,
//! }
//! # impl From<&'static str> for Claims { fn from(sub: &'static str) -> Self { Self { sub: sub.into() } } }
//!
//! async fn authenticate(mut request: Request, next: Next) -> Response {
//!     let field = request.headers().get("authorization").and_then(|field| field.to_str().ok());
//!     let token = field.and_then(|field| field.strip_prefix("Bearer ")).unwrap_or_default();
//!     let key = DecodingKey::from_secret(b"secret"); // made once, in an app
//!     match decode::<Claims>(token, &key, &Validation::default()) {
//!         Ok(TokenData { claims, .. }) => {
//!             request.extensions_mut().insert(ClientName::new(claims.sub));
//!             next.run(request).await
//!         }
//!         Err(_) => Error::unauthorized().to_response(),
//!     }
//! }
//!
//! let config = Config::builder()
//!     .backend(BackendConfig::new("llm", "http://10.0.0.5:8000/v1").api_key("sk-company"))
//!     .client(ClientConfig::new("alice").requests_per_minute(60).max_in_flight(4))
//!     .clients_authenticated(true)
//!     .build()?;
//! let app: Router = Router::new()
//!     .layer(OpenAiProxyLayer::from_config(config))
//!     .layer(middleware::from_fn(authenticate));
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let request = Request::post("/v1/nowhere").header("authorization", "Bearer valid");
//! # let request = request.body(axum::body::Body::empty()).unwrap();
//! # assert_eq!(tower::ServiceExt::oneshot(app.clone(), request).await.unwrap().status(), 404);
//! # let request = Request::post("/v1/nowhere").body(axum::body::Body::empty()).unwrap();
//! # assert_eq!(tower::ServiceExt::oneshot(app, request).await.unwrap().status(), 401);
//! # });
//! # Ok::<(), tower_openai_proxy::ConfigError>(())
//! ```
//!
//! # Limits
//!
//! `requests_per_minute` is a bucket of so many requests that refills evenly. `max_in_flight` counts
//! streams and WebSockets until their end. Requests count, not the attempts at several backends, and
//! what the proxy refuses by itself doesn't. **Both hold for one process**, over all its threads: with
//! three replicas behind a balancer a client has up to three times as much. A reload replaces the
//! keys, and keeps what the clients whose names stay have used.
//!
//! # Errors
//!
//! | what | status | [`code`](crate::Error::code) |
//! | --- | --- | --- |
//! | no key, an unknown one, or one that has expired, which can't be told apart | 401 | `invalid_api_key` |
//! | a model, path or backend that isn't the client's | 403 | `model_not_allowed`, `path_not_allowed`, `backend_not_allowed` |
//! | more than its limits | 429 | `rate_limit_exceeded`, `concurrency_limit_exceeded` |
//!
//! # As a layer
//!
//! [`OpenAiProxyLayer`](crate::OpenAiProxyLayer) has this stage already; inside another
//! [`KeysLayer`] it does nothing more. `models` and `backends` are a matter of
//! [`route`](crate::route), so in front of an app of your own they mean nothing. `GET` and `HEAD` of `/health`, `/livez` and `/readyz`, and
//! a browser's preflight request, need no key.

mod body;
mod future;
mod limit;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header};
use tower::{Layer, Service};

use self::table::Table;
pub use self::{body::ResponseBody, future::ResponseFuture};
pub(crate) use self::{future::Rider, limit::Permit};
use crate::{
    client::ClientName,
    config::Config,
    digest::Digest,
    endpoint::Matched,
    error::{Error, Kind},
    header::{API_KEY, is_websocket, keys_in_protocols, preflighted_method, without_credentials},
    service::accessors,
};

/// The digest of a key, as a keys file has it: `sha256:` and 64 hexadecimal digits.
///
/// ```
/// use tower_openai_proxy::keys;
///
/// let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
/// assert_eq!(keys::hash("abc"), digest);
/// ```
pub fn hash(key: impl AsRef<[u8]>) -> String {
    Digest::of(key.as_ref()).text()
}

/// Applies [`Keys`] to a service. Its clones share what the clients use.
#[derive(Clone)]
pub struct KeysLayer {
    /// `None` where there are no clients.
    table: Option<Arc<Table>>,
}

impl KeysLayer {
    /// The clients of a configuration: those of its keys file, and those that were added in code.
    pub fn from_config(config: &Config) -> Self {
        Self::reloaded(config, None)
    }

    /// The same; keeps what the clients use that are among `previous` too.
    pub(crate) fn reloaded(config: &Config, previous: Option<&Self>) -> Self {
        let previous = previous.and_then(|previous| previous.table.as_deref());
        Self {
            table: Table::new(config, previous).map(Arc::new),
        }
    }

    /// Finds out whose request it is, and counts it. Its name is in the request's extensions then,
    /// also if it is refused.
    pub(crate) fn admit<B>(&self, request: &mut Request<B>) -> Result<Option<Permit>, Error> {
        match &self.table {
            None => Ok(None),
            Some(table) => admit(table, request),
        }
    }
}

/// In the extensions of requests that a [`Keys`] has taken in.
#[derive(Clone, Copy)]
struct Admitted;

fn admit<B>(table: &Table, request: &mut Request<B>) -> Result<Option<Permit>, Error> {
    let is_preflight = preflighted_method(request.method(), request.headers()).is_some();
    if is_preflight || request.extensions().get::<Admitted>().is_some() {
        return Ok(None);
    }
    let client = match request.extensions().get::<ClientName>() {
        Some(name) => match table.named(name) {
            Some(client) => client,
            None => return Ok(None),
        },
        None if table.has_keys() => {
            let client = presented_key(request).and_then(|key| table.with_key(key));
            let client = client.ok_or_else(|| Error::new(Kind::InvalidApiKey))?;
            request.extensions_mut().insert(client.name.clone());
            client
        }
        None => return Ok(None),
    };
    if let Some(grant) = &client.grant {
        let matched = Matched::of(request.extensions(), request.uri())
            .ok_or_else(|| Error::new(Kind::DotSegments))?;
        if !grant.allows_path(matched.path(request.uri())) {
            return Err(Error::new(Kind::PathNotAllowed));
        }
        request.extensions_mut().insert(grant.clone());
    }
    client.usage.admit(client.limits).map(Some)
}

/// The Bearer token, else `api-key`, else the key among the subprotocols of a WebSocket.
fn presented_key<B>(request: &Request<B>) -> Option<&[u8]> {
    let headers = request.headers();
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let bearer = authorizations.find_map(|value| bearer_token(value.as_bytes()));
    let api_key = || {
        let mut keys = headers.get_all(API_KEY).iter();
        keys.find_map(|key| Some(key.as_bytes()).filter(|key| !key.is_empty()))
    };
    let in_protocols = || {
        let is_websocket = is_websocket(request.method(), request.version(), headers);
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let mut keys = protocols.flat_map(keys_in_protocols);
        keys.find(|key| is_websocket && !key.is_empty())
    };
    bearer.or_else(api_key).or_else(in_protocols)
}

/// The token of an `Authorization` with the scheme `Bearer`, in any case (RFC 9110, section 11.1).
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = authorization.split_at_checked(SCHEME.len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty()).then_some(token)
}

impl<S> Layer<S> for KeysLayer {
    type Service = Keys<S>;

    fn layer(&self, inner: S) -> Keys<S> {
        Keys {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for KeysLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysLayer").finish_non_exhaustive()
    }
}

/// Hands on the requests of known clients, without their keys and with their [`ClientName`] in the
/// extensions, as many as their limits allow.
///
/// It answers the others by itself, in the form of the OpenAI API's errors, and puts the
/// [`Error`] into the extensions of the response. Without clients in the configuration it does
/// nothing. See the [module documentation](self).
#[derive(Clone)]
pub struct Keys<S> {
    inner: S,
    layer: KeysLayer,
}

impl<S> Keys<S> {
    accessors!();
}

impl<S, B, R> Service<Request<B>> for Keys<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if is_probe(&request) {
            return ResponseFuture::admitted(self.inner.call(request), None);
        }
        match self.layer.admit(&mut request) {
            Ok(permit) => {
                if let Some(table) = &self.layer.table {
                    if table.has_keys() {
                        *request.headers_mut() = without_credentials(request.headers());
                    }
                    request.extensions_mut().insert(Admitted);
                }
                ResponseFuture::admitted(self.inner.call(request), permit)
            }
            Err(error) => ResponseFuture::refused(error),
        }
    }
}

/// Whether a request asks how the server is.
fn is_probe<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && matches!(request.uri().path(), "/health" | "/livez" | "/readyz")
}

impl<S> fmt::Debug for Keys<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
