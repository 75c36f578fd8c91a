use std::{fmt, sync::Arc};

use tower::Layer;

use super::{Builder, Handle, OpenAiProxy, state::Shared};
use crate::{config::Config, forward::Forward};

/// Applies [`OpenAiProxy`] to a service.
///
/// A layer, its clones and the services made of them share the connections to the backends and the
/// configuration, which its [`handle`](Self::handle) replaces for all of them.
#[derive(Clone)]
pub struct OpenAiProxyLayer<F = Forward> {
    shared: Arc<Shared>,
    forward: F,
}

impl OpenAiProxyLayer {
    /// Proxies chat completions to the backends of this configuration. Its
    /// [warnings](Config::warnings) are logged.
    pub fn from_config(config: Config) -> Self {
        Self::builder(config).build()
    }

    /// Builds a layer that is mounted elsewhere, selects backends by a rule of your own, is observed,
    /// or sends by another client.
    ///
    /// ```
    /// use tower_openai_proxy::{Config, OpenAiProxyLayer, observe::access_log};
    ///
    /// let layer = OpenAiProxyLayer::builder(Config::default())
    ///     .prefixes(["/llm"])
    ///     .health("/health")
    ///     .observer(access_log)
    ///     .build();
    /// ```
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// The same layer with a separate pool of connections, for a thread with a runtime of its own.
    /// The configuration and the health of the backends stay shared.
    #[must_use]
    pub fn with_separate_pool(&self) -> Self {
        self.forward.prepare(&self.shared.backends());
        Self {
            shared: self.shared.clone(),
            forward: self.forward.with_separate_pool(),
        }
    }
}

impl<F> OpenAiProxyLayer<F> {
    pub(super) fn new(shared: Arc<Shared>, forward: F) -> Self {
        Self { shared, forward }
    }

    /// Controls this layer, its clones, and the services made of them while they run: reload, drain.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }
}

impl<S, F: Clone> Layer<S> for OpenAiProxyLayer<F> {
    type Service = OpenAiProxy<S, F>;

    fn layer(&self, inner: S) -> OpenAiProxy<S, F> {
        OpenAiProxy::new(inner, self.shared.clone(), self.forward.clone())
    }
}

impl<F> fmt::Debug for OpenAiProxyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxyLayer")
            .field("backends", &self.shared.backends())
            .finish_non_exhaustive()
    }
}
