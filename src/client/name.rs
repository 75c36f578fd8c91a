//! Who sends a request.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// Who sends a request, in its extensions: the name of a client key, or the one that a host
/// application's own authentication has found. Cheap to clone.
///
/// The stages below read it: limits and logs by client, affinity. The proxy never takes it from the
/// request itself, so a client can't choose its own.
///
/// A host application that knows its users already sets it in a layer outside the proxy. No
/// credentials are required then, whatever [`require_auth`](crate::ConfigBuilder::require_auth)
/// says, and the limits of the client with that name hold: see [`keys`](crate::keys).
///
/// ```
/// use axum::{Router, extract::Request, middleware::{self, Next}, response::Response};
/// use tower_openai_proxy::{ClientName, Config, Error, OpenAiProxyLayer};
///
/// async fn authenticate(mut request: Request, next: Next) -> Response {
///     let session = request.headers().get("x-session").and_then(|value| value.to_str().ok());
///     let Some(user) = session.and_then(|session| session.strip_prefix("session-of-")) else {
///         return Error::unauthorized().with_message("Log in first.").to_response();
///     };
///     let name = ClientName::new(user);
///     request.extensions_mut().insert(name);
///     next.run(request).await
/// }
///
/// let config = Config::builder()
///     // …
/// #   .backend(tower_openai_proxy::BackendConfig::new("llm", "http://10.0.0.5:8000/v1"))
///     .clients_authenticated(true)
///     .build()?;
/// let app: Router = Router::new()
///     .layer(OpenAiProxyLayer::from_config(config))
///     .layer(middleware::from_fn(authenticate));
/// # Ok::<(), tower_openai_proxy::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(Arc<str>);

impl ClientName {
    /// Any text that tells clients apart. It is shown in logs, so it must be no secret.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for ClientName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
