use std::{
    collections::HashMap,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Channel, Full, channel::Sender, combinators::UnsyncBoxBody};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use super::{
    body::Read,
    list::{Entries, Merged},
    *,
};
use crate::{
    backend::Backend,
    error::Kind,
    observe::{Exchange, ObserveLayer},
    route::{BackendRouteLayer, select_fn},
};

type Answer = UnsyncBoxBody<Bytes, Error>;
type Answered = Result<Response<Answer>, Error>;

/// What a backend does with a request, once.
enum Does {
    Answer(Response<Answer>),
    After(u64, Response<Answer>),
    Fail(Kind),
    Hang,
}

/// The backend's name, and the request.
type Asked = (String, Request<RequestBody>);

/// A service that does for each backend what it is told, and keeps what it was asked.
#[derive(Clone, Default)]
struct Scripted {
    script: Arc<Mutex<HashMap<String, Does>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// A clone lives as long as a request that hangs.
    hanging: Arc<()>,
}

impl Scripted {
    fn new<const N: usize>(script: [(&str, Does); N]) -> Self {
        let script = script.map(|(name, does)| (name.to_owned(), does));
        Self {
            script: Arc::new(Mutex::new(script.into())),
            ..Self::default()
        }
    }

    /// Takes what it was asked: the backends' names.
    fn names(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|(name, _)| name).collect()
    }
}

impl Service<Request<RequestBody>> for Scripted {
    type Response = Response<Answer>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let backend = request.extensions().get::<Backend>();
        let name = backend.expect("selected above").name().to_owned();
        let does = self.script.lock().unwrap().remove(&name);
        self.asked.lock().unwrap().push((name, request));
        let hanging = self.hanging.clone();
        Box::pin(async move {
            match does.expect("asked once") {
                Does::Answer(response) => Ok(response),
                Does::After(seconds, response) => {
                    sleep(Duration::from_secs(seconds)).await;
                    Ok(response)
                }
                Does::Fail(kind) => Err(Error::new(kind)),
                Does::Hang => {
                    let _hanging = hanging;
                    std::future::pending().await
                }
            }
        })
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Answer> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let response = Response::builder().status(status);
    response.body(body.boxed_unsync()).unwrap()
}

