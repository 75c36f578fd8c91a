use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::{Pin, pin},
};

use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Channel, Empty, Full, channel::Sender};
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    clock::{IdleClock, Timer},
    config::Config,
    error::Kind,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits for what should happen after exactly so many seconds.
async fn after<F: Future>(seconds: u64, future: F) -> F::Output {
    let start = Instant::now();
    let output = tokio::time::timeout(YEAR, future).await;
    let output = output.expect("something happens");
    // Timers are rounded up to milliseconds.
    let late = start.elapsed().checked_sub(secs(seconds)).expect("early");
    assert!(late < Duration::from_millis(5), "late by {late:?}");
    output
}

/// Waits for so long that every clock would have fired.
async fn never<F: Future>(future: F) {
    let waited = tokio::time::timeout(YEAR, future).await;
    assert!(waited.is_err(), "something happened");
}

fn sleep(seconds: u64) -> tokio::time::Sleep {
    tokio::time::sleep(secs(seconds))
}

fn empty_request() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

/// A request whose body is sent chunk by chunk.
fn request_in_chunks() -> (Sender<Bytes>, Request<Channel<Bytes>>) {
    let (sender, body) = Channel::new(8);
    (sender, Request::new(body))
}

/// 10 s for the head, 5 s of idle time.
fn layer() -> TimeoutLayer {
    TimeoutLayer::new()
        .with_default_response_head(secs(10))
        .with_default_idle(secs(5))
}

fn answer() -> Response<Full<Bytes>> {
    Response::new(Full::from("answer"))
}

fn backend(settings: &str) -> Backend {
    let config = format!(
        r#"{{"primary_backends":[{{"name":"LLM1","url":"http://10.0.0.1/v1"}}],"settings":{{{settings}}}}}"#
    );
    Backend::all(&config.parse::<Config>().unwrap(), &[])[0].clone()
}

