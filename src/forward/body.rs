use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

#[cfg(feature = "http2")]
use super::http2;
use super::{
    connect::Stream,
    http1::{Exchange, Head},
    pool::Pool,
};
use crate::{backend::Backend, error::Error};

/// A response's body as it comes from the backend.
///
/// It *is* the connection, or the stream of HTTP/2: to drop it ends the exchange, not to poll it
/// slows the backend down. When the body has ended well, the connection is kept for the next
/// request.
pub struct ResponseBody {
    state: State,
}

enum State {
    Open(Box<Download>),
    #[cfg(feature = "http2")]
    Http2(Box<http2::Download>, Backend),
    Trailers(Box<HeaderMap>),
    Ended,
}

/// An exchange, and where its connection goes afterwards.
pub(super) struct Download {
    exchange: Exchange<Stream>,
    backend: Backend,
    pool: Arc<Pool>,
}

impl Download {
    pub(super) fn new(exchange: Exchange<Stream>, backend: Backend, pool: Arc<Pool>) -> Self {
        Self {
            exchange,
            backend,
            pool,
        }
    }

    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        spare: &mut HeaderMap,
    ) -> Poll<Result<Head, Error>> {
        let head = self.exchange.poll_head(cx, spare);
        head.map_err(|error| error.with_backend(&self.backend))
    }

    /// Keeps the connection where it can be; the trailers are what is left.
    fn end(mut self) -> State {
        let trailers = self.exchange.take_trailers();
        if let Some(stream) = self.exchange.into_reusable() {
            self.pool.put(self.backend.origin(), stream);
        }
        trailers.map_or(State::Ended, |trailers| State::Trailers(Box::new(trailers)))
    }
}

impl ResponseBody {
    pub(super) fn new(download: Box<Download>) -> Self {
        let mut body = Self {
            state: State::Open(download),
        };
        body.end_if_complete();
        body
    }

    #[cfg(feature = "http2")]
    pub(super) fn http2(download: Option<http2::Download>, backend: Backend) -> Self {
        Self {
            state: download.map_or(State::Ended, |download| {
                State::Http2(Box::new(download), backend)
            }),
        }
    }

    /// The end is acted on as soon as it is known: nobody asks again once `is_end_stream`.
    fn end_if_complete(&mut self) {
        if matches!(&self.state, State::Open(download) if download.exchange.is_end())
            && let State::Open(download) = std::mem::replace(&mut self.state, State::Ended)
        {
            self.state = download.end();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let State::Open(download) = &mut self.state {
            let data = ready!(download.exchange.poll_data(cx));
            match data {
                Some(Ok(data)) => {
                    self.end_if_complete();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    let error = error.with_backend(&download.backend);
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.end_if_complete(),
            }
        }
        #[cfg(feature = "http2")]
        if let State::Http2(download, backend) = &mut self.state {
            let frame = ready!(download.poll_frame(cx));
            let frame = frame.map(|frame| frame.map_err(|error| error.with_backend(backend)));
            if !matches!(frame, Some(Ok(_))) || download.is_end() {
                self.state = State::Ended;
            }
            return Poll::Ready(frame);
        }
        Poll::Ready(match std::mem::replace(&mut self.state, State::Ended) {
            State::Trailers(trailers) => Some(Ok(Frame::trailers(*trailers))),
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open(download) => download.exchange.size_hint(),
            #[cfg(feature = "http2")]
            State::Http2(download, _) => download.size_hint(),
            State::Trailers(_) | State::Ended => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
