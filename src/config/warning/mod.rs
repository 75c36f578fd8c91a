#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr};

use super::{BackendSettings, url::BaseUrl};

/// What a configuration may tell to others than it was meant for.
///
/// Displayed, it is one sentence for whoever wrote the configuration. It holds names of backends,
/// never a URL or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// These backends have no `api_key_env` and are on different hosts, so that the credentials of
    /// a client go to whichever of them gets its request.
    SharedCredentials {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
    /// Requests to these backends, with their keys, are sent over plain `http`, and not to this
    /// machine itself.
    Unencrypted {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
}

/// The warnings for these backends.
pub(super) fn find(backends: &[BackendSettings]) -> Vec<ConfigWarning> {
    let usable: Vec<(&BackendSettings, Host)> = backends
        .iter()
        .filter_map(|backend| Some((backend, Host::of(backend.url.as_ref()?))))
        .collect();
    let mut warnings = Vec::new();

    let shared = || {
        let backends = usable.iter();
        backends.filter(|(backend, _)| backend.credential.is_none())
    };
    let mut hosts = shared().map(|(_, host)| host);
    let first = hosts.next();
    if hosts.any(|host| Some(host) != first) {
        let backends = shared().map(|(backend, _)| backend.name.to_string());
        warnings.push(ConfigWarning::SharedCredentials {
            backends: backends.collect(),
        });
    }

    let unencrypted: Vec<_> = usable
        .iter()
        .filter(|(backend, host)| is_plain(backend) && *host != Host::Loopback)
        .map(|(backend, _)| backend.name.to_string())
        .collect();
    if !unencrypted.is_empty() {
        warnings.push(ConfigWarning::Unencrypted {
            backends: unencrypted,
        });
    }
    warnings
}

fn is_plain(backend: &BackendSettings) -> bool {
    backend.url.as_ref().is_some_and(|url| !url.is_https())
}

/// Who a URL leads to, as far as its text tells.
#[derive(PartialEq, Eq)]
enum Host {
    Loopback,
    Other(String),
}

impl Host {
    fn of(url: &BaseUrl) -> Self {
        let host = url.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_loopback = match address.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => is_loopback_name(host) || is_loopback_number(host),
        };
        match is_loopback {
            true => Self::Loopback,
            false => Self::Other(host.to_owned()),
        }
    }
}

/// RFC 6761, section 6.3.
fn is_loopback_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// IPv4 addresses as resolvers know them besides: fewer than four parts, in base 8, 10 or 16, the
/// last for all bytes that are left.
fn is_loopback_number(host: &str) -> bool {
    let part = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    let parts: Option<Vec<u32>> = host.split('.').map(part).collect();
    match parts.as_deref() {
        Some([whole]) => whole >> 24 == 127,
        Some([first, _] | [first, _, _] | [first, _, _, _]) => *first == 127,
        _ => false,
    }
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedCredentials { backends } => {
                write!(f, "a client's credentials go to different hosts: ")?;
                list(f, backends)?;
                write!(
                    f,
                    "; give those that should have a key of their own `api_key_env`"
                )
            }
            Self::Unencrypted { backends } => {
                write!(f, "keys and messages are sent unencrypted, by http, to ")?;
                list(f, backends)
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    for (index, name) in names.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}`{name}`")?;
    }
    Ok(())
}