// The head.

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_an_error() {
    let silent = layer().layer(service_fn(|_| {
        pending::<Result<Response<Full<Bytes>>, Error>>()
    }));
    let error = after(10, silent.oneshot(empty_request()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "http_response_timeout");
    assert!(error.is_timeout() && error.backend().is_none());
}

#[tokio::test(start_paused = true)]
async fn without_periods_there_is_no_clock() {
    let silent = TimeoutLayer::new().layer(service_fn(|_| {
        pending::<Result<Response<Full<Bytes>>, Error>>()
    }));
    never(silent.oneshot(empty_request())).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_brings_its_own_periods() {
    let silent = layer().layer(service_fn(|_| {
        pending::<Result<Response<Full<Bytes>>, Error>>()
    }));
    let mut request = empty_request();
    request.extensions_mut().insert(backend(r#""timeout":30"#));
    let error = after(30, silent.oneshot(request)).await.unwrap_err();
    assert_eq!(error.backend().unwrap().name(), "LLM1");
    assert!(error.to_string().contains("`LLM1`"));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_with_the_last_tick_is_not_late() {
    let service = layer().layer(service_fn(|_| async {
        sleep(10).await;
        Ok::<_, Infallible>(answer())
    }));
    let response = after(10, service.oneshot(empty_request())).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_does_not_stop_the_clock() {
    let service = layer().layer(service_fn(|request: Request<RequestBody>| async move {
        let _unread = request;
        pending::<Result<Response<Full<Bytes>>, Error>>().await
    }));
    let (_sender, request) = request_in_chunks();
    assert!(after(10, service.oneshot(request)).await.is_err());
}

/// Reads a request's whole body and never answers.
async fn read(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Error> {
    request.into_body().collect().await?;
    pending().await
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_while_the_client_is_waited_for() {
    let (mut sender, request) = request_in_chunks();
    tokio::spawn(async move {
        sleep(100).await;
        sender.send_data("a".into()).await.unwrap();
        sleep(3).await;
        sender.send_data("b".into()).await.unwrap();
        sleep(1000).await;
        drop(sender);
    });
    let service = layer().layer(service_fn(read));
    let error = after(1113, service.oneshot(request)).await.unwrap_err();
    assert_eq!(error.code(), "http_response_timeout");
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_for_a_body_that_another_task_reads() {
    let (sender, request) = request_in_chunks();
    tokio::spawn(async move {
        sleep(64).await;
        drop(sender);
    });
    let service = layer().layer(service_fn(|request: Request<RequestBody>| async move {
        tokio::spawn(request.into_body().collect());
        pending::<Result<Response<Full<Bytes>>, Error>>().await
    }));
    // Looked at once a period: at 60 it still stood, at 70 it had gone on.
    assert!(after(80, service.oneshot(request)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_clock_restarts_with_each_chunk() {
    let (mut sender, request) = request_in_chunks();
    for _ in 0..4 {
        sender.send_data("chunk".into()).await.unwrap();
    }
    drop(sender);
    // As a backend that takes a chunk now and then.
    let service = layer().layer(service_fn(|request: Request<RequestBody>| async move {
        let mut body = request.into_body();
        while body.frame().await.is_some() {
            sleep(9).await;
        }
        pending::<Result<Response<Full<Bytes>>, Error>>().await
    }));
    assert!(after(46, service.oneshot(request)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_stops_reading_is_given_up() {
    let (mut sender, request) = request_in_chunks();
    for _ in 0..4 {
        sender.send_data("chunk".into()).await.unwrap();
    }
    let service = layer().layer(service_fn(|request: Request<RequestBody>| async move {
        let mut body = request.into_body();
        body.frame().await;
        sleep(8).await;
        body.frame().await;
        pending::<Result<Response<Full<Bytes>>, Error>>().await
    }));
    assert!(after(18, service.oneshot(request)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_while_a_connection_is_waited_for() {
    let service = layer().layer(service_fn(|request: Request<RequestBody>| async move {
        request.body().note_connecting(true);
        sleep(100).await;
        request.body().note_connecting(false);
        pending::<Result<Response<Full<Bytes>>, Error>>().await
    }));
    assert!(after(110, service.oneshot(empty_request())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn errors_from_below_pass() {
    let ours = layer().layer(service_fn(|_| async {
        Err::<Response<Full<Bytes>>, _>(Error::new(Kind::Refused))
    }));
    let error = ours.oneshot(empty_request()).await.unwrap_err();
    assert_eq!(error.code(), "connection_refused");

    let foreign = layer().layer(service_fn(|_| async {
        Err::<Response<Full<Bytes>>, _>(std::fmt::Error)
    }));
    let error = foreign.oneshot(empty_request()).await.unwrap_err();
    assert_eq!(error.status(), 500);
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .is::<std::fmt::Error>()
    );
}

#[tokio::test(start_paused = true)]
async fn the_wrapped_service_is_waited_for() {
    struct NeverReady;
    impl Service<Request<RequestBody>> for NeverReady {
        type Response = Response<Full<Bytes>>;
        type Error = Error;
        type Future = std::future::Ready<Result<Self::Response, Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Err(Error::new(Kind::Dns)))
        }
        fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
            unreachable!("it was never ready")
        }
    }
    let service = layer().layer(NeverReady);
    let error = service.oneshot(empty_request()).await.unwrap_err();
    assert_eq!(error.code(), "dns_error");
}

// The body.

/// A response's body that is sent chunk by chunk, with 5 s of idle time.
async fn response_in_chunks() -> (Sender<Bytes, Error>, TimeoutBody<Channel<Bytes, Error>>) {
    let (sender, body) = Channel::new(8);
    let mut body = Some(body);
    let service = layer().layer(service_fn(|_| {
        let response = Response::new(body.take().expect("called once"));
        async { Ok::<_, Infallible>(response) }
    }));
    let response = service.oneshot(empty_request()).await.unwrap();
    (sender, response.into_body())
}

#[tokio::test(start_paused = true)]
async fn being_idle_for_too_long_is_an_error() {
    let (sender, mut body) = response_in_chunks().await;
    let error = after(5, body.frame()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "http_response_timeout");
    assert!(error.is_timeout());

    let (mut other, mut body) = response_in_chunks().await;
    other.send_data("chunk".into()).await.unwrap();
    let chunk = after(0, body.frame()).await.unwrap().unwrap();
    assert_eq!(chunk.into_data().unwrap(), "chunk");
    assert!(after(5, body.frame()).await.unwrap().is_err());
    sender.abort(Error::new(Kind::Truncated));
}

#[tokio::test(start_paused = true)]
async fn each_chunk_ends_an_idle_time() {
    let (mut sender, mut body) = response_in_chunks().await;
    tokio::spawn(async move {
        for pause in [4, 1, 4, 4, 0, 4] {
            sleep(pause).await;
            sender.send_data("chunk".into()).await.unwrap();
        }
        sleep(4).await;
        sender.send_trailers(HeaderMap::new()).await.unwrap();
    });
    let mut chunks = 0;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        chunks += 1;
    }
    assert_eq!(chunks, 7);
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_counts_from_the_last_chunk_on() {
    let (mut sender, mut body) = response_in_chunks().await;
    tokio::spawn(async move {
        for _ in 0..3 {
            sleep(3).await;
            sender.send_data("chunk".into()).await.unwrap();
        }
        never(pending::<()>()).await;
    });
    for _ in 0..3 {
        assert!(after(3, body.frame()).await.unwrap().is_ok());
    }
    assert!(after(5, body.frame()).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_poll_makes_nobody_idle() {
    let (mut sender, mut body) = response_in_chunks().await;
    for _ in 0..2 {
        sender.send_data("chunk".into()).await.unwrap();
    }
    for _ in 0..2 {
        sleep(1000).await;
        assert!(after(0, body.frame()).await.unwrap().is_ok());
    }
    sleep(1000).await;
    assert!(after(5, body.frame()).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_arrives_while_nobody_polls_ends_the_idle_time() {
    let (mut sender, mut body) = response_in_chunks().await;
    // Asked once in vain, so that the clock runs.
    assert!(tokio::time::timeout(secs(1), body.frame()).await.is_err());
    sender.send_data("chunk".into()).await.unwrap();
    sleep(1000).await;
    assert!(after(0, body.frame()).await.unwrap().is_ok());
    assert!(after(5, body.frame()).await.unwrap().is_err());
}

/// A body with one chunk that arrives at a certain time.
struct Later(Pin<Box<tokio::time::Sleep>>);

impl Body for Later {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = || Some(Ok(Frame::data("chunk".into())));
        self.0.as_mut().poll(cx).map(|()| chunk())
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_arrives_with_the_last_tick_is_not_late() {
    let clock = (IdleClock::new(secs(5)), None);
    let mut body = TimeoutBody::new(Later(Box::pin(sleep(5))), Some(clock));
    assert!(after(5, body.frame()).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_body_may_be_idle() {
    let (_sender, body) = Channel::<Bytes, Error>::new(1);
    let mut body = TimeoutBody::new(body, None);
    never(body.frame()).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_names_the_backend() {
    let mut request = empty_request();
    request
        .extensions_mut()
        .insert(backend(r#""idle_timeout":7"#));
    let (_sender, channel) = Channel::<Bytes, Error>::new(1);
    let mut channel = Some(channel);
    let service = layer().layer(service_fn(|_| {
        let response = Response::new(channel.take().expect("called once"));
        async { Ok::<_, Infallible>(response) }
    }));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    let error = after(7, body.frame()).await.unwrap().unwrap_err();
    assert_eq!(error.backend().unwrap().name(), "LLM1");
}

#[tokio::test(start_paused = true)]
async fn a_body_passes_as_it_is() {
    let (mut sender, mut body) = response_in_chunks().await;
    sender.send_data("chunk".into()).await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    let frames: [Frame<Bytes>; 2] = [
        body.frame().await.unwrap().unwrap(),
        body.frame().await.unwrap().unwrap(),
    ];
    assert_eq!(frames[0].data_ref().unwrap(), "chunk");
    assert_eq!(frames[1].trailers_ref().unwrap(), &trailers);
    assert!(body.frame().await.is_none());

    let (sender, mut body) = response_in_chunks().await;
    sender.abort(Error::new(Kind::Truncated));
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "connection_terminated");

    let body = TimeoutBody::new(Full::new(Bytes::from("123")), None);
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    assert!(TimeoutBody::new(Empty::<Bytes>::new(), None).is_end_stream());
}

// The clocks themselves.

#[tokio::test(start_paused = true)]
async fn an_idle_clock_runs_from_the_first_time_it_is_asked() {
    let mut clock = IdleClock::new(secs(5));
    sleep(100).await;
    after(5, poll_fn(|cx| clock.poll_elapsed(cx))).await;
    // It stays so until something moves.
    after(0, poll_fn(|cx| clock.poll_elapsed(cx))).await;
    clock.reset();
    sleep(100).await;
    after(5, poll_fn(|cx| clock.poll_elapsed(cx))).await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fires_too_early_is_set_anew() {
    let mut timer = Timer::default();
    let now = Instant::now();
    let mut ask = async |seconds| {
        let asked = poll_fn(|cx| Poll::Ready(timer.poll(now + secs(seconds), cx)));
        asked.await.is_ready()
    };
    assert!(!ask(5).await);
    sleep(3).await;
    assert!(!ask(9).await);
    sleep(3).await;
    assert!(!ask(9).await, "after its first time");
    sleep(3).await;
    assert!(ask(9).await);
    assert!(!ask(20).await);
    assert!(ask(4).await, "an earlier time than it was set to");
}

#[tokio::test(start_paused = true)]
async fn a_sooner_deadline_wakes_the_task_sooner() {
    let mut timer = Timer::default();
    let now = Instant::now();
    let mut deadline = now + secs(50);
    let asked = pin!(poll_fn(|cx| {
        let ready = timer.poll(deadline, cx);
        if ready.is_pending() && deadline > now + secs(7) {
            deadline = now + secs(7);
            return timer.poll(deadline, cx);
        }
        ready
    }));
    after(7, asked).await;
}

/// Polls a timer, and leaves it to the next one.
async fn leave_a_spare(seconds: u64) {
    let mut timer = Timer::default();
    let deadline = Instant::now() + secs(seconds);
    let asked = poll_fn(|cx| Poll::Ready(timer.poll(deadline, cx)));
    assert!(asked.await.is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_spare_timer_wakes_the_task_that_takes_it_at_its_time() {
    for (left_at, taken_at) in [(5, 9), (9, 5), (7, 7)] {
        tokio::spawn(leave_a_spare(left_at)).await.unwrap();
        let mut timer = Timer::default();
        let deadline = Instant::now() + secs(taken_at);
        after(taken_at, poll_fn(|cx| timer.poll(deadline, cx))).await;
    }
    // One that fires where nobody needs it.
    leave_a_spare(5).await;
    sleep(6).await;
    let mut timer = Timer::default();
    let deadline = Instant::now() + secs(3);
    after(3, poll_fn(|cx| timer.poll(deadline, cx))).await;
}

#[test]
fn a_timer_of_another_runtime_is_no_spare() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    runtime().block_on(leave_a_spare(5));
    runtime().block_on(async {
        let mut timer = Timer::default();
        let deadline = Instant::now() + secs(3);
        after(3, poll_fn(|cx| timer.poll(deadline, cx))).await;
    });
}
