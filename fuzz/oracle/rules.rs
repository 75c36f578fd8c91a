//! Why ours may differ from hyper's client. Ours is the stricter one but for the limits at the end.

use http::{HeaderValue, Version, header};

use super::{
    outcome::{Ending, Outcome},
    wire::{Case, To},
};

/// What must be so, as hyper's shows it.
type Condition = fn(&Outcome) -> bool;

/// What ours says against a response, what must be so for that to be right, and the rule.
const REFUSED: &[(&str, Condition, &str)] = &[
    (
        "both Content-Length and Transfer-Encoding",
        |hypers| count(hypers, header::CONTENT_LENGTH) > 0 && has_coding(hypers),
        "ours refuses Content-Length with Transfer-Encoding, which ought to be handled as an error \
         (RFC 9112, section 6.3, item 3); hyper goes by Transfer-Encoding",
    ),
    (
        "two lengths",
        |hypers| count(hypers, header::CONTENT_LENGTH) > 1,
        "ours refuses Content-Length told twice, equal or not (RFC 9112, section 6.3, item 5); \
         hyper takes equal ones",
    ),
    (
        "two transfer codings",
        |hypers| count(hypers, header::TRANSFER_ENCODING) > 1,
        "ours refuses Transfer-Encoding told twice: chunked must not be applied more than once \
         (RFC 9112, section 6.1), and nobody has asked for another coding (RFC 9110, section 10.1.4)",
    ),
    (
        "unknown transfer coding",
        |hypers| hypers.version == Version::HTTP_10 && has_coding(hypers),
        "ours refuses Transfer-Encoding in HTTP/1.0 in answers without a body, too: the framing is \
         faulty (RFC 9112, section 6.1)",
    ),
    (
        "unknown transfer coding",
        |hypers| {
            let coding = hypers.fields.get(header::TRANSFER_ENCODING);
            coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        },
        "ours refuses any coding but chunked, as it wouldn't undo it and no TE has asked for it \
         (RFC 9112, section 6.1; RFC 9110, section 10.1.4)",
    ),
    (
        "invalid Content-Length",
        |hypers| {
            let lengths = hypers.fields.get_all(header::CONTENT_LENGTH);
            lengths.iter().any(|length| !is_number(length))
        },
        "ours refuses a list in Content-Length, and an invalid one in answers without a body, too \
         (RFC 9112, section 6.3, item 5)",
    ),
    (
        "Switched",
        |hypers| hypers.head.as_ref().is_some_and(|head| head.status == 101),
        "ours refuses 101, as no Upgrade was sent (RFC 9110, section 15.2.2)",
    ),
    (
        "too many interim responses",
        |_| true,
        "ours takes 32 interim responses at most, hyper any number (no limit in RFC 9110, section 15.2)",
    ),
    (
        "too many empty lines",
        |_| true,
        "ours takes 32 empty lines before heads at most, hyper any number (RFC 9112, section 2.2 \
         allows for them before requests only)",
    ),
    (
        "head too large",
        |hypers| {
            let fields = hypers.fields.iter();
            let sizes = fields.map(|(name, value)| name.as_str().len() + value.len());
            sizes.sum::<usize>() > 250_000
        },
        "ours takes a head of 256 KiB at most, hyper one of 400 KiB (RFC 9112, section 5.4 leaves \
         it to the recipient)",
    ),
];

/// The same for a body.
const BROKEN: &[(&str, &str)] = &[
    (
        "chunk size too large",
        "ours takes 16 digits of a chunk's size at most, leading zeros among them (RFC 9112, \
         section 7.1: overflow must be prevented); hyper any number of zeros",
    ),
    (
        "chunk extension too long",
        "ours limits the extension of a chunk to 4 KiB (RFC 9112, section 7.1.1 asks for a limit)",
    ),
    (
        "bare CR or LF in the trailers",
        "ours refuses a bare CR or LF in trailers, as the section ends with CRLF only (RFC 9112, sections \
         2.2 and 7.1.2); hyper drops what follows an empty line that a bare LF ends",
    ),
    (
        "trailers too long",
        "ours limits trailers to 16 KiB, hyper all but the last line (RFC 9112, section 5.4)",
    ),
];

