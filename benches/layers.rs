//! What the layers cost by themselves: no socket, no HTTP on the wire, no waiting.
//!
//! ```sh
//! cargo bench                       # all of it, in seconds after the build
//! cargo bench -- stage              # each stage alone
//! cargo bench -- stack stream       # all of them together
//! cargo bench -- splice             # the model replaced, by size of the body
//! ```
//!
//! In each group `nothing` is the service at the bottom without a layer above it: what a layer
//! costs is the difference. Go by the column `fastest`; the others hold what else the machine did.
//! An exchange whole costs some tens of microseconds, nearly all of it in the kernel: see
//! `compare/` for that.

use std::{
    convert::Infallible,
    fmt,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, service_fn};
use tower_openai_proxy::{
    AuthPassthroughLayer, BackendConfig, BackendRouteLayer, Config, ModelOverrideLayer,
    OpenAiProxyLayer, TimeoutLayer,
};

const QUESTION: &str = "What is a reverse proxy, and why would I put one before an LLM?";
const CHUNKS: usize = 100;

fn main() {
    divan::main();
}

/// Each stage around a service that reads the request and answers at once.
#[divan::bench_group(sample_size = 100)]
mod stage {
    use super::*;

    #[divan::bench]
    fn nothing(bencher: Bencher<'_, '_>) {
        exchanges(bencher, service_fn(answer), request);
    }

