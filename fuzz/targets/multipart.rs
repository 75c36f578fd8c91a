//! The multipart scanner against multer: what both take for a form has the same `model` parts, but
//! where multer doesn't decode a name, and the spans are the same wherever the form is cut.
//!
//! The first line of the input is the Content-Type, the rest the body.

#![no_main]

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use libfuzzer_sys::fuzz_target;
use tower_openai_proxy::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    let (content_type, body) = (&input[..end], &input[end + 1..]);
    let spans = fuzzing::multipart(content_type, &[body]);

    let sum = body
        .iter()
        .fold(0, |sum: usize, &byte| sum * 31 % 65_521 + usize::from(byte));
    let (first, rest) = body.split_at(sum % (body.len() + 1));
    let (second, third) = rest.split_at(sum / 7 % (rest.len() + 1));
    assert_eq!(
        fuzzing::multipart(content_type, &[first, second, third]),
        spans
    );
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(fuzzing::multipart(content_type, &bytes), spans);

    let Some(spans) = spans else { return };
    let mut end = 0;
    for span in &spans {
        assert!(end <= span.start && span.start <= span.end && span.end <= body.len());
        end = span.end;
    }
    let Some(parts) = multer(content_type, body) else {
        return;
    };
    let theirs = |part: &&Part| part.name.as_deref() == Some("model");
    let theirs: Vec<_> = parts
        .iter()
        .filter(theirs)
        .map(|part| &part.content[..])
        .collect();
    let ours: Vec<_> = spans.into_iter().map(|span| &body[span]).collect();
    if parts.iter().all(Part::has_plain_name) {
        assert_eq!(ours, theirs);
    } else {
        let mut ours = ours.into_iter();
        assert!(
            theirs
                .into_iter()
                .all(|theirs| ours.any(|ours| ours == theirs))
        );
    }
});

struct Part {
    name: Option<String>,
    content: Vec<u8>,
}

impl Part {
    /// Whether multer read the name as it was meant: it keeps escapes and a tab behind a token, and
    /// knows neither `NAME` nor `name*`.
    fn has_plain_name(&self) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| !name.contains(['\\', '\t']))
    }
}

/// The parts as multer reads them.
fn multer(content_type: &[u8], body: &[u8]) -> Option<Vec<Part>> {
    let boundary = multer::parse_boundary(std::str::from_utf8(content_type).ok()?).ok()?;
    let chunk = Ok::<_, Infallible>(body.to_vec());
    let mut form = multer::Multipart::new(tokio_stream::once(chunk), boundary);
    let read = pin!(async {
        let mut parts = Vec::new();
        while let Some(field) = form.next_field().await.ok()? {
            let name = field.name().map(str::to_owned);
            let content = field.bytes().await.ok()?.into();
            parts.push(Part { name, content });
        }
        Some(parts)
    });
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(parts) => parts,
        Poll::Pending => unreachable!("the whole body is there"),
    }
}
