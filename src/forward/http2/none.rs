//! A build without HTTP/2: there are no connections.

use std::{
    convert::Infallible,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use http_body::{Body, SizeHint};

use super::Unsent;
use crate::forward::message::{ExchangeError, Framing, Head, PollFrame, Source};

pub(crate) struct Connection(Infallible);

pub(crate) async fn connect<T>(_: T) -> Result<Connection, Source> {
    Err("built without HTTP/2".into())
}

impl Connection {
    pub(crate) fn reserve(&self, _: Duration) -> Option<StreamPermit> {
        match self.0 {}
    }

    pub(crate) fn is_usable(&mut self, _: Duration, _: Duration) -> bool {
        match self.0 {}
    }
}

pub(crate) struct StreamPermit(Infallible);

impl StreamPermit {
    pub(crate) fn send<B>(
        self,
        _: Request<()>,
        _: Framing,
        _: B,
    ) -> Result<Exchange<B>, Unsent<B>> {
        match self.0 {}
    }
}

pub(crate) struct Exchange<B>(Infallible, PhantomData<B>);

impl<B: Body> Exchange<B> {
    pub(crate) fn poll_head(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Head, ExchangeError<B::Error>>> {
        match self.0 {}
    }

    pub(crate) fn poll_frame(&mut self, _: &mut Context<'_>) -> PollFrame<B::Error> {
        match self.0 {}
    }

    pub(crate) fn is_end(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.0 {}
    }

    pub(crate) fn into_unread_body(self) -> Option<B> {
        match self.0 {}
    }

    pub(crate) fn close_connection(&self) {
        match self.0 {}
    }
}
