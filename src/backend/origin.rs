//! Where connections go.

use std::sync::Arc;

use http::{Uri, uri::Scheme};

use crate::tls;

/// Where connections go: what two backends must share to share connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    uri: Uri,
    tls: Option<Arc<tls::Client>>,
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Origin {
    /// `uri` has the path `/`.
    pub(super) fn new(uri: Uri, tls: Option<Arc<tls::Client>>) -> Self {
        Self(Arc::new(Inner { uri, tls }))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// What TLS uses in place of the defaults.
    pub(crate) fn tls(&self) -> Option<&tls::Client> {
        self.0.tls.as_deref()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.uri.scheme() == Some(&Scheme::HTTPS)
    }

    pub(crate) fn host(&self) -> &str {
        self.0.uri.host().unwrap_or_default()
    }
}
