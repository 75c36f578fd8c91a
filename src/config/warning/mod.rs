#[cfg(test)]
mod tests;

use std::fmt;

use super::{BackendSettings, Config, url::BaseUrl};

const OPENAI_HOST: &str = "api.openai.com";

/// How the paths of endpoints end that may have been copied into a URL.
const ENDPOINTS: [&str; 3] = ["/completions", "/embeddings", "/responses"];

/// A setting that could send credentials to unintended hosts, let others use a key, or make every
/// request fail.
///
/// Displayed, it is one sentence for the author of the configuration. It names backends, and never
/// contains a URL or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// These backends have no key of their own and are on different hosts, so that a client's
    /// credentials go to whichever of them gets the request.
    #[non_exhaustive]
    SharedCredentials {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
    /// Requests to these backends, and the keys in them, are sent over plain `http` to another
    /// machine.
    #[non_exhaustive]
    Unencrypted {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
    /// These backends have keys of their own, which anyone who can reach the proxy spends.
    /// [Client keys](crate::keys) keep others out;
    /// [`ConfigBuilder::clients_authenticated`](crate::ConfigBuilder::clients_authenticated) says
    /// that the host application does.
    #[non_exhaustive]
    UnguardedKey {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
    /// The URLs of these backends end with the path of an endpoint, which is appended to them once
    /// more.
    #[non_exhaustive]
    EndpointInUrl {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
    /// The URLs of these backends are OpenAI's but for the path `/v1`, below which its API is.
    #[non_exhaustive]
    MissingVersion {
        /// Their names, in the order of the configuration.
        backends: Vec<String>,
    },
}

impl ConfigWarning {
    /// The names of the backends concerned, in the order of the configuration.
    pub fn backends(&self) -> &[String] {
        match self {
            Self::SharedCredentials { backends }
            | Self::Unencrypted { backends }
            | Self::UnguardedKey { backends }
            | Self::EndpointInUrl { backends }
            | Self::MissingVersion { backends } => backends,
        }
    }
}

/// The warnings for this configuration, at most one of each kind.
pub(super) fn find(config: &Config) -> Vec<ConfigWarning> {
    let usable = || {
        let backends = config.backends.iter();
        backends.filter_map(|backend| Some((backend, backend.url.as_ref()?)))
    };
    let names = |is_concerned: fn(&BackendSettings, &BaseUrl) -> bool| -> Vec<String> {
        usable()
            .filter(|(backend, url)| is_concerned(backend, url))
            .map(|(backend, _)| backend.name.to_string())
            .collect()
    };

    let mut shared = names(|backend, _| !backend.has_key);
    let mut hosts = usable()
        .filter(|(backend, _)| !backend.has_key)
        .map(|(_, url)| Host::of(url));
    let first = hosts.next();
    let is_one = hosts.all(|host| Some(host) == first);
    // Client keys go to nobody.
    if is_one || config.needs_client_key() {
        shared.clear();
    }
    let mut keys = names(|backend, _| backend.has_credential());
    if config.settings.clients_authenticated || config.needs_client_key() {
        keys.clear();
    }
    let warnings = [
        ConfigWarning::SharedCredentials { backends: shared },
        ConfigWarning::Unencrypted {
            backends: names(|_, url| !url.is_https() && Host::of(url) != Host::Loopback),
        },
        ConfigWarning::UnguardedKey { backends: keys },
        ConfigWarning::EndpointInUrl {
            backends: names(|_, url| ENDPOINTS.iter().any(|end| url.path().ends_with(end))),
        },
        ConfigWarning::MissingVersion {
            backends: names(|_, url| {
                Host::of(url) == Host::Other(OPENAI_HOST.to_owned())
                    && !format!("{}/", url.path()).starts_with("/v1/")
            }),
        },
    ];
    warnings
        .into_iter()
        .filter(|warning| !warning.backends().is_empty())
        .collect()
}

/// The host of a URL, as far as its text tells.
#[derive(PartialEq, Eq)]
enum Host {
    Loopback,
    Other(String),
}

impl Host {
    fn of(url: &BaseUrl) -> Self {
        if url.is_loopback() {
            return Self::Loopback;
        }
        let host = url.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        Self::Other(host.to_owned())
    }
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .backends()
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let names = names.join(", ");
        match self {
            Self::SharedCredentials { .. } => write!(
                f,
                "a client's credentials go to different hosts: {names}; give those that should \
                 have a key of their own `api_key_env` or `api_key_file`"
            ),
            Self::Unencrypted { .. } => write!(
                f,
                "keys and messages are sent unencrypted, by http, to {names}"
            ),
            Self::UnguardedKey { .. } => write!(
                f,
                "anyone who can reach the proxy spends the key of {names}: clients aren't \
                 authenticated; `settings.keys_file` gives them keys of their own"
            ),
            Self::EndpointInUrl { .. } => write!(
                f,
                "a URL ends with the path of an endpoint, such as /chat/completions, which is \
                 appended to it once more: {names}"
            ),
            Self::MissingVersion { .. } => {
                write!(f, "a URL of OpenAI's API lacks the path /v1: {names}")
            }
        }
    }
}
