use std::{
    convert::Infallible,
    future::{pending, ready},
    io,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_rustls::rustls::ServerConfig;
use tower::{Layer, util::service_fn};
use tower_openai_proxy::{Error, OpenAiProxyLayer};

use crate::{
    connection::{self, Limits},
    descriptors,
    listen::{self, Acceptor},
    notice::Notice,
    probes::Readiness,
    socket::Stream,
};

/// How long accepting pauses when it fails, as it does where no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// While accepting goes on failing, it is logged this often.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Connections idle for less are kept even where descriptors run short.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// What HTTPS is served with now. It changes at a reload.
pub(crate) type CurrentTls = watch::Receiver<Arc<ServerConfig>>;

/// How a listener is served.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) tls: Option<CurrentTls>,
    /// How long a connection may be idle between exchanges.
    pub(crate) keep_alive: Duration,
    /// Tells the connections of all listeners.
    pub(crate) notices: watch::Sender<Notice>,
    pub(crate) readiness: Readiness,
}

/// Serves all listeners of a worker for ever.
pub(crate) async fn accept_all(
    listeners: Vec<listen::Listener>,
    layer: OpenAiProxyLayer,
    options: Options,
) {
    for listener in listeners {
        tokio::spawn(accept(listener, layer.clone(), options.clone()));
    }
    pending().await
}

/// Serves one listener for ever. Until draining begins, it and each of its connections hold a
/// receiver of the notices; from then on those with something in flight.
pub(crate) async fn accept(
    listener: listen::Listener,
    layer: OpenAiProxyLayer,
    options: Options,
) -> io::Result<()> {
    let mut waiting = options.notices.subscribe();
    let notices = waiting.clone();
    let mut listener = Listener::new(listener, &options)?;
    let tls = options.tls.as_ref();
    let proxy = layer.handle();
    let readiness = options.readiness.clone();
    let service = layer.layer(service_fn(move |request| {
        ready(Ok::<_, Infallible>(answer(
            &request,
            &readiness,
            proxy.is_draining(),
        )))
    }));
    {
        let draining = async { waiting.wait_for(|notice| notice.is_draining).await.is_ok() };
        let mut draining = pin!(draining);
        loop {
            tokio::select! {
                stream = listener.next() => {
                    // Told here: a connection that is told later may be closed without a response.
                    let limits = if notices.borrow().is_draining {
                        Limits::while_draining()
                    } else {
                        Limits::new(options.keep_alive, notices.clone())
                    };
                    connection::serve(stream, tls, service.clone(), limits);
                }
                _ = &mut draining => break,
            }
        }
    }
    drop((waiting, notices));
    loop {
        let stream = listener.next().await;
        connection::serve(stream, tls, service.clone(), Limits::while_draining());
    }
}

struct Listener<'a> {
    acceptor: Acceptor,
    options: &'a Options,
    warned: Option<Instant>,
    /// Connections idle for so long have been told to end since accepting began to fail.
    told: Duration,
}

impl<'a> Listener<'a> {
    fn new(listener: listen::Listener, options: &'a Options) -> io::Result<Self> {
        Ok(Self {
            acceptor: listener.register()?,
            options,
            warned: None,
            told: options.keep_alive,
        })
    }

    /// The next connection. Where none can be taken, as when no file descriptor is left, it waits.
    async fn next(&mut self) -> Stream {
        loop {
            match self.acceptor.accept().await {
                Ok(stream) => {
                    self.told = self.options.keep_alive;
                    return stream;
                }
                // The client has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let warned = self.warned.map(|warned| warned.elapsed());
                    if warned.is_none_or(|elapsed| elapsed >= ACCEPT_WARN_INTERVAL) {
                        let code = descriptors::shortage(&error);
                        tracing::warn!(code, %error, "cannot accept connections for now");
                        self.warned = Some(Instant::now());
                    }
                    self.shed();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Makes room: those that have been idle longest end first.
    fn shed(&mut self) {
        self.told = (self.told / 2).max(MIN_IDLE);
        let idle_since = Instant::now().checked_sub(self.told);
        let notices = &self.options.notices;
        notices.send_modify(|notice| notice.idle_since = idle_since);
    }
}

/// The answer to what isn't the proxy's.
fn answer<B>(
    request: &Request<B>,
    readiness: &Readiness,
    is_draining: bool,
) -> Response<Full<Bytes>> {
    if let Some(response) = readiness.answer(request) {
        return response;
    }
    let error = if is_draining {
        Error::draining()
    } else {
        let path = request.uri().path();
        Error::not_found().with_message(format!("Nothing is served at `{path}`."))
    };
    error.to_response()
}