fn list(entries: &str) -> Response<Answer> {
    answer(200, format!(r#"{{"object":"list","data":[{entries}]}}"#))
}

fn in_chunks() -> (Sender<Bytes, Error>, Response<Answer>) {
    let (sender, body) = Channel::new(8);
    (sender, answer(200, "").map(|_| body.boxed_unsync()))
}

/// A layer for backends of these names, and a service below it.
fn stack(
    names: &[&str],
    settings: &str,
    service: &Scripted,
) -> (BackendRouteLayer, MergeModels<BackendRoute<Scripted>>) {
    let entries: Vec<_> = names.iter().map(|name| (*name, "")).collect();
    stack_of(&entries, settings, service)
}

/// The same, with further fields of each backend.
fn stack_of(
    entries: &[(&str, &str)],
    settings: &str,
    service: &Scripted,
) -> (BackendRouteLayer, MergeModels<BackendRoute<Scripted>>) {
    let entry = |(name, fields): &(&str, &str)| {
        format!(r#"{{"name":"{name}","url":"http://10.0.0.1/v1"{fields}}}"#)
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let entries = entries.join(",");
    let text = format!(r#"{{"primary_backends":[{entries}],"settings":{{{settings}}}}}"#);
    let config: Config = text.parse().unwrap();
    let route = BackendRouteLayer::from_config(&config);
    let merge = MergeModelsLayer::from_config(&config);
    let service = merge.layer(route.layer(service.clone()));
    (route, service)
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

fn cooling(route: &BackendRouteLayer) -> Vec<&str> {
    let backends = route.backends().iter();
    let cooling = backends.filter(|backend| backend.is_cooling_down());
    cooling.map(Backend::name).collect()
}

async fn text<B: Body<Data = Bytes, Error = Error>>(response: Response<B>) -> String {
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().into()).unwrap()
}

/// Asks backends that do this for the list, which must come.
async fn merged<const N: usize>(script: [(&str, Does); N]) -> String {
    let names = script.each_ref().map(|(name, _)| *name);
    let service = Scripted::new(script);
    let (_, stack) = stack(&names, "", &service);
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    let list = text(response).await;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["content-length"], list.len().to_string());
    list
}

use Does::{After, Fail, Hang};

fn does(response: Response<Answer>) -> Does {
    Does::Answer(response)
}

// The list.

#[tokio::test]
async fn the_list_has_the_order_of_the_configuration() {
    let service = Scripted::new([
        ("a", After(3, list(r#"{"id":"1"},{"id":"2"}"#))),
        ("b", does(list(r#"{"id":"3"}"#))),
        ("c", does(list(""))),
        ("d", After(1, list(r#"{"id":"4"}"#))),
    ]);
    tokio::time::pause();
    let (_, stack) = stack(&["a", "b", "c", "d"], "", &service);
    let start = Instant::now();
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 3); // all at the same time
    assert_eq!(
        text(response).await,
        r#"{"object":"list","data":[{"id":"1"},{"id":"2"},{"id":"3"},{"id":"4"}]}"#
    );
    assert_eq!(service.names(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn an_entry_stays_as_its_backend_wrote_it() {
    let entries = [
        "{ \"id\" :\t\"a\" ,\r\n \"n\":1.0e+2, \"n\":01e }".replace("01e", "-0"),
        r#"{"ID":"a","data":[{"id":"a"}],"id":"\u00e9/\ud83d","x":null}"#.into(),
        r#"{"owned_by":"Zoë","id":"Ünï 模型","deep":[[[{}]]]}"#.into(),
    ];
    let list = merged([
        (
            "a",
            does(answer(
                200,
                format!(
                    "\r\n{{ \"x\" : [1 ], \"data\" :[\t{} ,\n{}\n], \"has_more\":false }}\n",
                    entries[0], entries[1]
                ),
            )),
        ),
        ("b", does(list(&entries[2]))),
    ])
    .await;
    assert_eq!(
        list,
        format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
    );
}

#[tokio::test]
async fn each_id_is_listed_once_and_the_first_wins() {
    let list = merged([
        (
            "a",
            does(list(r#"{"id":"m","by":1},{"id":"m","by":2},{"id":"M"}"#)),
        ),
        (
            "b",
            does(list(r#"{"by":3,"id":"\u006d"},{"id":"x","id":"n"}"#)),
        ),
        (
            "c",
            does(list(
                r#"{"id":"n"},{"id":"x"},{"id":"m "},{"\ud83d":1,"id":"m"}"#,
            )),
        ),
    ])
    .await;
    assert_eq!(
        list,
        r#"{"object":"list","data":[{"id":"m","by":1},{"id":"M"},{"id":"x","id":"n"},{"id":"x"},{"id":"m "}]}"#
    );
}

#[tokio::test]
async fn entries_without_an_id_are_all_listed() {
    let entries = r#"{},{"id":1},{"id":null},"m",["id"],7"#;
    let list = merged([("a", does(list(entries))), ("b", does(list(entries)))]).await;
    assert_eq!(
        list,
        format!(r#"{{"object":"list","data":[{entries},{entries}]}}"#)
    );
}

/// The entries of the list that backends with these fields and answers make.
async fn entries<const N: usize>(backends: [(&str, &str, Does); N]) -> String {
    let fields = backends
        .each_ref()
        .map(|(name, fields, _)| (*name, *fields));
    let service = Scripted::new(backends.map(|(name, _, does)| (name, does)));
    let (_, stack) = stack_of(&fields, "", &service);
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(response.status(), 200);
    let list = text(response).await;
    let entries = list.strip_prefix(r#"{"object":"list","data":["#).unwrap();
    entries.strip_suffix("]}").unwrap().to_owned()
}

fn unlisted(id: &str, owner: &str) -> String {
    format!(r#"{{"id":"{id}","object":"model","created":0,"owned_by":"{owner}"}}"#)
}

#[tokio::test]
async fn a_backends_models_are_listed_where_it_is_a_candidate() {
    let list = entries([
        (
            "rest",
            "",
            does(list(r#"{"id":"gpt-4o"},{"id":"llama"},{"n":1}"#)),
        ),
        (
            "gpt",
            r#","models":["gpt-*"]"#,
            does(list(
                r#"{"id":"gpt-4o","n":2},{"id":"other"},{"id":"gpt-5"}"#,
            )),
        ),
        (
            "exact",
            r#","models":["gpt-5"]"#,
            does(list(r#"{ "id" : "gpt-5" }"#)),
        ),
    ]);
    assert_eq!(
        list.await,
        r#"{"id":"llama"},{"n":1},{"id":"gpt-4o","n":2},{ "id" : "gpt-5" }"#
    );
}

#[tokio::test]
async fn a_single_backend_with_patterns_lists_what_they_match() {
    let entries = entries([(
        "a",
        r#","models":["gpt-*"]"#,
        does(list(r#"{"id":"gpt-4o"},{"id":"llama"}"#)),
    )]);
    assert_eq!(entries.await, r#"{"id":"gpt-4o"}"#);
}

#[tokio::test]
async fn aliases_rename_entries_and_no_other_byte() {
    let entries = entries([
        (
            "a",
            r#","models":{"fast":"gpt-4o-mini","quick \"\"":"gpt-4o-mini","a/*":"*"}"#,
            does(list(
                r#"{ "n": [1], "id" : "gpt-4o-mini", "x":"id" },{"id":"gpt\u002d4o"}"#,
            )),
        ),
        (
            "b",
            r#","models":["fast","m"]"#,
            does(list(r#"{"id":"fast","n":2},{"id":"m"}"#)),
        ),
    ]);
    assert_eq!(
        entries.await,
        [
            r#"{ "n": [1], "id" : "fast", "x":"id" }"#,
            r#"{ "n": [1], "id" : "quick \"\"", "x":"id" }"#,
            r#"{ "n": [1], "id" : "a/gpt-4o-mini", "x":"id" }"#,
            r#"{"id":"a/gpt-4o"}"#,
            r#"{"id":"m"}"#,
        ]
        .join(",")
    );
}

#[tokio::test]
async fn names_and_aliases_that_nobody_listed_are_at_the_end() {
    let entries = entries([
        (
            "a",
            r#","models":{"fast":"gpt-4o-mini","gpt-*":"","m":""}"#,
            does(list(r#"{"id":"m"}"#)),
        ),
        ("b", r#","models":["n","fast"]"#, does(answer(500, ""))),
        ("c", r#","models":["n","o"]"#, does(list(r#"{"id":"o"}"#))),
    ]);
    assert_eq!(
        entries.await,
        [
            r#"{"id":"m"}"#,
            r#"{"id":"o"}"#,
            &unlisted("fast", "a"),
            &unlisted("n", "b"),
        ]
        .join(",")
    );
}

#[tokio::test]
async fn if_all_fail_no_name_is_listed() {
    let service = Scripted::new([("a", does(answer(500, "down")))]);
    let (_, stack) = stack_of(&[("a", r#","models":["m"]"#)], "", &service);
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(text(response).await, "down");
}

#[test]
fn documents_that_are_no_lists() {
    for document in [
        "",
        "[]",
        r#"[{"id":"m"}]"#,
        "null",
        "{}",
        r#"{"data":{}}"#,
        r#"{"data":"[]"}"#,
        r#"{"data":[],"data":null}"#,
        r#"{"data":[]"#,
        r#"{"data":[{"id":"m"}}"#,
        r#"{"data":[{"id":"m"},]}"#,
        r#"{"data":[]} {}"#,
        r#"{"error":{"data":[]}}"#,
        "data: [DONE]\n\n",
    ] {
        assert!(Entries::of(&document.into()).is_none(), "{document}");
    }
    let not_utf8 = Bytes::from_static(b"{\"data\":[{\"id\":\"\xff\"}]}");
    assert!(Entries::of(&not_utf8).is_none());
    // No depth is too deep.
    let depth = 100_000;
    let deep = "[".repeat(depth) + &"]".repeat(depth);
    for (document, expected) in [
        // A name may be a lone surrogate.
        (r#"{"\ud83d":0,"d\u0061ta":[2]}"#, "2"),
        (r#"{"data":null,"data" : [1] }"#, "1"),
        ("{\"data\":[ 1\t,\n\"]\" ,null,{ }\r]}", "1,\"]\",null,{ }"),
        (r#"{"data":[ ]}"#, ""),
        (&format!(r#"{{"data":[{deep}]}}"#), &deep),
    ] {
        let mut entries = Entries::of(&document.to_owned().into()).unwrap();
        let mut merged = Merged::new(false);
        while !merged.append(&mut entries, None) {}
        let expected = format!(r#"{{"object":"list","data":[{expected}]}}"#);
        assert!(merged.finish() == expected, "{expected}");
    }
}

#[tokio::test]
async fn large_lists_do_not_keep_other_tasks_waiting() {
    let ids = |letter| (0..50_000).map(move |number| format!(r#"{{"id":"{letter}{number}"}}"#));
    let [first, second]: [Vec<_>; 2] = ["a", "b"].map(|letter| ids(letter).collect());
    let (first, second) = (first.join(","), second.join(" , "));
    let expected = [&*first, &second.replace(" , ", ",")].join(",");
    let service = Scripted::new([("a", does(list(&first))), ("b", does(list(&second)))]);
    let (_, stack) = stack(&["a", "b"], "", &service);
    let mut response = pin!(stack.oneshot(get("/v1/models")));
    let mut polls = 0;
    let response = poll_fn(|cx| {
        polls += 1;
        response.as_mut().poll(cx)
    });
    let merged = text(response.await.unwrap()).await;
    assert!(merged == format!(r#"{{"object":"list","data":[{expected}]}}"#));
    // At most 16 KiB at a time.
    assert!(polls > expected.len() / (16 * 1024), "{polls}");
}

// What backends are asked.

#[tokio::test]
async fn backends_are_asked_by_gets_of_the_proxys_own() {
    for method in [Method::GET, Method::HEAD] {
        let service = Scripted::new([("a", does(list(""))), ("b", does(list("")))]);
        let (_, stack) = stack(&["a", "b"], "", &service);
        let request = Request::builder()
            .method(method)
            .uri("/v1/models?limit=2")
            .header("x-one", "1")
            .header("accept-encoding", "gzip")
            .header("range", "bytes=0-1")
            .header("if-none-match", "*")
            .header("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT")
            .header("if-match", "*")
            .header("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT")
            .header("if-range", "\"a\"")
            .header("authorization", "Bearer sk-test")
            .header("expect", "100-continue")
            .header("content-length", "4")
            .header("accept", "*/*")
            .header("x-one", "2")
            .body(Full::from("body"));
        stack.oneshot(request.unwrap()).await.unwrap();
        let asked = std::mem::take(&mut *service.asked.lock().unwrap());
        assert_eq!(asked.len(), 2);
        for (_, request) in asked {
            assert_eq!(*request.method(), Method::GET);
            assert_eq!(request.uri(), "/v1/models?limit=2");
            let fields = request.headers().iter();
            let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value)).collect();
            assert_eq!(
                fields,
                [
                    ("x-one", "1"),
                    ("x-one", "2"),
                    ("authorization", "Bearer sk-test"),
                    ("accept", "*/*")
                ]
                .map(|(name, value)| (name, &*Box::leak(Box::new(value.parse().unwrap()))))
            );
            assert!(request.body().is_end_stream());
        }
    }
}

#[tokio::test]
async fn paths_are_compared_decoded() {
    for path in [
        "/v1/models",
        "/models",
        "/v1/%6dodels",
        "/v1//models",
        "/models?after=m",
    ] {
        let service = Scripted::new([("a", does(list(""))), ("b", does(list("")))]);
        let (_, stack) = stack(&["a", "b"], "", &service);
        stack.oneshot(get(path)).await.unwrap();
        assert_eq!(service.names(), ["a", "b"], "{path}");
    }
}

#[tokio::test]
async fn other_requests_are_forwarded() {
    let request = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let with = |name: &'static str, value: &str| {
        let mut request = get("/v1/models");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let mut websocket = with("upgrade", "websocket");
    let upgrade = "upgrade".parse().unwrap();
    websocket.headers_mut().insert("connection", upgrade);
    for (request, backend) in [
        (request("POST", "/v1/models"), "a"),
        (request("DELETE", "/v1/models"), "a"),
        (request("OPTIONS", "/v1/models"), "a"),
        (get("/v1/models/"), "a"),
        (get("/v1/models/m"), "a"),
        (get("/v1/v1/models"), "a"),
        (get("/v1/Models"), "a"),
        (get("/modelsx"), "a"),
        (websocket, "a"),
        (with("x-proxy-backend", "b"), "b"),
    ] {
        let about = format!("{request:?}");
        let service = Scripted::new([
            ("a", does(answer(200, "as"))),
            ("b", does(answer(200, "as"))),
        ]);
        let (_, stack) = stack(&["a", "b"], "", &service);
        let response = stack.oneshot(request).await.unwrap();
        assert!(response.headers().is_empty(), "{about}");
        assert_eq!(text(response).await, "as", "{about}");
        assert_eq!(service.names(), [backend], "{about}");
    }
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let service = Scripted::new([("a", does(answer(200, "as it is"))), ("b", Hang)]);
    let (_, stack) = stack(&["a", "b"], r#""merge_models":false"#, &service);
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(text(response).await, "as it is");
    assert_eq!(service.names(), ["a"]);
}

#[tokio::test]
async fn only_backends_that_serve_the_path_are_asked() {
    let config = |second: &str| {
        let entry = |name: &str, paths: &str| {
            format!(r#"{{"name":"{name}","url":"http://10.0.0.1","paths":[{paths}]}}"#)
        };
        let entries = [
            entry("a", r#""/chat/*","/models""#),
            entry("b", r#""/models/*""#),
            entry("c", second),
        ];
        let text = format!(r#"{{"primary_backends":[{}]}}"#, entries.join(","));
        BackendRouteLayer::from_config(&text.parse().unwrap())
    };
    let service = Scripted::new([("a", does(list(""))), ("c", does(list("")))]);
    let merge = MergeModels::new(config(r#""*""#).layer(service.clone()));
    merge.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(service.names(), ["a", "c"]);

    // A single one gets the request itself.
    let service = Scripted::new([("a", does(answer(203, "as it is")))]);
    let merge = MergeModels::new(config(r#""/chat""#).layer(service));
    let response = merge.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(response.status(), 203);
    assert_eq!(text(response).await, "as it is");
}

#[tokio::test]
async fn a_selector_is_not_asked() {
    let service = Scripted::new([("a", does(list(""))), ("b", does(list("")))]);
    let (route, _) = stack(&["a", "b"], "", &service);
    let route = route.with_selector(select_fn(|_| panic!("asked")));
    let merge = MergeModels::new(route.layer(service.clone()));
    merge.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(service.names(), ["a", "b"]);
}

// Failures.

const MAX: usize = 4 * 1024 * 1024;

fn encoded(encoding: &str) -> Response<Answer> {
    let mut response = list(r#"{"id":"encoded"}"#);
    let encoding = encoding.parse().unwrap();
    response.headers_mut().insert("content-encoding", encoding);
    response
}

/// A list of this many bytes.
fn list_of(bytes: usize) -> String {
    let frame = r#"{"object":"list","data":[{"id":""}]}"#;
    frame.replace(
        r#""""#,
        &format!(r#""{}""#, "m".repeat(bytes - frame.len())),
    )
}

#[tokio::test]
async fn a_backend_that_fails_is_left_out() {
    let (mut truncated, begun) = in_chunks();
    truncated.send_data(r#"{"data":["#.into()).await.unwrap();
    truncated.abort(Error::new(Kind::Truncated));
    for fails in [
        Fail(Kind::Refused),
        Fail(Kind::ClosedBeforeHead),
        Fail(Kind::Internal),
        does(answer(401, r#"{"object":"list","data":[{"id":"no"}]}"#)),
        does(answer(206, r#"{"object":"list","data":[{"id":"no"}]}"#)),
        does(answer(304, "")),
        does(encoded("gzip")),
        does(answer(200, "<html>")),
        does(answer(200, list_of(MAX + 1))),
        does(begun),
    ] {
        let list = merged([
            ("a", fails),
            ("b", does(list(r#"{"id":"m"}"#))),
            ("c", does(encoded("identity"))),
        ])
        .await;
        assert_eq!(
            list,
            r#"{"object":"list","data":[{"id":"m"},{"id":"encoded"}]}"#
        );
    }
}

#[tokio::test]
async fn answers_of_up_to_4_mib_are_read() {
    let largest = list_of(MAX);
    let merged = merged([
        ("a", does(list(""))),
        ("b", does(answer(200, largest.clone()))),
    ])
    .await;
    assert!(merged == largest);

    // Not announced, and without an end.
    let (mut sender, endless) = in_chunks();
    let service = Scripted::new([("a", does(list(""))), ("b", does(endless))]);
    let (_, stack) = stack(&["a", "b"], "", &service);
    let sending = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b' '; 64 * 1024]);
        let mut sent = 0;
        while sender.send_data(chunk.clone()).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let response = stack.oneshot(get("/models")).await.unwrap();
    assert_eq!(text(response).await, r#"{"object":"list","data":[]}"#);
    assert!(sending.await.unwrap() < MAX + 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_costs_nobody_the_list() {
    let (_never, begun) = in_chunks();
    for (slow, is_down) in [(Hang, true), (does(begun), false)] {
        let service = Scripted::new([("a", slow), ("b", does(list(r#"{"id":"m"}"#)))]);
        let (route, stack) = stack(&["a", "b"], r#""connect_timeout":2"#, &service);
        let start = Instant::now();
        let response = stack.oneshot(get("/v1/models")).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!(
            text(response).await,
            r#"{"object":"list","data":[{"id":"m"}]}"#
        );
        // Without response headers in time it has failed.
        assert_eq!(!cooling(&route).is_empty(), is_down);
    }
}

#[tokio::test]
async fn a_failed_backend_cools_down_as_for_any_request() {
    let service = Scripted::new([
        ("a", Fail(Kind::Refused)),
        ("b", does(answer(503, ""))),
        ("c", does(answer(500, ""))),
        ("d", does(list(""))),
    ]);
    let (route, stack) = stack(&["a", "b", "c", "d"], r#""failover_on":[503]"#, &service);
    stack.oneshot(get("/v1/models")).await.unwrap();
    assert_eq!(cooling(&route), ["a", "b"]);
    assert_eq!(service.names(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn if_all_fail_the_first_answer_stands_as_it_came() {
    let mut teapot = answer(418, "short and stout");
    teapot.headers_mut().insert("x-one", "1".parse().unwrap());
    let (mut sender, chunks) = in_chunks();
    for chunk in ["no ", "list"] {
        sender.send_data(chunk.into()).await.unwrap();
    }
    let trailers = HeaderMap::from_iter([(header::ETAG, "\"e\"".parse().unwrap())]);
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    let large = list_of(MAX + 1);
    for (first, status, expected, has_trailers) in [
        (teapot, 418, "short and stout", false),
        (answer(200, "[]"), 200, "[]", false),
        (
            encoded("gzip"),
            200,
            r#"{"object":"list","data":[{"id":"encoded"}]}"#,
            false,
        ),
        (answer(200, large.clone()), 200, &*large, false),
        (chunks, 200, "no list", true),
    ] {
        let headers = first.headers().clone();
        let service = Scripted::new([("a", does(first)), ("b", does(answer(500, "second")))]);
        let (_, stack) = stack(&["a", "b"], "", &service);
        let response = stack.oneshot(get("/v1/models")).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(*response.headers(), headers);
        assert_eq!(response.extensions().get::<Backend>().unwrap().name(), "a");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), has_trailers.then_some(&trailers));
        assert!(body.to_bytes() == expected);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_goes_on_as_it_comes() {
    let (mut sender, response) = in_chunks();
    let service = Scripted::new([("a", does(response)), ("b", Fail(Kind::Refused))]);
    let (_, stack) = stack(&["a", "b"], "", &service);
    let chunk = Bytes::from(vec![b' '; MAX / 2]);
    for _ in 0..3 {
        sender.send_data(chunk.clone()).await.unwrap();
    }
    let response = stack.oneshot(get("/v1/models")).await.unwrap();
    let mut body = pin!(response.into_body());
    let read = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(read.len(), 3 * chunk.len());
    sender.send_data("end".into()).await.unwrap();
    let next = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(next, "end");
    sender.abort(Error::new(Kind::Truncated));
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Truncated);
}

#[tokio::test(start_paused = true)]
async fn if_all_fail_the_first_error_stands() {
    let (truncated, begun) = in_chunks();
    truncated.abort(Error::new(Kind::Truncated));
    for (first, kind) in [
        (Fail(Kind::Dns), Kind::Dns),
        (Hang, Kind::ResponseTimeout),
        (does(begun), Kind::Truncated),
    ] {
        let service = Scripted::new([("a", first), ("b", does(answer(500, "")))]);
        let (_, stack) = stack(&["a", "b"], "", &service);
        let error = stack.oneshot(get("/v1/models")).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.backend().unwrap().name(), "a");
    }
}

#[tokio::test]
async fn head_gets_the_head_of_the_same() {
    let head = || {
        let request = Request::head("/v1/models");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let one = r#"{"id":"m"}"#;
    for (status, length, script) in [
        (200, "37", [("a", does(list(one))), ("b", does(list(one)))]),
        (
            401,
            "9",
            [
                ("a", does(answer(401, "forbidden"))),
                ("b", Fail(Kind::Dns)),
            ],
        ),
    ] {
        let mut script = script;
        if let Does::Answer(response) = &mut script[0].1 {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, "9".parse().unwrap());
        }
        let service = Scripted::new(script);
        let (_, stack) = stack(&["a", "b"], "", &service);
        let response = stack.oneshot(head()).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-length"], length);
        assert!(response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), Some(0));
    }
}

// The exchange.

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_ends_all_requests() {
    let service = Scripted::new([("a", Hang), ("b", Hang), ("c", does(list("")))]);
    let (route, stack) = stack(&["a", "b", "c"], "", &service);
    let asked = stack.oneshot(get("/v1/models"));
    assert!(timeout(Duration::from_secs(1), asked).await.is_err());
    assert_eq!(service.names(), ["a", "b", "c"]);
    assert_eq!(Arc::strong_count(&service.hanging), 1);
    assert!(cooling(&route).is_empty());
}

#[tokio::test]
async fn an_observer_sees_one_exchange_with_all_attempts() {
    let service = Scripted::new([
        ("a", does(answer(500, ""))),
        ("b", does(list(""))),
        ("c", Fail(Kind::Dns)),
    ]);
    let (_, stack) = stack(&["a", "b", "c"], "", &service);
    let records = Arc::new(Mutex::new(Vec::new()));
    let written = records.clone();
    let observe = ObserveLayer::new().with_observer(move |_| {
        let written = written.clone();
        Some(move |exchange: &Exchange| {
            let attempts = exchange.attempts().iter();
            let names: Vec<_> = attempts
                .map(|it| format!("{} {}", it.backend().name(), it.result()))
                .collect();
            let status = exchange.status();
            written.lock().unwrap().push((names.join(", "), status));
        })
    });
    let response = observe.layer(stack).oneshot(get("/v1/models")).await;
    text(response.unwrap()).await;
    assert_eq!(
        *records.lock().unwrap(),
        [(
            "c dns_error, b answered, a status_500".to_owned(),
            Some(StatusCode::OK)
        )]
    );
}

// The body.

#[tokio::test]
async fn a_forwarded_body_stays_what_it_is() {
    let (mut sender, body) = Channel::<Bytes, Error>::new(2);
    let mut body = ResponseBody::forwarded(body);
    sender.send_data("a".into()).await.unwrap();
    let trailers = HeaderMap::from_iter([(header::ETAG, "\"e\"".parse().unwrap())]);
    sender.send_trailers(trailers.clone()).await.unwrap();
    let frame = |frame: Option<Result<Frame<Bytes>, Error>>| frame.unwrap().unwrap();
    assert_eq!(frame(body.frame().await).into_data().unwrap(), "a");
    assert_eq!(frame(body.frame().await).into_trailers().unwrap(), trailers);

    let body = ResponseBody::forwarded(Full::<Bytes>::from("abc"));
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    assert!(ResponseBody::forwarded(Full::<Bytes>::default()).is_end_stream());
}

#[test]
fn a_body_that_was_read_in_part_counts_both() {
    let hint = |rest: Option<Full<Bytes>>| {
        let body = ResponseBody::read(Read {
            bytes: "abc".into(),
            trailers: None,
            rest: rest.map(Box::pin),
        });
        (body.size_hint(), body.is_end_stream())
    };
    let exact = |(hint, is_end): (SizeHint, bool)| (hint.exact(), is_end);
    assert_eq!(exact(hint(Some(Full::from("de")))), (Some(5), false));
    assert_eq!(exact(hint(Some(Full::default()))), (Some(3), false));
    assert_eq!(exact(hint(None)), (Some(3), false));
}

#[tokio::test]
async fn a_body_that_was_read_ends_behind_its_trailers() {
    let trailers = HeaderMap::from_iter([(header::ETAG, "\"e\"".parse().unwrap())]);
    let mut body = ResponseBody::<Full<Bytes>>::read(Read {
        bytes: Bytes::new(),
        trailers: Some(trailers.clone()),
        rest: None,
    });
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    assert!(body.is_end_stream());
}

#[test]
fn other_bodies_have_no_room_for_a_list() {
    assert!(
        size_of::<ResponseBody<Full<Bytes>>>() <= size_of::<Full<Bytes>>() + size_of::<usize>()
    );
}
