//! Proxies on the way to the backends: `proxy`, and those of the environment.

mod environment;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::{HeaderValue, Uri, uri::Authority};

pub(super) use self::environment::apply;
use super::{BackendConfig, ConfigError, rules::must_be};
use crate::percent;

const ALLOWED: &str =
    "http://host:port, with user:password@ before the host if the proxy asks for them";

/// How connections to a backend are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Directly, unless the environment names a proxy.
    Unset,
    /// Directly, whatever the environment says.
    Direct,
    Proxy(Arc<Proxy>),
}

/// An HTTP proxy.
#[derive(PartialEq, Eq)]
pub(crate) struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Fails with what `text` must be. The error doesn't quote it: it may contain a password.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const SCHEME: &str = "http://";
        let (scheme, rest) = text.split_at_checked(SCHEME.len()).ok_or(ALLOWED)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(ALLOWED);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let authority: Authority = host.parse().map_err(|_| ALLOWED)?;
        let port = authority.as_str().strip_prefix(authority.host());
        if authority.host().is_empty()
            || (port != Some("") && authority.port_u16().is_none_or(|port| port == 0))
        {
            return Err(ALLOWED);
        }
        let uri = Uri::builder().scheme("http").authority(authority);
        Ok(Self {
            uri: uri.path_and_query("/").build().map_err(|_| ALLOWED)?,
            authorization: user.map(basic),
        })
    }

    /// Its host and port, with the path `/`.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// What it gets as `Proxy-Authorization`.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive")
    }
}

impl BackendConfig {
    /// `path` is this backend's.
    pub(super) fn via(&self, path: &str) -> Result<Via, ConfigError> {
        match self.proxy.as_deref() {
            None => Ok(Via::Unset),
            Some("") => Ok(Via::Direct),
            Some(text) => match Proxy::parse(text) {
                Ok(proxy) => Ok(Via::Proxy(Arc::new(proxy))),
                Err(allowed) => Err(must_be(allowed, format!("{path}.proxy"))),
            },
        }
    }
}

/// The Basic scheme (RFC 7617) for `user:password`, both percent-encoded as in a URL.
fn basic(user: &str) -> HeaderValue {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let credentials = [percent::decode(name), percent::decode(password)].join(&b':');
    let value = HeaderValue::try_from(format!("Basic {}", base64(&credentials)));
    let mut value = value.expect("ASCII");
    value.set_sensitive(true);
    value
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            if index <= group.len() {
                let sextet = bits >> (18 - 6 * index) & 63;
                text.push(ALPHABET[sextet as usize].into());
            } else {
                text.push('=');
            }
        }
    }
    text
}
