//! Reloads of the configuration, on a separate thread: a file may be on a file system that hangs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;
use tower_openai_proxy::proxy::Handle;

use crate::{
    files, log, notify,
    source::{Loaded, Source},
};

/// How often `--watch` reads the files.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What a reload replaces, all or nothing.
pub(crate) struct Current {
    pub(crate) proxy: Handle,
    pub(crate) tls: Option<watch::Sender<Arc<ServerConfig>>>,
}

/// Starts the thread, which reloads when the watched files change, and for each message it gets.
///
/// While it is busy one more message may wait; that reload sees what all further ones would.
pub(crate) fn start(
    source: Source,
    current: Current,
    watched: Watched,
) -> io::Result<SyncSender<()>> {
    let (sender, requests) = sync_channel(1);
    let thread = thread::Builder::new().name("reload".to_owned());
    thread.spawn(move || run(&source, &current, watched, &requests))?;
    Ok(sender)
}

fn run(source: &Source, current: &Current, mut watched: Watched, requests: &Receiver<()>) {
    let interval = match watched.files.is_empty() {
        true => Duration::MAX,
        false => WATCH_INTERVAL,
    };
    loop {
        match requests.recv_timeout(interval) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) if watched.have_changed() => {}
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        }
        notify::reloading();
        current.reload(source, &mut watched);
        notify::ready();
    }
}

impl Current {
    /// Files that can't be used leave the old configuration in place.
    fn reload(&self, source: &Source, watched: &mut Watched) {
        let mut loaded = source.load();
        if let Ok(Loaded { config, .. }) = &loaded
            && watched.follow(config.keys_file())
        {
            loaded = source.load();
        }
        match loaded {
            Ok(loaded) => {
                self.proxy.reload(loaded.config);
                if let (Some(current), Some(tls)) = (&self.tls, loaded.tls) {
                    current.send_replace(tls);
                }
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                log::message(error);
                tracing::error!("the old configuration stays");
            }
        }
    }
}

/// Files that are read at intervals.
pub(crate) struct Watched {
    files: Vec<PathBuf>,
    /// That of the configuration; the last one of the contents.
    keys_file: Option<PathBuf>,
    /// As of the last reload that they caused.
    loaded: Contents,
    last_seen: Contents,
}

type Contents = Vec<Option<Vec<u8>>>;

impl Watched {
    /// Reads them for the first time: to be called before they are loaded, so that no change is
    /// missed.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let loaded = read(&files);
        Self {
            last_seen: loaded.clone(),
            loaded,
            files,
            keys_file: None,
        }
    }

    /// Watches this keys file from now on. Tells whether it wasn't watched before, so that what was
    /// loaded may be older than what was seen of it.
    pub(crate) fn follow(&mut self, keys_file: Option<&Path>) -> bool {
        let is_off = self.files.is_empty();
        if is_off || self.keys_file.as_deref() == keys_file {
            return false;
        }
        self.keys_file = keys_file.map(Path::to_owned);
        let content = read(&self.keys_file);
        for contents in [&mut self.loaded, &mut self.last_seen] {
            contents.truncate(self.files.len());
            contents.extend(content.iter().cloned());
        }
        keys_file.is_some()
    }

    /// Whether the contents differ from those loaded, and are the same as at the last look: a file
    /// that is being written is left alone.
    fn have_changed(&mut self) -> bool {
        let now = read(self.files.iter().chain(&self.keys_file));
        let have_changed = now == self.last_seen && now != self.loaded;
        if have_changed {
            self.loaded.clone_from(&now);
        }
        self.last_seen = now;
        have_changed
    }
}

fn read<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Contents {
    let contents = files.into_iter().map(|file| files::read(file).ok());
    contents.collect()
}
