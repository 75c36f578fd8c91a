//! Base URLs of backends.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use http::{HeaderValue, Uri, uri::Scheme};

use crate::tls;

pub(super) const OPENAI_URL: &str = "https://api.openai.com/v1";

const UNIX: &str = "unix:";

const UNIX_ALLOWED: &str =
    "unix:/path/to.sock:/v1, with the absolute path of a socket, and the base path after it";

const ALLOWED: &str = "an absolute http or https URL, such as https://api.openai.com/v1";

/// A validated base URL: absolute, `http` or `https`, with a host, without user name, password and
/// fragment; or the same at `http://localhost`, by a Unix socket.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    uri: Uri,
    origin: Uri,
    authority: HeaderValue,
    socket: Option<Arc<Path>>,
}

impl BaseUrl {
    /// Fails with what `text` must be. The error doesn't quote it: it may contain a key.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let split = text.split_at_checked(UNIX.len());
        match split.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(UNIX)) {
            Some((_, rest)) => Self::at_socket(rest),
            None => Self::parse_http(text),
        }
    }

    /// `text` is the path of a socket, and behind a colon the base path.
    fn at_socket(text: &str) -> Result<Self, &'static str> {
        let (socket, base) = text.split_once(':').unwrap_or((text, ""));
        let is_base = base.is_empty() || base.starts_with(['/', '?']);
        if !socket.starts_with('/') || socket.contains(char::is_control) || !is_base {
            return Err(UNIX_ALLOWED);
        }
        check_socket(socket)?;
        Ok(Self {
            socket: Some(Path::new(socket).into()),
            ..Self::parse_http(&format!("http://localhost{base}"))?
        })
    }

    fn parse_http(text: &str) -> Result<Self, &'static str> {
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
            socket: None,
        })
    }

    /// OpenAI's, which the default configuration has in builds without TLS, too.
    pub(super) fn openai() -> Self {
        Self {
            uri: Uri::from_static(OPENAI_URL),
            origin: Uri::from_static("https://api.openai.com/"),
            authority: HeaderValue::from_static("api.openai.com"),
            socket: None,
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

    /// The Unix socket that leads there, if one does.
    pub(crate) fn socket(&self) -> Option<&Arc<Path>> {
        self.socket.as_ref()
    }

    pub(crate) fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    /// Whether it stays on this machine, as far as its text tells.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let address = host.strip_prefix('[');
        let address = address.and_then(|host| host.strip_suffix(']'));
        match address.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            // RFC 6761, section 6.3.
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
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

#[cfg(unix)]
fn check_socket(path: &str) -> Result<(), &'static str> {
    let address = std::os::unix::net::SocketAddr::from_pathname(path);
    address
        .map(drop)
        .map_err(|_| "a socket with a shorter path")
}

#[cfg(not(unix))]
fn check_socket(_: &str) -> Result<(), &'static str> {
    Err("http or https: this system has no Unix sockets for it")
}

/// Without the query, which may contain a key.
impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            return write!(f, "unix:{}:{}", socket.display(), self.path());
        }
        let origin = self.origin.to_string();
        write!(f, "{}{}", origin.trim_end_matches('/'), self.path())
    }
}
