//! The search for usage against serde_json: in a JSON document both find the same object, wherever
//! it is cut. Anything else must not panic.

#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use tower_openai_proxy::fuzzing;

/// Deeper ones are left out, by design.
const MAX_NESTING: u32 = 8;

fuzz_target!(|body: &[u8]| {
    let chunks: Vec<&[u8]> = body.chunks(1).collect();
    let sum = body
        .iter()
        .fold(0, |sum: usize, &byte| sum * 31 % 65_521 + usize::from(byte));
    let (first, rest) = body.split_at(sum % (body.len() + 1));
    for is_stream in [false, true] {
        fuzzing::usage(&chunks, is_stream);
    }
    // Keys that are written with escapes aren't found, by design.
    if body.windows(2).any(|pair| pair == b"\\u") {
        return;
    }
    let Ok(document) = serde_json::from_slice::<Node>(body) else {
        return;
    };
    if document.nesting() > MAX_NESTING {
        return;
    }
    let expected = document.last_usage();
    for chunks in [&[body][..], &[first, rest], &chunks] {
        let found = fuzzing::usage(chunks, false);
        let found = found.map(|usage| serde_json::from_slice::<Node>(&usage).expect("JSON"));
        assert_eq!(found.as_ref(), expected);
    }
});

/// A document with its members in their order, duplicate ones included.
#[derive(Debug, PartialEq)]
enum Node {
    Members(Vec<(String, Node)>),
    Items(Vec<Node>),
    Count(u64),
    Number(f64),
    Other,
}

impl Node {
    /// The last usage object, by the order of their ends.
    fn last_usage(&self) -> Option<&Self> {
        match self {
            Self::Members(members) => members.iter().rev().find_map(|(key, value)| {
                if key == "usage" && value.is_usage() {
                    return Some(value);
                }
                value.last_usage()
            }),
            Self::Items(items) => items.iter().rev().find_map(Self::last_usage),
            _ => None,
        }
    }

    fn is_usage(&self) -> bool {
        let Self::Members(members) = self else {
            return false;
        };
        members.iter().any(|(key, value)| match key.as_str() {
            "prompt_tokens" | "completion_tokens" | "total_tokens" | "input_tokens"
            | "output_tokens" => matches!(value, Self::Count(count) if *count <= i64::MAX as u64),
            "seconds" => {
                matches!(value, Self::Count(_))
                    || matches!(value, Self::Number(number) if number.is_sign_positive())
            }
            _ => false,
        })
    }

    /// How many objects under `usage` are within each other.
    fn nesting(&self) -> u32 {
        match self {
            Self::Members(members) => {
                let nestings = members.iter().map(|(key, value)| {
                    let is_usage = key == "usage" && matches!(value, Self::Members(_));
                    value.nesting() + u32::from(is_usage)
                });
                // Those beside each other count as well.
                nestings.sum()
            }
            Self::Items(items) => items.iter().map(Self::nesting).sum(),
            _ => 0,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
                Ok(Node::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Count(number))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
                Ok(Node::Number(number))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Items(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Node::Members(members))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}
