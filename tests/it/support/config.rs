//! Configurations and temporary files.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Backend;

/// A configuration with one backend, `LLM1`, whose name does not resolve.
pub(crate) const DEMO_CONFIG: &str =
    r#"{"primary_backends":[{"name":"LLM1","url":"http://demo.invalid/v1"}]}"#;

/// A configuration with `backend` as `LLM1`.
pub(crate) fn config_for(backend: &Backend) -> String {
    config_with(backend, "")
}

/// Like [`config_for`], with settings: JSON members, such as `"timeout": 1`.
pub(crate) fn config_with(backend: &Backend, settings: &str) -> String {
    format!(
        r#"{{"primary_backends":[{{"name":"LLM1","url":"{}"}}],"settings":{{{settings}}}}}"#,
        backend.url()
    )
}

/// A configuration with these backends, each written by [`entry`], and settings.
pub(crate) fn config_of(backends: &[String], settings: &str) -> String {
    format!(
        r#"{{"primary_backends":[{}],"settings":{{{settings}}}}}"#,
        backends.join(",")
    )
}

/// The entry of a backend in a configuration, with further members, such as `"model":"m"`.
pub(crate) fn entry(name: &str, address: SocketAddr, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"name":"{name}","url":"http://{address}/v1"{comma}{fields}}}"#)
}

/// A temporary file, removed on drop.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
}

impl TempFile {
    pub(crate) fn new(name: &str, content: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-openai-proxy-{}-{unique}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a temporary file");
        Self { path }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
