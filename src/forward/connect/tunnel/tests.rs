use tokio::io::duplex;

use super::*;

/// What comes of this answer, which arrives in these chunks, and what was asked.
async fn opened(chunks: &[&str], authorization: Option<&str>) -> (Result<(), String>, String) {
    let (mut near, mut far) = duplex(64);
    let authorization = authorization.map(|value| HeaderValue::from_str(value).unwrap());
    let proxy = async {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut asked).await.unwrap();
        }
        for chunk in chunks {
            if far.write_all(chunk.as_bytes()).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(far);
        String::from_utf8(asked).unwrap()
    };
    let opened = async move {
        let opened = open(&mut near, "a.test:443", authorization.as_ref()).await;
        opened.map_err(|error| error.to_string())
    };
    tokio::join!(opened, proxy)
}

#[tokio::test]
async fn a_tunnel_is_asked_for() {
    let (opened, asked) = opened(&["HTTP/1.1 200 OK\r\n\r\n"], None).await;
    assert_eq!(opened, Ok(()));
    assert_eq!(
        asked,
        "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n"
    );

    let answer = [
        "HTTP/1.0 2",
        "00 Connection established\r\nX: y\r",
        "\n\r\n",
    ];
    let (opened, asked) = self::opened(&answer, Some("Basic eA==")).await;
    assert_eq!(opened, Ok(()));
    assert!(asked.ends_with("\r\nproxy-authorization: Basic eA==\r\n\r\n"));
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let both = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(opened(&[both], None).await.0, Ok(()));
}

#[tokio::test]
async fn anything_else_is_a_refusal() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 * MAX_HEAD));
    let malformed = "the proxy's answer to CONNECT was not valid HTTP";
    let closed = "the proxy closed the connection at CONNECT";
    for (answer, expected) in [
        (
            "HTTP/1.1 407 No\r\n\r\nbody",
            "the proxy answered CONNECT with status 407",
        ),
        (
            "HTTP/1.1 301 No\r\n\r\n",
            "the proxy answered CONNECT with status 301",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nbefore it is asked", malformed),
        ("SSH-2.0-x\r\n\r\n", malformed),
        (&huge, malformed),
        ("HTTP/1.1 200 OK\r\n", closed),
        ("", closed),
    ] {
        assert_eq!(opened(&[answer], None).await.0, Err(expected.to_owned()));
    }
}
