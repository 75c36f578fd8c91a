//! A connection in HTTP/2 that many clients share.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Mutex;

use crate::{client::Target, response::Events, workload::Request};

/// What browsers and Go's client allow, about: enough to never be what a proxy waits for.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;

pub struct Connection {
    target: Rc<Target>,
    connecting: Mutex<()>,
    sender: Rc<RefCell<Option<SendRequest<Bytes>>>>,
}

impl Connection {
    pub fn new(target: Rc<Target>) -> Self {
        Self {
            target,
            connecting: Mutex::default(),
            sender: Rc::default(),
        }
    }

    /// The first that asks connects, again where the last connection has ended.
    async fn sender(&self) -> Result<SendRequest<Bytes>, String> {
        let _connecting = self.connecting.lock().await;
        if let Some(sender) = &*self.sender.borrow() {
            return Ok(sender.clone());
        }
        let io = self.target.connect().await?;
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(io);
        let (sender, connection) = handshake.await.map_err(explain)?;
        *self.sender.borrow_mut() = Some(sender.clone());
        let slot = self.sender.clone();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            *slot.borrow_mut() = None;
        });
        Ok(sender)
    }

    pub async fn exchange(&self, request: &Request, mut events: Events<'_>) -> Result<(), String> {
        let mut sender = self.sender().await?.ready().await.map_err(explain)?;
        let (response, mut body) = sender
            .send_request(request.http2.clone(), false)
            .map_err(explain)?;
        body.send_data(request.body.clone(), true)
            .map_err(explain)?;
        let response = response.await.map_err(explain)?;
        if response.status() != 200 {
            return Err(format!("status {}", response.status()));
        }
        let kind = response.headers().get("content-type");
        events.is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-st"));
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let data = data.map_err(explain)?;
            events.bytes(&data);
            let _ = body.flow_control().release_capacity(data.len());
        }
        events.end()
    }
}

fn explain(error: h2::Error) -> String {
    format!("HTTP/2: {error}")
}