    #[divan::bench]
    fn auth_passthrough(bencher: Bencher<'_, '_>) {
        let layer = AuthPassthroughLayer::new();
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    /// With a second backend the body is held, for another attempt.
    #[divan::bench(args = [1, 2])]
    fn backend_route(bencher: Bencher<'_, '_>, backends: usize) {
        let layer = BackendRouteLayer::from_config(&config(backends, ""));
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    #[divan::bench]
    fn model_kept(bencher: Bencher<'_, '_>) {
        let layer = ModelOverrideLayer::new();
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    #[divan::bench]
    fn model_replaced(bencher: Bencher<'_, '_>) {
        let layer = ModelOverrideLayer::with_default_model("llama3.2");
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    #[divan::bench]
    fn timeout(bencher: Bencher<'_, '_>) {
        let route = BackendRouteLayer::from_config(&config(1, ""));
        let backend = route.backends()[0].clone();
        let with_backend = move || {
            let mut request = request();
            request.extensions_mut().insert(backend.clone());
            request
        };
        let layer = TimeoutLayer::new();
        exchanges(bencher, layer.layer(service_fn(answer)), with_backend);
    }
}

/// All stages as one layer, with the model kept and replaced.
#[divan::bench_group(sample_size = 100)]
mod stack {
    use super::*;

    #[divan::bench]
    fn nothing(bencher: Bencher<'_, '_>) {
        exchanges(bencher, service_fn(answer), request);
    }

    #[divan::bench]
    fn model_kept(bencher: Bencher<'_, '_>) {
        let layer = OpenAiProxyLayer::builder(config(1, ""))
            .forward(service_fn(answer))
            .build();
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    #[divan::bench]
    fn model_replaced(bencher: Bencher<'_, '_>) {
        let layer = OpenAiProxyLayer::builder(config(1, "llama3.2"))
            .forward(service_fn(answer))
            .build();
        exchanges(bencher, layer.layer(service_fn(answer)), request);
    }

    #[divan::bench]
    fn another_route(bencher: Bencher<'_, '_>) {
        let layer = OpenAiProxyLayer::builder(config(1, ""))
            .forward(service_fn(answer))
            .build();
        let elsewhere = || {
            let mut request = request();
            *request.uri_mut() = "/some/other/route".parse().expect("a path");
            request
        };
        exchanges(bencher, layer.layer(service_fn(answer)), elsewhere);
    }
}

/// A response of 100 chunks, each after a wait.
mod stream {
    use super::*;

    #[divan::bench]
    fn nothing(bencher: Bencher<'_, '_>) {
        bodies(bencher, service_fn(stream));
    }

    #[divan::bench]
    fn stack(bencher: Bencher<'_, '_>) {
        let layer = OpenAiProxyLayer::builder(config(1, ""))
            .forward(service_fn(stream))
            .build();
        bodies(bencher, layer.layer(service_fn(answer)));
    }
}

/// The model replaced in ordinary chats, and in requests that are one image of base64.
mod splice {
    use super::*;

    const SIZES: [usize; 6] = [200, 2_000, 20_000, 200_000, 1_000_000, 10_000_000];

    #[divan::bench(args = SIZES)]
    fn chat(bencher: Bencher<'_, '_>, size: usize) {
        let turn =
            format!(r#"{{"role":"user","content":"{QUESTION}\n\nThey say \"it's for TLS\" …"}},"#);
        replace(bencher, &turn.repeat(size / turn.len()));
    }

    #[divan::bench(args = SIZES)]
    fn image(bencher: Bencher<'_, '_>, size: usize) {
        let data = "iVBORw0KGgo".repeat(size / 11);
        let part = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,"#;
        replace(
            bencher,
            &format!(r#"{{"role":"user","content":[{part}{data}"}}}}]}},"#),
        );
    }

    fn replace(bencher: Bencher<'_, '_>, turns: &str) {
        let last = r#"{"role":"user","content":"Go on."}"#;
        let body = format!(r#"{{"model":"gpt-4o","stream":true,"messages":[{turns}{last}]}}"#);
        let body = Bytes::from(body);
        let bytes = BytesCount::new(body.len());
        let layer = ModelOverrideLayer::with_default_model("llama3.2");
        let request = move || post(body.clone());
        exchanges(
            bencher.counter(bytes),
            layer.layer(service_fn(answer)),
            request,
        );
    }
}

/// Measures whole exchanges, from the call to the response's end.
fn exchanges<S, R>(
    bencher: Bencher<'_, '_>,
    mut service: S,
    request: impl Fn() -> Request<Full<Bytes>>,
) where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: fmt::Debug>,
    R: Body<Error: fmt::Debug>,
{
    let runtime = runtime();
    let _entered = runtime.enter();
    bencher
        .with_inputs(request)
        .bench_local_values(|request| read(answered(&mut service, request)));
}

/// Measures reading a response's body.
fn bodies<S, R>(bencher: Bencher<'_, '_>, mut service: S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: fmt::Debug>,
    R: Body<Error: fmt::Debug>,
{
    let runtime = runtime();
    let _entered = runtime.enter();
    bencher
        .counter(ItemsCount::new(CHUNKS))
        .with_inputs(|| answered(&mut service, request()))
        .bench_local_values(read);
}

/// Clocks need one; what is measured is polled by hand.
fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

fn answered<S>(service: &mut S, request: Request<Full<Bytes>>) -> S::Response
where
    S: Service<Request<Full<Bytes>>, Error: fmt::Debug>,
{
    let response = pin!(service.call(request));
    match response.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(response) => response.expect("answered"),
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

fn read<R: Body<Error: fmt::Debug>>(response: Response<R>) {
    let mut body = pin!(response.into_body());
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match body.as_mut().poll_frame(&mut context) {
            Poll::Ready(Some(frame)) => {
                black_box(frame.expect("a whole body"));
            }
            Poll::Ready(None) => return,
            Poll::Pending => {} // as if woken
        }
    }
}

/// A service that reads the request and answers at once.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, B::Error>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(request.into_body());
    while let Some(frame) = body.frame().await {
        black_box(frame?);
    }
    let answer = Bytes::from_static(br#"{"object":"chat.completion"}"#);
    Ok(Response::new(Full::new(answer)))
}

/// A service that answers by a stream.
async fn stream<B>(_: Request<B>) -> Result<Response<Chunks>, Infallible> {
    Ok(Response::new(Chunks {
        left: CHUNKS,
        waited: false,
    }))
}

/// Chunks of a stream, each after a wait.
struct Chunks {
    left: usize,
    waited: bool,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waited = !self.waited;
        if self.waited {
            return Poll::Pending;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        let chunk =
            Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n");
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

fn config(backends: usize, model: &str) -> Config {
    let builder = (0..backends).fold(Config::builder(), |builder, number| {
        let url = format!("http://127.0.0.1:{}/v1", 8001 + number);
        builder.backend(BackendConfig::new(format!("LLM{number}"), url).model(model))
    });
    builder.build().expect("a valid configuration")
}

fn request() -> Request<Full<Bytes>> {
    post(Bytes::from(format!(
        r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{QUESTION}"}}]}}"#
    )))
}

fn post(body: Bytes) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("host", "127.0.0.1:8000")
        .header("user-agent", "bench")
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .header(
            "authorization",
            "Bearer sk-0123456789abcdef0123456789abcdef",
        )
        .header("content-length", body.len())
        .body(Full::new(body))
        .expect("a valid request")
}
