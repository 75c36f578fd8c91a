//! Where connections go.

use std::{path::Path, sync::Arc};

use http::{Uri, uri::Scheme};

use crate::{
    config::{BackendSettings, BaseUrl, Proxy, Via},
    tls,
};

/// Where connections go: what two backends must share to share connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    uri: Uri,
    tls: Option<Arc<tls::Client>>,
    route: Route,
}

/// How a connection gets there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Direct,
    Unix(Arc<Path>),
    /// To a proxy, which gets requests in absolute form.
    Proxy(Arc<Proxy>),
    /// Through a tunnel that a proxy makes.
    Tunnel(Arc<Proxy>),
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Origin {
    /// Of a backend at this URL.
    pub(super) fn new(url: &BaseUrl, settings: &BackendSettings) -> Self {
        let route = match (url.socket(), &settings.via) {
            (Some(socket), _) => Route::Unix(socket.clone()),
            (None, Via::Unset | Via::Direct) => Route::Direct,
            (None, Via::Proxy(proxy)) if url.is_https() => Route::Tunnel(proxy.clone()),
            (None, Via::Proxy(proxy)) => Route::Proxy(proxy.clone()),
        };
        Self(Arc::new(Inner {
            uri: url.origin().clone(),
            tls: settings.tls.clone(),
            route,
        }))
    }

    /// The same for WebSockets, if they get there in another way.
    pub(super) fn for_upgrades(&self) -> Option<Self> {
        let Route::Proxy(proxy) = &self.0.route else {
            return None;
        };
        Some(Self(Arc::new(Inner {
            uri: self.0.uri.clone(),
            tls: self.0.tls.clone(),
            route: Route::Tunnel(proxy.clone()),
        })))
    }

    pub(crate) fn route(&self) -> &Route {
        &self.0.route
    }

    /// The proxy that gets requests in absolute form.
    pub(crate) fn forward_proxy(&self) -> Option<&Proxy> {
        match &self.0.route {
            Route::Proxy(proxy) => Some(proxy),
            _ => None,
        }
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

    pub(crate) fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.0.uri.port_u16().unwrap_or(default)
    }
}
