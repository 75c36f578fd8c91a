//! WebSockets (RFC 6455): the handshake, and the connection behind it.

use futures_util::{SinkExt, StreamExt};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{
        CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        UPGRADE,
    },
    http::request::Parts,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::TokioIo;
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    answer::{PACE, Script},
    endpoint::has_credentials,
    error::{ApiError, NO_CREDENTIALS},
    models,
    realtime::Session,
    trouble,
};

const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The connection to come, if the request asks for a WebSocket.
pub(super) fn requested(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let protocol = request.headers().get(UPGRADE)?.as_bytes();
    let is_asked = protocol.eq_ignore_ascii_case(b"websocket")
        && request.headers().contains_key(SEC_WEBSOCKET_KEY);
    is_asked.then(|| upgrade::on(request))
}

/// Opens a WebSocket, which then has a separate task.
pub(super) fn open(head: &Parts, upgrade: OnUpgrade) -> Result<Response<Script>, ApiError> {
    let protocols = protocols(head);
    // A browser can send a key only so.
    let is_key = |protocol: &&str| protocol.starts_with("openai-insecure-api-key.");
    if !has_credentials(head) && !protocols.iter().any(is_key) {
        return Err(ApiError::unauthorized(None, NO_CREDENTIALS));
    }
    if head.uri.path() != "/v1/realtime" {
        let message = "The demo has WebSockets at /v1/realtime only.";
        return Err(ApiError::new(426, Some("websocket_unsupported"), message)
            .header("upgrade", "HTTP/1.1")
            .header("connection", "Upgrade"));
    }
    let query = head.uri.query().unwrap_or_default();
    let mut parameters = query.split('&');
    let model = parameters.find_map(|parameter| parameter.strip_prefix("model="));
    let model = models::decode(model.unwrap_or_default());
    if model.is_empty() {
        return Err(ApiError::missing("model"));
    }
    let end = trouble::asked_for(head, &model)?;
    let accept = derive_accept_key(head.headers[SEC_WEBSOCKET_KEY].as_bytes());
    tokio::spawn(async move {
        // An error is a client that disconnected.
        let _ = serve(upgrade, Session::new(&model, end)).await;
    });

    let mut response = Response::new(Script::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(accept).expect("Base64");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if protocols.contains(&"realtime") {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("realtime"));
    }
    Ok(response)
}

/// The subprotocols that a client offers.
fn protocols(head: &Parts) -> Vec<&str> {
    let lists = head.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let lists = lists.filter_map(|list| list.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .collect()
}

async fn serve(upgrade: OnUpgrade, mut session: Session) -> tungstenite::Result<()> {
    let Ok(upgraded) = upgrade.await else {
        return Ok(());
    };
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE));
    let stream = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for event in session.take_events() {
            socket.send(Message::text(event.to_string())).await?;
        }
        tokio::select! {
            // Pings and the closing handshake are answered by the library.
            message = socket.next() => match message.transpose()? {
                Some(Message::Text(text)) => session.receive(&text),
                Some(_) => {}
                None => return Ok(()),
            },
            _ = pace.tick(), if session.is_responding() => {
                if session.go_on().is_break() {
                    return Ok(());
                }
            }
        }
    }
}
