//! What HTTPS is served with: a certificate and its key, from two files.
//!
//! Messages name the files and what is wrong with them, and never show any of their content.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    CertificateError, Error, InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate},
};

use crate::files;

/// What a client may choose in the handshake. One that chooses nothing gets HTTP/1.1.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];
pub(crate) const HTTP2: &[u8] = b"h2";

/// Where the certificate, with those of its issuers after it, and its key are.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    /// Reads both. The error is one message for the user.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let in_certificate = |problem: String| at(&self.certificate, &problem);
        let in_key = |problem: &str| at(&self.key, problem);
        let chain = chain(&self.certificate).map_err(in_certificate)?;
        let key = key(&self.key).map_err(|problem| in_key(&problem))?;
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| "this build has no version of TLS")?;
        let mut config = tls
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => in_key(&format!(
                    "isn't the private key of the first certificate in {}",
                    self.certificate.display()
                )),
                _ => in_key(
                    "has a private key that can't be used; allowed are RSA with 2048 to 4096 \
                     bits, ECDSA with P-256 or P-384, and Ed25519",
                ),
            })?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        // Sessions are with the clients: those kept here would be but a few.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(|_| "there are no random numbers")?;
        Ok(Arc::new(config))
    }
}

fn at(file: &Path, problem: &str) -> String {
    format!("{}: {problem}", file.display())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    files::read(file).map_err(|error| format!("can't be read: {error}"))
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|_| "isn't well-formed PEM")?;
    if chain.is_empty() {
        return Err("has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)".to_owned());
    }
    for (index, certificate) in chain.iter().enumerate() {
        let is_usable = match ParsedCertificate::try_from(certificate) {
            Ok(_) => true,
            Err(Error::InvalidCertificate(CertificateError::BadEncoding)) => false,
            // Clients judge the issuers' for themselves.
            Err(_) => index > 0,
        };
        if !is_usable {
            let number = index + 1;
            return Err(format!(
                "certificate number {number} in it isn't an X.509 certificate of version 3"
            ));
        }
    }
    Ok(chain)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    let pem = read(file)?;
    if pem.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) {
        return Err("has an encrypted private key; it must be without a passphrase".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&pem);
    // The library's own messages would repeat lines of the file.
    key.map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "has no private key in PEM form (PKCS#8, PKCS#1 or SEC1)".to_owned()
        }
        _ => "isn't well-formed PEM".to_owned(),
    })
}
