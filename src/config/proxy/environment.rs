//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as curl reads them.

use std::{net::IpAddr, sync::Arc};

use super::{ALLOWED, Proxy, Via};
use crate::config::{BackendSettings, BaseUrl, ConfigError, Environment};

/// Sends connections to backends for which nothing is configured through the environment's proxies.
pub(in crate::config) fn apply(
    backends: &mut [BackendSettings],
    environment: Environment<'_>,
) -> Result<(), ConfigError> {
    let exceptions = variable("NO_PROXY", environment)?.map(|(_, text)| text);
    for backend in backends
        .iter_mut()
        .filter(|backend| backend.via == Via::Unset)
    {
        let Some(url) = &backend.url else { continue };
        let is_excepted = exceptions.as_ref().is_some_and(|list| excepts(list, url));
        if url.is_loopback() || is_excepted {
            continue;
        }
        let name = if url.is_https() {
            "HTTPS_PROXY"
        } else {
            "HTTP_PROXY"
        };
        let Some((name, text)) = variable(name, environment)? else {
            continue;
        };
        let text = if text.contains("://") {
            text
        } else {
            format!("http://{text}")
        };
        let proxy = Proxy::parse(&text).map_err(|_| unusable(&name))?;
        backend.via = Via::Proxy(Arc::new(proxy));
    }
    Ok(())
}

/// The name and content of a variable, in lower case or else in upper case, where it isn't empty.
fn variable(
    name: &str,
    environment: Environment<'_>,
) -> Result<Option<(String, String)>, ConfigError> {
    for name in [name.to_ascii_lowercase(), name.to_owned()] {
        if let Some(content) = environment(&name).filter(|content| !content.is_empty()) {
            let content = content.into_string().map_err(|_| unusable(&name))?;
            return Ok(Some((name, content)));
        }
    }
    Ok(None)
}

fn unusable(name: &str) -> ConfigError {
    let allowed = if name.eq_ignore_ascii_case("NO_PROXY") {
        "a list of hosts"
    } else {
        ALLOWED
    };
    ConfigError::new(format!(
        "the environment variable `{name}` must be {allowed}"
    ))
}

/// Whether a list excepts the host of a URL.
fn excepts(list: &str, url: &BaseUrl) -> bool {
    let host = url.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let address = host
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical());
    let mut entries = list.split([',', ' ', '\t', '\r', '\n']);
    entries.any(|entry| {
        let (entry, port) = split_port(entry);
        let is_port = port.is_none_or(|port| port == url.port());
        is_port
            && (entry == "*"
                || match address {
                    Some(address) => is_network(entry, address),
                    None => is_domain(&entry.to_ascii_lowercase(), host),
                })
    })
}

/// An entry without its port, which few have.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    let split = entry.rsplit_once(':');
    // Another colon is that of an IPv6 address, but behind brackets.
    let split = split.filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host, Some(port)),
        None => (entry, None),
    }
}

/// Whether an entry is this name or one above it. `.a.test`, `*.a.test` and `a.test` are the same.
fn is_domain(entry: &str, host: &str) -> bool {
    let entry = entry.strip_prefix('*').unwrap_or(entry);
    let entry = entry.strip_prefix('.').unwrap_or(entry);
    let entry = entry.strip_suffix('.').unwrap_or(entry);
    let below = host.strip_suffix(entry);
    !entry.is_empty() && below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// Whether an entry is this address, or a network with it such as `10.0.0.0/8`.
fn is_network(entry: &str, address: IpAddr) -> bool {
    let (network, length) = match entry.split_once('/') {
        Some((network, length)) => (network, length.parse::<u32>().ok()),
        None => (entry, Some(128)),
    };
    let network = network.trim_matches(['[', ']']).parse::<IpAddr>();
    let (Ok(network), Some(length)) = (network, length) else {
        return false;
    };
    let (network, address, bits) = match (network.to_canonical(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (
            u128::from(network.to_bits()),
            u128::from(address.to_bits()),
            32,
        ),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let rest = bits - length.min(bits);
    network.checked_shr(rest) == address.checked_shr(rest)
}
