//! The files for TLS to a backend: `ca_file`, `client_cert` and `client_key`.

#[cfg(all(test, any(feature = "native-tls", feature = "rustls")))]
mod tests;

use std::{path::Path, sync::Arc};

use super::{BackendConfig, ConfigError, rules::allowed};
use crate::{
    file,
    tls::{Client, Credentials, Identity, Unusable},
};

/// More than any bundle of authorities has.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

impl BackendConfig {
    /// What TLS uses in place of the defaults. `path` is this backend's.
    ///
    /// The files of a placeholder aren't read. Paths aren't shown: some write a key itself there.
    pub(super) fn tls(&self, path: &str) -> Result<Option<Arc<Client>>, ConfigError> {
        let field = |name: &str| format!("{path}.{name}");
        let pair = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                let problem = "needs the private key of the certificate in `client_key`";
                return Err(ConfigError::in_field(field("client_cert"), problem));
            }
            (None, Some(_)) => {
                let problem = "needs the certificate of the key in `client_cert`";
                return Err(ConfigError::in_field(field("client_key"), problem));
            }
        };
        if self.is_placeholder() || (pair.is_none() && self.ca_file.is_none()) {
            return Ok(None);
        }
        let error = |name, problem: &str, allowed: &str| {
            let problem = format!("names a file {problem}; it must hold {allowed}");
            ConfigError::in_field(field(name), problem)
        };
        let read = |name, path: &Path, allowed| {
            let content = file::read(path, MAX_BYTES);
            content.map_err(|cause| error(name, &format!("that can't be read ({cause})"), allowed))
        };
        let authorities = self.ca_file.as_deref();
        let authorities = authorities.map(|path| read("ca_file", path, allowed::AUTHORITIES));
        let identity = pair.map(|(certificates, key)| {
            Ok(Identity {
                certificates: read("client_cert", certificates, allowed::CLIENT_CERT)?,
                key: read("client_key", key, allowed::CLIENT_KEY)?,
            })
        });
        let client = Client::new(Credentials {
            authorities: authorities.transpose()?,
            identity: identity.transpose()?,
        });
        let client = client.map_err(|cause| match cause {
            Unusable::Authorities => error(
                "ca_file",
                "without a valid certificate",
                allowed::AUTHORITIES,
            ),
            Unusable::Certificates => error(
                "client_cert",
                "without a valid certificate",
                allowed::CLIENT_CERT,
            ),
            Unusable::Key => error("client_key", "without such a key", allowed::CLIENT_KEY),
            Unusable::Mismatch => error(
                "client_key",
                "whose key isn't the certificate's",
                allowed::CLIENT_KEY,
            ),
            Unusable::Library(cause) => {
                let name = if self.ca_file.is_some() {
                    "ca_file"
                } else {
                    "client_cert"
                };
                ConfigError::in_field(field(name), format!("can't be used: {cause}"))
            }
        })?;
        Ok(Some(Arc::new(client)))
    }
}
