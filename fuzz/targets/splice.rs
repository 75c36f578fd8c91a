//! The JSON scan against serde_json: both take a body for JSON, and for an object, or neither does,
//! and exactly the values that serde_json finds at the top-level `model` keys are replaced, wherever
//! the body is cut.

#![no_main]

use std::{fmt, ops::Range};

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tower_openai_proxy::fuzzing;

const MODEL: &str = "x\"\\\u{7}é";

fuzz_target!(|body: &[u8]| {
    let expected = expected(body);
    let is_object = is_object(body);
    assert_eq!(fuzzing::splice(&[body], MODEL), expected);
    assert_eq!(fuzzing::is_object(&[body]), is_object);

    // Cut where its own bytes say, so that the seeds remain documents.
    let sum = body
        .iter()
        .fold(0, |sum: usize, &byte| sum * 31 % 65_521 + usize::from(byte));
    let (first, rest) = body.split_at(sum % (body.len() + 1));
    let (second, third) = rest.split_at(sum / 7 % (rest.len() + 1));
    assert_eq!(fuzzing::splice(&[first, second, third], MODEL), expected);

    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(fuzzing::splice(&bytes, MODEL), expected);
    assert_eq!(fuzzing::is_object(&bytes), is_object);
});

/// The members of an object in their order, their values as they are written.
struct Members<'a>(Vec<(Key, &'a RawValue)>);

/// A key as bytes: a `str` can't have unpaired surrogates.
struct Key(Vec<u8>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }
        }

        deserializer.deserialize_bytes(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// `None` for what isn't JSON.
fn is_object(body: &[u8]) -> Option<bool> {
    let document: &RawValue = serde_json::from_slice(body).ok()?;
    Some(document.get().starts_with('{'))
}

fn expected(body: &[u8]) -> Option<Vec<u8>> {
    // Keys that are read as bytes aren't validated.
    is_object(body).filter(|is_object| *is_object)?;
    let Members(members) = serde_json::from_slice(body).ok()?;
    let spans = members
        .iter()
        .filter(|(key, _)| key.0 == b"model")
        .map(|(_, value)| {
            let start = value.get().as_ptr() as usize - body.as_ptr() as usize;
            start..start + value.get().len()
        });
    let mut spans: Vec<Range<usize>> = spans.collect();
    let model = serde_json::to_string(MODEL).expect("text is JSON");
    let mut with = model.clone();
    if spans.is_empty() {
        let inside = body
            .iter()
            .position(|&byte| byte == b'{')
            .expect("it is an object")
            + 1;
        spans.push(inside..inside);
        let comma = if members.is_empty() { "" } else { "," };
        with = format!("\"model\":{model}{comma}");
    }

    let mut new = Vec::new();
    let mut at = 0;
    for span in spans {
        new.extend_from_slice(&body[at..span.start]);
        new.extend_from_slice(with.as_bytes());
        at = span.end;
    }
    new.extend_from_slice(&body[at..]);
    Some(new)
}
