//! What a client may use.

use std::sync::Arc;

use http::{Extensions, Method};

use crate::{
    endpoint::{self, PathPattern},
    pattern::ModelPattern,
};

/// What a client may use. In the extensions of its requests, where that isn't everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) models: Option<Box<[ModelPattern]>>,
    pub(crate) paths: Option<Box<[PathPattern]>>,
    /// Names.
    pub(crate) backends: Option<Box<[Box<str>]>>,
}

impl Grant {
    /// Of a request; `None` where its client may use everything.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// Whether it allows everything.
    pub(crate) fn is_full(&self) -> bool {
        self.models.is_none() && self.paths.is_none() && self.backends.is_none()
    }

    /// Whether the model of a request decides if it is allowed.
    pub(crate) fn needs_model(&self) -> bool {
        self.models.is_some()
    }

    pub(crate) fn allows_model(&self, model: &str) -> bool {
        let models = self.models.as_ref();
        models.is_none_or(|models| models.iter().any(|pattern| pattern.matches(model)))
    }

    /// Whether a request may be sent whose model can't be seen: not if it can make an answer, unless
    /// the client's paths name that path by more than `*`.
    pub(crate) fn allows_unseen_model(
        &self,
        method: &Method,
        path: &str,
        is_upgrade: bool,
    ) -> bool {
        let only_reads = matches!(
            *method,
            Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
        );
        let paths = || self.paths.iter().flatten().filter(|it| !it.is_all());
        (only_reads && !is_upgrade) || !self.needs_model() || endpoint::matches(paths(), path)
    }

    /// Whether a path below the prefix may be used.
    pub(crate) fn allows_path(&self, path: &str) -> bool {
        let paths = self.paths.as_ref();
        paths.is_none_or(|paths| endpoint::matches(paths.iter(), path))
    }

    pub(crate) fn allows_backend(&self, name: &str) -> bool {
        let backends = self.backends.as_ref();
        backends.is_none_or(|backends| backends.iter().any(|it| **it == *name))
    }
}
