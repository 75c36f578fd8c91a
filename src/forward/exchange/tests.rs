use super::*;

#[test]
fn ntlm_and_negotiate_authenticate_the_connection() {
    let is_one = |status, challenges: &[&'static str]| {
        let challenges = challenges.iter().map(|&challenge| {
            let value = header::HeaderValue::from_static(challenge);
            (header::WWW_AUTHENTICATE, value)
        });
        authenticates_connection(&Head {
            status,
            reason: None,
            headers: challenges.collect(),
        })
    };
    let unauthorized = StatusCode::UNAUTHORIZED;
    assert!(is_one(unauthorized, &["NTLM"]));
    assert!(is_one(
        unauthorized,
        &["Basic realm=\"a\"", "negotiate YII="]
    ));
    assert!(is_one(unauthorized, &["Basic realm=\"a\",Negotiate, NTLM"]));
    assert!(!is_one(unauthorized, &[]));
    assert!(!is_one(unauthorized, &["Bearer realm=\"ntlm-like\""]));
    assert!(!is_one(StatusCode::OK, &["NTLM"]));
}

#[cfg(feature = "http2")]
mod http2 {
    use std::future::poll_fn;

    use h2::{Reason, server};
    use http_body_util::Channel;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::{
        Backend, BackendConfig, Config,
        forward::{
            connect::{Connected, Connector},
            http2::connect,
            pool::Limits,
        },
    };

    fn outgoing(body: RequestBody) -> Outgoing {
        let config = Config::builder().backend(BackendConfig::new("a", "http://a.test/v1"));
        let backend = Backend::all(&config.build().unwrap(), &[])[0].clone();
        let request = Request::post("/v1/chat/completions").extension(backend);
        let request = request.body(body).unwrap();
        let target = Target::of(&request).unwrap();
        let pool = Pool::new(Arc::new(Connector::new()), Limits::default());
        Outgoing::new(request, target, Arc::new(pool))
    }

    fn buffered() -> RequestBody {
        Bytes::from("{}").into()
    }

    /// Sends a request on a new connection, and gives the backend's side of that.
    async fn start(outgoing: Outgoing) -> (Box<Exchange>, DuplexStream) {
        let (client, wire) = duplex(64 * 1024);
        let connection = Connected::Http2(connect(client).await.unwrap());
        let pool = outgoing.pool.clone();
        let open = pool.admit(outgoing.target.backend.origin(), connection);
        let started = Exchange::start(outgoing, open.unwrap());
        (started.ok().expect("an open connection").0, wire)
    }

    async fn head(exchange: &mut Exchange) -> Result<Head, Error> {
        poll_fn(|cx| exchange.poll_head(cx, &mut HeaderMap::new())).await
    }

    /// Refuses the first request of a connection.
    async fn refuse(wire: DuplexStream, reason: Reason) {
        let mut server = server::handshake(wire).await.unwrap();
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(reason);
        while server.accept().await.is_some() {}
    }

    /// Closes a connection with this last stream, reason 11 and debug data (RFC 9113, section 6.8).
    async fn go_away(mut wire: DuplexStream, last_stream: u8) {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let go_away = [
            0,
            0,
            8 + 6,
            7,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            last_stream,
            0,
            0,
            0,
            11,
        ];
        let end = [&settings[..], &go_away, b"sk-key"].concat();
        wire.write_all(&end).await.unwrap();
        wire.shutdown().await.unwrap();
        wire.read_to_end(&mut Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_request_can_be_sent_again_while_its_body_is_in_memory() {
        for (reason, is_repeated) in [(Reason::REFUSED_STREAM, true), (Reason::CANCEL, false)] {
            let (mut exchange, wire) = start(outgoing(buffered())).await;
            tokio::spawn(refuse(wire, reason));
            let error = head(&mut exchange).await.unwrap_err();
            assert_eq!(error.code(), "connection_terminated");
            let unprocessed = exchange.into_unprocessed();
            assert_eq!(unprocessed.is_some(), is_repeated, "{reason}");
            if let Some(again) = unprocessed {
                assert_eq!(again.body.size_hint().exact(), Some(2));
            }
        }
    }

    #[tokio::test]
    async fn a_request_is_sent_three_times_at_most() {
        let mut next = Some(outgoing(buffered()));
        let mut sent = 0;
        while let Some(outgoing) = next {
            let (mut exchange, wire) = start(outgoing).await;
            tokio::spawn(refuse(wire, Reason::REFUSED_STREAM));
            head(&mut exchange).await.unwrap_err();
            sent += 1;
            next = exchange.into_unprocessed();
        }
        assert_eq!(sent, 3);
    }

    #[tokio::test]
    async fn a_request_that_a_goaway_excludes_can_be_sent_again() {
        for (last_stream, is_repeated) in [(0, true), (1, false)] {
            let (mut exchange, wire) = start(outgoing(buffered())).await;
            tokio::spawn(go_away(wire, last_stream));
            let error = head(&mut exchange).await.unwrap_err();
            assert_eq!(error.code(), "connection_terminated");
            assert!(!format!("{error:?}").contains("sk-"), "{error:?}");
            let unprocessed = exchange.into_unprocessed();
            assert_eq!(unprocessed.is_some(), is_repeated, "{last_stream}");
        }
    }

    #[tokio::test]
    async fn a_streamed_body_is_sent_again_only_where_nothing_of_it_was_read() {
        let (mut client, body) = Channel::<Bytes>::new(1);
        let (mut exchange, wire) = start(outgoing(RequestBody::new(body))).await;
        tokio::spawn(go_away(wire, 0));
        head(&mut exchange).await.unwrap_err();
        let again = exchange.into_unprocessed().expect("nothing was read");

        client.send_data("some text".into()).await.unwrap();
        let (mut exchange, mut wire) = start(again).await;
        tokio::spawn(async move {
            let mut read = Vec::new();
            while !read.ends_with(b"some text") {
                wire.read_buf(&mut read).await.unwrap();
            }
            go_away(wire, 0).await;
        });
        head(&mut exchange).await.unwrap_err();
        assert!(exchange.into_unprocessed().is_none());
    }
}
