//! Base URLs of backends.

use std::fmt;

use http::{HeaderValue, Uri, uri::Scheme};

use crate::tls;

pub(super) const OPENAI_URL: &str = "https://api.openai.com/v1";

const ALLOWED: &str = "an absolute http or https URL, such as https://api.openai.com/v1";

/// A validated base URL: absolute, `http` or `https`, with a host, without user name, password and
/// fragment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    uri: Uri,
    origin: Uri,
    authority: HeaderValue,
}

impl BaseUrl {
    /// Fails with what `text` must be. The error doesn't quote it: it may contain a key.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("without blanks, control and non-ASCII characters (percent-encode them)");
        }
        let after_scheme = text.split_once("//").map_or("", |(_, rest)| rest);
        let authority = after_scheme.split(['/', '?', '#']).next();
        if authority.is_some_and(|authority| authority.contains('@')) {
            return Err(
                "without user name and password; a key goes into the variable of `api_key_env`",
            );
        }
        if text.contains('#') {
            return Err("without a fragment (`#…`)"); // `Uri` would drop it.
        }
        let uri: Uri = text.parse().map_err(|_| ALLOWED)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(ALLOWED);
        };
        let is_https = *scheme == Scheme::HTTPS;
        if authority.host().is_empty() || !is_https && *scheme != Scheme::HTTP {
            return Err(ALLOWED);
        }
        let port = authority.as_str().strip_prefix(authority.host());
        if port != Some("") && authority.port_u16().is_none_or(|port| port == 0) {
            return Err("with a port from 1 to 65535, or without one");
        }
        if is_https && !tls::IS_AVAILABLE {
            return Err(
                "http: this build lacks the cargo features `native-tls` and `rustls`, one of which https needs",
            );
        }
        let origin = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query("/");
        Ok(Self {
            origin: origin.build().map_err(|_| ALLOWED)?,
            authority: HeaderValue::try_from(authority.as_str()).map_err(|_| ALLOWED)?,
            uri,
        })
    }

    /// OpenAI's, which the default configuration has in builds without TLS, too.
    pub(super) fn openai() -> Self {
        Self {
            uri: Uri::from_static(OPENAI_URL),
            origin: Uri::from_static("https://api.openai.com/"),
            authority: HeaderValue::from_static("api.openai.com"),
        }
    }

    /// All of it, as configured.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Scheme, host and port, with the path `/`.
    pub(crate) fn origin(&self) -> &Uri {
        &self.origin
    }

    pub(crate) fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Host and port, as a `Host` field has them.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The path, without trailing slashes.
    pub(crate) fn path(&self) -> &str {
        self.uri.path().trim_end_matches('/')
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.uri.query()
    }
}

/// Without the query, which may contain a key.
impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.to_string();
        write!(f, "{}{}", origin.trim_end_matches('/'), self.path())
    }
}
