//! An axum app that gains the proxy by one line: `.layer(OpenAiProxyLayer::from_config(config))`.
//!
//! ```sh
//! cargo run --example axum                             # 127.0.0.1:3000, backend OpenAI
//! cargo run --example axum 127.0.0.1:8080 config.json  # another address, backends from a file
//! ```
//!
//! The app's own routes are what they were:
//!
//! ```sh
//! curl http://127.0.0.1:3000/
//! curl http://127.0.0.1:3000/greetings -H 'Content-Type: application/json' -d '{"name":"Ada"}'
//! curl -N http://127.0.0.1:3000/countdown   # server-sent events
//! websocat ws://127.0.0.1:3000/echo         # a WebSocket
//! curl http://127.0.0.1:3000/nowhere        # the app's fallback
//! ```
//!
//! And it serves chat completions:
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/v1/chat/completions \
//!     -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
//!     -d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```

use std::{convert::Infallible, env, error::Error, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{StatusCode, Uri, request::Parts},
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get, post},
    serve::{Listener, ListenerExt},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt};
use tower_openai_proxy::{
    Config, OpenAiProxyLayer,
    observe::{Exchange, Usage},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:3000".to_owned());
    let config = match arguments.next() {
        Some(path) => Config::from_path(path)?,
        None => Config::default(),
    };

    // An observer must not block, so what it sees goes through a channel.
    let (seen, answers) = mpsc::unbounded_channel();
    tokio::spawn(report(answers));
    let proxy = OpenAiProxyLayer::builder(config).observer(move |_: &Parts| {
        let seen = seen.clone();
        Some(move |exchange: &Exchange| {
            let _ = seen.send(Answer::of(exchange));
        })
    });

    // Last, on the outermost router, so that it sees every request.
    let app = app().layer(proxy.build());

    // Each piece of a stream is sent at once.
    let listener = TcpListener::bind(address).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// What an answer cost, and how fast it began.
struct Answer {
    model: Option<String>,
    tokens: Option<u64>,
    first_token: Option<Duration>,
}

impl Answer {
    fn of(exchange: &Exchange) -> Self {
        Self {
            model: exchange.request_model().map(str::to_owned),
            tokens: exchange.usage().and_then(Usage::total_tokens),
            first_token: exchange.time_to_first_token(),
        }
    }
}

/// Sums up the tokens of all answers.
async fn report(mut answers: mpsc::UnboundedReceiver<Answer>) {
    let mut sum = 0;
    while let Some(answer) = answers.recv().await {
        sum += answer.tokens.unwrap_or(0);
        eprintln!(
            "{:?}: first token after {:?}, {:?} tokens, {sum} so far",
            answer.model, answer.first_token, answer.tokens
        );
    }
}

/// The app as it was before.
pub fn app() -> Router {
    let greeting = Arc::from("Hello");
    Router::new()
        .route("/", get(async || "An app of its own.\n"))
        .route("/greetings", post(greet))
        .route("/countdown", get(countdown))
        .route("/echo", any(echo))
        .fallback(nothing_here)
        .with_state(greeting)
}

#[derive(Deserialize)]
struct Person {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    text: String,
}

async fn greet(State(greeting): State<Arc<str>>, Json(person): Json<Person>) -> Json<Greeting> {
    let text = format!("{greeting}, {}!", person.name);
    Json(Greeting { text })
}

async fn countdown() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let seconds = tokio_stream::iter(["3", "2", "1", "lift-off"]);
    let paced = seconds.throttle(Duration::from_millis(300));
    Sse::new(paced.map(|text| Ok(Event::default().data(text))))
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_))
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}

async fn nothing_here(uri: Uri) -> (StatusCode, String) {
    (
        StatusCode::NOT_FOUND,
        format!("Nothing at {}.\n", uri.path()),
    )
}
