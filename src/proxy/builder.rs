use std::{fmt, sync::Arc};

use http::request::Parts;

use super::{
    OpenAiProxyLayer,
    state::{Prepare, Shared, State, warn},
};
use crate::{
    config::Config,
    endpoint::{self, PathPattern},
    forward::Forward,
    observe::{Exchange, ObserveLayer},
    route::{BackendRouteLayer, Select},
};

/// Builds an [`OpenAiProxyLayer`]: see [`OpenAiProxyLayer::builder`].
#[must_use]
pub struct Builder<F = Forward> {
    config: Config,
    paths: endpoint::Mount,
    health_path: Option<Box<str>>,
    selector: Option<Arc<dyn Select>>,
    observe: ObserveLayer,
    /// None for a client of the application's own.
    pub(super) prepare: Option<Prepare>,
    forward: F,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        let forward = Forward::new();
        Self {
            config,
            paths: endpoint::Mount::default(),
            health_path: None,
            selector: None,
            observe: ObserveLayer::new(),
            prepare: Some(Arc::new({
                let forward = forward.clone();
                move |config: &Config| forward.prepare_for(config)
            })),
            forward,
        }
    }
}

impl<F> Builder<F> {
    /// Sets the paths in front of the endpoints. Default: `/` and `/v1`.
    ///
    /// ```
    /// # use tower_openai_proxy::{Config, OpenAiProxyLayer};
    /// // POST /llm/v1/chat/completions
    /// let layer = OpenAiProxyLayer::builder(Config::default()).prefixes(["/llm/v1"]).build();
    /// ```
    pub fn prefixes<P: AsRef<str>>(mut self, prefixes: impl IntoIterator<Item = P>) -> Self {
        self.paths.set_prefixes(prefixes);
        self
    }

    /// Sets which paths are proxied: below the prefixes, or below `/v1` where none are given. Default:
    /// `/chat/completions` and what is below it, which stays at `/` too where no prefixes are given.
    ///
    /// A pattern is a path, `/responses`, or what is below one, `/responses/*`, or `*` for all. A
    /// host application's routes below a prefix that no pattern matches stay its own.
    ///
    /// ```
    /// # use tower_openai_proxy::{Config, OpenAiProxyLayer};
    /// let layer = OpenAiProxyLayer::builder(Config::default())
    ///     .prefixes(["/v1"])
    ///     .paths(["/chat/completions", "/responses", "/responses/*", "/models"])
    ///     .build();
    /// ```
    ///
    /// # Panics
    ///
    /// If a pattern doesn't begin with `/`, has a `*` elsewhere than at its end, or contains `.`
    /// segments or percent-encoding.
    pub fn paths<P: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        let parse = |pattern: P| {
            let pattern = pattern.as_ref();
            PathPattern::parse(pattern)
                .unwrap_or_else(|| panic!("`{pattern}` must be {}", PathPattern::ALLOWED))
        };
        self.paths.set_paths(patterns.into_iter().map(parse));
        self
    }

    /// Proxies all paths: short for `.paths(["*"])`.
    pub fn all_paths(self) -> Self {
        self.paths(["*"])
    }

    /// Leaves these paths to the wrapped service, whatever the patterns say: whole paths, prefix
    /// included. Default: none.
    ///
    /// ```
    /// # use tower_openai_proxy::{Config, OpenAiProxyLayer};
    /// let layer = OpenAiProxyLayer::builder(Config::default())
    ///     .prefixes(["/"])
    ///     .all_paths()
    ///     .except(["/", "/metrics"])
    ///     .build();
    /// ```
    pub fn except<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        let paths = paths.into_iter().map(|path| path.into().into());
        self.paths.set_exceptions(paths);
        self
    }

    /// Answers `GET` and `HEAD` at this path, such as `/health`, with the state of the backends:
    /// `{"status":"ok","version":"…","backends":[{"name":"LLM1","status":"up"}]}`. Default: none, so
    /// that an application's own stays its own.
    pub fn health(mut self, path: impl Into<String>) -> Self {
        self.health_path = Some(path.into().into());
        self
    }

    /// Selects the backends of each request: see [`BackendRouteLayer::with_selector`].
    pub fn selector(mut self, selector: impl Select) -> Self {
        self.selector = Some(Arc::new(selector));
        self
    }

    /// Adds an observer: see [`observe`](crate::observe).
    pub fn observer<O, E>(mut self, observer: O) -> Self
    where
        O: Fn(&Parts) -> Option<E> + Send + Sync + 'static,
        E: FnOnce(&Exchange) + Send + 'static,
    {
        self.observe = self.observe.with_observer(observer);
        self
    }

    /// Sends requests by this service in place of [`Forward`]: an HTTP client of your own below
    /// [`UpstreamRequestLayer`](crate::forward::UpstreamRequestLayer), or a mock in a test.
    pub fn forward<G>(self, forward: G) -> Builder<G> {
        Builder {
            config: self.config,
            paths: self.paths,
            health_path: self.health_path,
            selector: self.selector,
            observe: self.observe,
            prepare: None,
            forward,
        }
    }

    /// Builds the layer. The [warnings](Config::warnings) of the configuration are logged.
    pub fn build(self) -> OpenAiProxyLayer<F> {
        warn(&self.config);
        let mut route = BackendRouteLayer::from_config(&self.config);
        if let Some(selector) = self.selector {
            route = route.with_shared_selector(selector);
        }
        let state = State::new(&self.config, self.observe, route);
        let shared = Shared::new(self.paths, self.health_path, self.prepare, state);
        OpenAiProxyLayer::new(Arc::new(shared), self.forward)
    }
}

impl<F> fmt::Debug for Builder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
