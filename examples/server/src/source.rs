//! Where the configuration and the certificates come from.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::ServerConfig;
use tower_openai_proxy::{BackendConfig, Config};

use crate::{files, tls::Files};

/// Where the configuration comes from.
pub(crate) struct Source {
    /// None: the built-in default, as there was no file at the start.
    pub(crate) config: Option<PathBuf>,
    pub(crate) tls: Option<Files>,
    /// The mock's base URL, with `--demo`.
    pub(crate) demo_url: Option<String>,
}

/// The content of the files.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl Source {
    /// Reads all files.
    pub(crate) fn load(&self) -> Result<Loaded, Box<dyn Error>> {
        let config = match &self.config {
            Some(path) => {
                files::check(path)
                    .map_err(|error| format!("{}: can't be read: {error}", path.display()))?;
                Config::from_path(path)?
            }
            None => Config::default(),
        };
        let config = config.with_env_proxies()?;
        let tls = self.tls.as_ref().map(Files::load).transpose()?;
        self.redirect(Loaded { config, tls })
    }

    /// With `--demo`, points all backends at the mock.
    pub(crate) fn redirect(&self, mut loaded: Loaded) -> Result<Loaded, Box<dyn Error>> {
        if let Some(url) = &self.demo_url {
            let has_client_keys = loaded.config.keys_file().is_some();
            let redirect = |backend: BackendConfig| {
                if backend.is_placeholder() {
                    backend
                } else if has_client_keys {
                    // The mock asks for credentials, and the clients' go no further.
                    backend.url(url).proxy("").api_key("demo")
                } else {
                    backend.url(url).proxy("")
                }
            };
            loaded.config = loaded.config.to_builder().map_backends(redirect).build()?;
        }
        Ok(loaded)
    }

    /// All files.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        let tls = self.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]);
        let files = self.config.iter().chain(tls);
        files.map(PathBuf::as_path).collect()
    }
}
