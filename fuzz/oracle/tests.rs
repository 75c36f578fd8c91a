use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    compare,
    generate::{Random, case},
    outcome::{Ending, ours},
    wire::{Case, End, To},
};

const CASES: u32 = 4_000;

#[test]
fn responses_are_read_as_by_hyper_or_by_a_rule() {
    let mut random = Random(1);
    let mut counts = BTreeMap::new();
    for number in 0..CASES {
        let case = case(&mut random);
        let rule = compare(&case).unwrap_or_else(|error| panic!("case {number}: {error}"));
        *counts.entry(rule).or_insert(0) += 1;
    }
    // What differs must stay the exception.
    assert!(counts[&None] > CASES * 3 / 4, "{counts:#?}");
    println!("{counts:#?}");
}

/// A response to a GET on a connection that stays.
fn answer(response: impl AsRef<[u8]>) -> Case {
    Case {
        to: To::Get,
        pieces: vec![Bytes::copy_from_slice(response.as_ref())],
        end: End::Silent,
    }
}

fn with_fields(fields: &str) -> Case {
    answer(format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))
}

fn chunked(body: &str) -> Case {
    with_fields(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"))
}

#[test]
fn each_rule_by_example() {
    let to = |to, case| Case { to, ..case };
    let fields = |count| "a: b\r\n".repeat(count);
    let long = "x".repeat(16_400);
    let length = "Content-Length: 0\r\n";
    let in_two = Case {
        pieces: vec!["HTTP/".into(), "2.0".into()],
        ..answer("")
    };
    #[rustfmt::skip]
    let cases = [
        (with_fields("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"), "ours refuses Content-Length with Transfer-Encoding"),
        (with_fields("Content-Length: 0\r\nContent-Length: 0\r\n"), "ours refuses Content-Length told twice"),
        (with_fields("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"), "ours refuses Transfer-Encoding told twice"),
        (to(To::Head, answer("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")), "ours refuses Transfer-Encoding in HTTP/1.0"),
        (with_fields("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n"), "ours refuses any coding but chunked"),
        (with_fields("Content-Length: 0, 0\r\n"), "ours refuses a list in Content-Length"),
        (answer("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "ours refuses 101"),
        (answer("HTTP/1.1 100 Continue\r\n\r\n".repeat(33) + "HTTP/1.1 204 No Content\r\n\r\n"), "ours takes 32 interim responses"),
        (answer("\r\n".repeat(33) + "HTTP/1.1 204 No Content\r\n\r\n"), "ours takes 32 empty lines"),
        (with_fields(&format!("{length}a: {}\r\n", "x".repeat(270_000))), "ours takes a head of 256 KiB"),
        (in_two, "ours refuses what can't become a head"),
        (answer(b"HTTP/1.1 200 f\xfcr uns\r\nContent-Length: 0\r\n\r\n"), "ours passes on a reason phrase"),
        (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: \xe9, close\r\n\r\n"), "ours reads a Connection field"),
        (chunked("00000000000000000\r\n"), "ours takes 16 digits"),
        (chunked(&format!("0;{}\r\n", &long[..5000])), "ours limits the extension of a chunk"),
        (chunked("0\r\na: b\n\nc: d\r\n"), "ours refuses a bare CR or LF in trailers"),
        (to(To::Unread, with_fields(length)), "ours takes the answer to a request that isn't read"),
        (with_fields(&(fields(100) + length)), "ours takes 256 fields"),
        (chunked(&format!("0\r\n{}", fields(101))), "ours takes 256 trailers"),
        (chunked(&(format!("1;{}\r\na\r\n", &long[..4000]).repeat(5) + "0\r\n")), "ours limits the extension of each chunk"),
        (chunked(&format!("0\r\na: {}\r\n", &long[..16 * 1024 - 7])), "ours takes trailers of 16 KiB"),
    ];
    for (case, name) in cases {
        let rule = compare(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            rule.is_some_and(|rule| rule.starts_with(name)),
            "{name}: {rule:?}"
        );
    }
}

#[test]
fn usual_responses_are_read_as_by_hyper_wherever_they_are_split() {
    for (response, reusable) in [
        (
            "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n03;x=y\r\nllo\r\n0\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: 1\r\nx: 2\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            true,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
    ] {
        for at in 0..=response.len() {
            let (first, rest) = response.split_at(at);
            let pieces = [first, rest].map(|piece| Bytes::copy_from_slice(piece.as_bytes()));
            let case = Case {
                pieces: pieces.to_vec(),
                ..answer("")
            };
            assert_eq!(compare(&case), Ok(None));
            let outcome = ours(&case);
            assert_eq!(
                (outcome.ending, outcome.reusable),
                (Ending::Clean, reusable),
                "{case:?}"
            );
        }
    }
}
