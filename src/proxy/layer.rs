use std::{fmt, time::Duration};

use tower::{Layer, ServiceBuilder};

use super::service::OpenAiProxy;
use crate::{
    auth::{AuthPassthrough, AuthPassthroughLayer},
    backend::Backend,
    config::Config,
    forward::Forward,
    model::{ModelOverride, ModelOverrideLayer},
    route::{BackendRoute, BackendRouteLayer},
    timeout::{Timeout, TimeoutLayer},
};

/// Applies [`OpenAiProxy`] to a service.
///
/// A layer and its clones share the connections to the backends.
#[derive(Clone)]
pub struct OpenAiProxyLayer<F = Forward> {
    auth: AuthPassthroughLayer,
    route: BackendRouteLayer,
    forward: F,
    edge: Edge,
}

/// What the requests that are ours go through.
pub(super) type Stack<F> = AuthPassthrough<BackendRoute<ModelOverride<Timeout<F>>>>;

/// What the edge itself needs of the configuration.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub(super) max_body_bytes: u64,
    pub(super) idle_timeout: Duration,
    pub(super) total_timeout: Option<Duration>,
    pub(super) answers_health: bool,
}

impl OpenAiProxyLayer {
    /// Proxies to the backends of this configuration.
    pub fn from_config(config: Config) -> Self {
        let layer = Self::with_forward(config, Forward::new());
        layer.forward.prepare(layer.backends());
        layer
    }

    /// The same layer with connections of its own, for a thread with a runtime of its own. What is
    /// known of the backends stays shared.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        Self {
            forward: self.forward.with_own_connections(),
            ..self.clone()
        }
    }
}

impl<F> OpenAiProxyLayer<F> {
    /// Sends requests by this service in place of [`Forward`]: a client of one's own, or a
    /// stand-in in a test.
    pub fn with_forward(config: Config, forward: F) -> Self {
        let settings = &config.settings;
        Self {
            auth: AuthPassthroughLayer::new().with_required(settings.require_auth),
            route: BackendRouteLayer::from_config(&config),
            forward,
            edge: Edge {
                max_body_bytes: settings.max_body_bytes,
                idle_timeout: settings.idle_timeout,
                total_timeout: settings.total_timeout,
                answers_health: false,
            },
        }
    }

    /// Answers `GET /health` with the state of the backends. Off by default, so that an
    /// application's own stays its own.
    #[must_use]
    pub fn with_health(mut self) -> Self {
        self.edge.answers_health = true;
        self
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> &[Backend] {
        self.route.backends()
    }
}

impl<F: Clone> OpenAiProxyLayer<F> {
    /// The order of the stages.
    fn stack(&self) -> Stack<F> {
        ServiceBuilder::new()
            .layer(self.auth)
            .layer(self.route.clone())
            .layer(ModelOverrideLayer::new())
            .layer(TimeoutLayer::new())
            .service(self.forward.clone())
    }
}

impl<S, F: Clone> Layer<S> for OpenAiProxyLayer<F> {
    type Service = OpenAiProxy<S, F>;

    fn layer(&self, inner: S) -> OpenAiProxy<S, F> {
        OpenAiProxy::new(inner, self.stack(), self.edge, self.route.shared_backends())
    }
}

impl<F> fmt::Debug for OpenAiProxyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxyLayer")
            .field("backends", &self.backends())
            .finish_non_exhaustive()
    }
}