/// What hyper says against a response that ours takes: limits, which the RFC leaves to the recipient
/// (RFC 9112, section 5.4).
const LIMITS: &[(&str, &str)] = &[
    (
        "message head is too large",
        "ours takes 256 fields and any length that 64 bits hold, hyper 100 and two less",
    ),
    (
        "chunk trailers count overflow",
        "ours takes 256 trailers, hyper 100",
    ),
    (
        "chunk extensions over limit",
        "ours limits the extension of each chunk, hyper that of all (RFC 9112, section 7.1.1)",
    ),
    (
        "chunk trailers bytes over limit",
        "ours takes trailers of 16 KiB, hyper of a byte less",
    ),
];

/// The name of the rule by which the two differ.
pub(super) fn explain(case: &Case, ours: &Outcome, hypers: &Outcome) -> Option<&'static str> {
    let says = |reason: &str| ours.why.contains(reason);
    if case.to == To::Unread && hypers.why.contains("broken pipe") {
        let to = To::Unfinished;
        let read = super::ours(&Case { to, ..case.clone() });
        return (*ours == read).then_some(
            "ours takes the answer to a request that isn't read (RFC 9112, section 9.5), hyper fails",
        );
    }
    let (our_head, head) = match (&ours.head, &hypers.head) {
        (Some(our_head), Some(head)) => (our_head, head),
        (None, Some(_)) => {
            let mut rules = REFUSED.iter();
            let rule = rules.find(|(reason, holds, _)| says(reason) && holds(hypers));
            return rule.map(|(_, _, rule)| *rule);
        }
        (None, None) if ours.ending == Ending::Failed && hypers.ending == Ending::None => {
            return Some(
                "ours refuses what can't become a head at once, hyper when the head is whole",
            );
        }
        (_, None) => return limit(hypers),
    };
    let is_obs_text =
        our_head.reason != head.reason && head.reason.is_empty() && !our_head.reason.is_ascii();
    if (our_head.status, &our_head.fields) != (head.status, &head.fields)
        || our_head.reason != head.reason && !is_obs_text
    {
        return None;
    }
    if stops_before(ours, hypers) {
        let rule = BROKEN.iter().find(|(reason, _)| says(reason));
        return rule.map(|(_, rule)| *rule);
    }
    if stops_before(hypers, ours) {
        return limit(hypers);
    }
    if (ours.ending, &ours.body, &ours.trailers) != (hypers.ending, &hypers.body, &hypers.trailers)
    {
        return None;
    }
    let mut connection = hypers.fields.get_all(header::CONNECTION).iter();
    if ours.reusable != hypers.reusable {
        return connection
            .any(|value| !value.as_bytes().is_ascii())
            .then_some("ours reads a Connection field that isn't ASCII (obs-text), hyper doesn't");
    }
    is_obs_text.then_some(
        "ours passes on a reason phrase that isn't ASCII (obs-text, RFC 9112, section 4), hyper \
         drops it",
    )
}

/// Whether one fails where the other reads on.
fn stops_before(one: &Outcome, other: &Outcome) -> bool {
    one.ending == Ending::Failed
        && other.body.starts_with(&one.body)
        && (other.ending != Ending::Failed || other.body.len() > one.body.len())
}

fn limit(hypers: &Outcome) -> Option<&'static str> {
    let mut limits = LIMITS.iter();
    let limit = limits.find(|(reason, _)| hypers.why.contains(reason));
    limit.map(|(_, rule)| *rule)
}

fn count(outcome: &Outcome, name: header::HeaderName) -> usize {
    outcome.fields.get_all(name).iter().count()
}

fn has_coding(outcome: &Outcome) -> bool {
    count(outcome, header::TRANSFER_ENCODING) > 0
}

fn is_number(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let digits = value.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok())
}
