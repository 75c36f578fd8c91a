//! Every rule by example first; then documents made at random, with `serde_json` as the judge.

use std::fmt;

use bytes::{Buf, Bytes};
use proptest::{collection::vec, prelude::*, sample::Index, string::string_regex};
use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{Found, Invalid, Scanner, decode_string, string};
use crate::rope::{Replaced, RopeBuilder};

/// Scans the chunks of an object and replaces its model by `x`.
fn feed(chunks: impl IntoIterator<Item = Bytes>) -> Result<Replaced, Invalid> {
    let (mut scanner, mut rope) = (Scanner::for_object(), RopeBuilder::default());
    for chunk in chunks {
        scanner.feed(&chunk)?;
        rope.push(chunk);
    }
    let found = scanner.finish()?;
    let (spans, with) = found.with_model(string("x"));
    Ok(Replaced::new(rope.finish(), spans, with))
}

/// The document of which these are the chunks, with its model replaced by `x`.
fn splice_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Result<Vec<u8>, Invalid> {
    let mut chunks = feed(chunks)?;
    let mut remaining = chunks.remaining();
    let mut new = Vec::new();
    while let Some(chunk) = chunks.next() {
        assert!(!chunk.is_empty(), "an empty chunk");
        remaining -= chunk.len() as u64;
        assert_eq!(chunks.remaining(), remaining);
        new.extend_from_slice(&chunk);
    }
    assert_eq!(remaining, 0);
    Ok(new)
}

/// `body` with its model replaced by `x`.
fn splice(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    splice_chunks([Bytes::copy_from_slice(body)])
}

/// The same. Checks that it comes out so wherever the body is cut in two, and cut into bytes.
fn splice_cut(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let whole = splice(body);
    let body = Bytes::copy_from_slice(body);
    let text = body.escape_ascii();
    let found = scan_cut(&body).map(|found| found.require_object().is_ok());
    assert_eq!(found == Ok(true), whole.is_ok(), "{text} of any kind");
    for at in 0..=body.len() {
        let cut = splice_chunks([body.slice(..at), body.slice(at..)]);
        assert_eq!(cut, whole, "{text} cut at {at}");
    }
    let bytes = (0..body.len()).map(|at| body.slice(at..=at));
    assert_eq!(splice_chunks(bytes), whole, "{text} cut into bytes");
    whole
}

/// What is found in a document of any kind.
fn scan(document: &[u8]) -> Result<Found, Invalid> {
    let mut scanner = Scanner::default();
    scanner.feed(document)?;
    scanner.finish()
}

/// The same. Checks that it is found wherever the document is cut in two.
fn scan_cut(document: &[u8]) -> Result<Found, Invalid> {
    let whole = scan(document);
    for at in 0..=document.len() {
        let (first, second) = document.split_at(at);
        let mut scanner = Scanner::default();
        let fed = scanner.feed(first).and_then(|()| scanner.feed(second));
        let cut = fed.and_then(|()| scanner.finish());
        assert_eq!(cut, whole, "{} cut at {at}", document.escape_ascii());
    }
    whole
}

/// The members of a JSON object in their order, as `serde_json` reads them.
struct Members<V>(Vec<(Key, V)>);

/// A key as bytes: a `str` can't have unpaired surrogates.
#[derive(Clone, Debug, PartialEq)]
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

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<V>(Vec<(Key, V)>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for MembersVisitor<V> {
            type Value = Members<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
                while let Some(member) = map.next_entry()? {
                    self.0.push(member);
                }
                Ok(Members(self.0))
            }
        }

        deserializer.deserialize_map(MembersVisitor(Vec::new()))
    }
}

/// Whether `serde_json` takes `body` for an object. `IgnoredAny` lets invalid UTF-8 pass; there is
/// no place for it in JSON, so that can be told beforehand.
fn serde_accepts(body: &[u8]) -> bool {
    let is_json =
        std::str::from_utf8(body).is_ok() && serde_json::from_slice::<IgnoredAny>(body).is_ok();
    is_json && body.trim_ascii_start().starts_with(b"{")
}

#[test]
fn replaces_the_model() {
    #[rustfmt::skip]
    let cases = [
        ("a plain request", r#"{"model":"gpt-4o","messages":[]}"#, r#"{"model":"x","messages":[]}"#),
        ("the last member", r#"{"messages":[],"model":"gpt-4o"}"#, r#"{"messages":[],"model":"x"}"#),
        ("the only member", r#"{"model":"a"}"#, r#"{"model":"x"}"#),
        ("an empty one", r#"{"model":""}"#, r#"{"model":"x"}"#),
        ("one that is the same", r#"{"model":"x"}"#, r#"{"model":"x"}"#),
        ("white space around it stays", "{ \"model\" :\t\"a\"\r\n, \"n\" : 1 }", "{ \"model\" :\t\"x\"\r\n, \"n\" : 1 }"),
        ("white space around the object stays", " \r\n\t{\"model\":\"a\"}\n ", " \r\n\t{\"model\":\"x\"}\n "),
        ("a value with escapes and a quote in it", r#"{"model":"\"a\\","n":1}"#, r#"{"model":"x","n":1}"#),
        ("a value with text that isn't ASCII", r#"{"model":"модель 模型 😀"}"#, r#"{"model":"x"}"#),
        ("null", r#"{"model":null}"#, r#"{"model":"x"}"#),
        ("true", r#"{"model": true }"#, r#"{"model": "x" }"#),
        ("false", r#"{"model":false,"n":1}"#, r#"{"model":"x","n":1}"#),
        ("a number", r#"{"model":-1.50e+3}"#, r#"{"model":"x"}"#),
        ("an object, with a `model` of its own", r#"{"model":{"model":"a"},"n":1}"#, r#"{"model":"x","n":1}"#),
        ("an array", r#"{"model": ["a", {"b": []}] ,"n":1}"#, r#"{"model": "x" ,"n":1}"#),
        ("every one, where the key stands twice", r#"{"model":"a","n":1,"model":2}"#, r#"{"model":"x","n":1,"model":"x"}"#),
        ("three in a row", r#"{"model":1,"model":[],"model":{}}"#, r#"{"model":"x","model":"x","model":"x"}"#),
        ("an escaped key", r#"{"mod\u0065l":"a"}"#, r#"{"mod\u0065l":"x"}"#),
        ("a key of nothing but escapes, both cases of hex", r#"{"\u006D\u006f\u0064\u0065\u006C":"a"}"#, r#"{"\u006D\u006f\u0064\u0065\u006C":"x"}"#),
        ("an escaped and a plain key", r#"{"model":1,"m\u006fdel":2}"#, r#"{"model":"x","m\u006fdel":"x"}"#),
        ("beside one in a message", r#"{"messages":[{"model":"a"}],"model":"b"}"#, r#"{"messages":[{"model":"a"}],"model":"x"}"#),
        ("beside one in an object behind it", r#"{"model":"b","metadata":{"model":"a"}}"#, r#"{"model":"x","metadata":{"model":"a"}}"#),
        ("beside a value that reads `model`", r#"{"user":"model","model":"a"}"#, r#"{"user":"model","model":"x"}"#),
        ("beside text that looks like a member", r#"{"user":"\"model\":\"b\"","model":"a"}"#, r#"{"user":"\"model\":\"b\"","model":"x"}"#),
        ("beside odd numbers, which stay as they are", r#"{"n":[1.0,1e5,-0,0.10],"model":"a"}"#, r#"{"n":[1.0,1e5,-0,0.10],"model":"x"}"#),
        ("beside other keys that stand twice", r#"{"n":1,"n":2,"model":"a"}"#, r#"{"n":1,"n":2,"model":"x"}"#),
    ];
    for (case, old, new) in cases {
        assert_eq!(splice_cut(old.as_bytes()), Ok(new.into()), "{case}: {old}");
        assert!(serde_accepts(old.as_bytes()), "{case}: {old}");
    }
}

#[test]
fn inserts_a_model_where_there_is_none() {
    #[rustfmt::skip]
    let cases = [
        ("an empty object", r#"{}"#, r#"{"model":"x"}"#),
        ("white space inside", r#"{ }"#, r#"{"model":"x" }"#),
        ("white space around", "\n{\n}\n", "\n{\"model\":\"x\"\n}\n"),
        ("another member", r#"{"n":1}"#, r#"{"model":"x","n":1}"#),
        ("white space before another member", r#"{ "n":1}"#, r#"{"model":"x", "n":1}"#),
        ("`model` is nested only", r#"{"a":{"model":"b"}}"#, r#"{"model":"x","a":{"model":"b"}}"#),
        ("`model` is nested in arrays only", r#"{"a":[[{"model":"b"}]]}"#, r#"{"model":"x","a":[[{"model":"b"}]]}"#),
        ("`model` is a value only", r#"{"a":"model"}"#, r#"{"model":"x","a":"model"}"#),
        ("keys have case", r#"{"Model":"a"}"#, r#"{"model":"x","Model":"a"}"#),
        ("a longer key", r#"{"models":"a"}"#, r#"{"model":"x","models":"a"}"#),
        ("a shorter key", r#"{"mode":"a"}"#, r#"{"model":"x","mode":"a"}"#),
        ("a key with a space", r#"{"model ":"a"}"#, r#"{"model":"x","model ":"a"}"#),
        ("an escaped key of the same length", r#"{"mod\u0066l":"a"}"#, r#"{"model":"x","mod\u0066l":"a"}"#),
        ("a key that only looks alike", r#"{"mоdel":"cyrillic o"}"#, r#"{"model":"x","mоdel":"cyrillic o"}"#),
        ("a key that is longer after a NUL", r#"{"model\u0000":"a"}"#, r#"{"model":"x","model\u0000":"a"}"#),
        ("a backslash in the key, not an escape", r#"{"mod\\u0065l":"a"}"#, r#"{"model":"x","mod\\u0065l":"a"}"#),
        ("the empty key", r#"{"":"a"}"#, r#"{"model":"x","":"a"}"#),
    ];
    for (case, old, new) in cases {
        assert_eq!(splice_cut(old.as_bytes()), Ok(new.into()), "{case}: {old}");
        assert!(serde_accepts(old.as_bytes()), "{case}: {old}");
    }
}

#[test]
fn leaves_to_the_backend_where_readers_differ() {
    #[rustfmt::skip]
    let cases = [
        ("a number beyond any float", r#"{"model":1,"n":1e999}"#),
        ("more digits than a float has", r#"{"model":1,"n":123456789012345678901234567890.5}"#),
        ("the first half of a surrogate pair", r#"{"model":1,"a":"\ud83d"}"#),
        ("the second half", r#"{"model":1,"a":"\ude00 b"}"#),
        ("the first half twice", r#"{"model":1,"a":"\ud83d\ud83d"}"#),
        ("the halves in the wrong order", r#"{"model":1,"a":"\ude00\ud83d"}"#),
        ("the first half before another escape", r#"{"model":1,"a":"\ud83d\n"}"#),
        ("one half in a nested key", r#"{"model":1,"a":{"\ud83d":1}}"#),
        ("one half in a top-level key", r#"{"model\ud800":1}"#),
        ("the second half in one", r#"{"a":1,"mod\udc00el":1}"#),
        ("the halves in the wrong order in one", r#"{"\udc00\ud800":1}"#),
        ("one half in the model itself", r#"{"model":"\ud83d"}"#),
        ("an escaped NUL", r#"{"model":1,"a":"\u0000"}"#),
        ("DEL and a noncharacter", "{\"model\":1,\"a\":\"\x7f\u{ffff}\"}"),
    ];
    for (case, body) in cases {
        assert!(splice_cut(body.as_bytes()).is_ok(), "{case}: {body}");
        assert!(serde_accepts(body.as_bytes()), "{case}: {body}");
    }
}

#[test]
fn refuses_what_is_not_one_object() {
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &str)] = &[
        ("nothing", b"", "expected `{` at byte 0"),
        ("white space", b" \n", "expected `{` at byte 2"),
        ("an array", br#"["model"]"#, "expected `{` at byte 0"),
        ("a string", br#""model""#, "expected `{` at byte 0"),
        ("a number", b"1", "expected `{` at byte 0"),
        ("null", b"null", "expected `{` at byte 0"),
        ("a byte order mark", b"\xef\xbb\xbf{}", "a byte order mark at byte 0"),
        ("half a byte order mark", b"\xef\xbb{}", "expected a value at byte 0"),
        ("UTF-16", b"{\0}\0", "expected a key at byte 1"),
        ("two objects", b"{}{}", "expected the end at byte 2"),
        ("two objects on two lines", b"{}\n{}", "expected the end at byte 3"),
        ("trailing garbage", br#"{"model":"a"} x"#, "expected the end at byte 14"),
        ("a trailing NUL", b"{}\0", "expected the end at byte 2"),
        ("a brace too many", b"{}}", "expected the end at byte 2"),
        ("a form", b"model=a", "expected `{` at byte 0"),

        ("cut off: no brace", br#"{"model":"a""#, "expected `,` or `}` at byte 12"),
        ("cut off: in a value", br#"{"model":"a"#, "string without an end at byte 11"),
        ("cut off: before a value", br#"{"model":"#, "expected a value at byte 9"),
        ("cut off: in a key", br#"{"mod"#, "string without an end at byte 5"),
        ("cut off: behind a key", br#"{"model""#, "expected `:` at byte 8"),
        ("cut off: after a comma", br#"{"model":"a","#, "expected a key at byte 13"),
        ("cut off: just begun", b"{", "expected a key at byte 1"),
        ("cut off: in an escape", br#"{"a":"\"#, "invalid escape at byte 6"),
        ("cut off: in a long escape", br#"{"a":"\u00"#, "invalid escape at byte 6"),
        ("cut off: in an array", br#"{"a":[1"#, "expected `,` or `]` at byte 7"),
        ("cut off: in a nested object", br#"{"a":{"b":1"#, "expected `,` or `}` at byte 11"),

        ("no colon", br#"{"model" "a"}"#, "expected `:` at byte 9"),
        ("no value", br#"{"model":}"#, "expected a value at byte 9"),
        ("no comma", br#"{"model":"a" "n":1}"#, "expected `,` or `}` at byte 13"),
        ("no key", br#"{:1}"#, "expected a key at byte 1"),
        ("a comma at the end", br#"{"model":"a",}"#, "expected a key at byte 13"),
        ("a comma at the start", br#"{,"model":"a"}"#, "expected a key at byte 1"),
        ("two commas", br#"{"a":1,,"b":2}"#, "expected a key at byte 7"),
        ("a comma at the end of an array", br#"{"a":[1,]}"#, "expected a value at byte 8"),
        ("a comma at the end of a nested object", br#"{"a":{"b":1,}}"#, "expected a key at byte 12"),
        ("an array closed by a brace", br#"{"a":[1}}"#, "expected `,` or `]` at byte 7"),
        ("an object closed by a bracket", br#"{"a":{"b":1]}"#, "expected `,` or `}` at byte 11"),
        ("the whole closed by a bracket", br#"{"a":1]"#, "expected `,` or `}` at byte 6"),
        ("a member in an array", br#"{"a":["b":1]}"#, "expected `,` or `]` at byte 9"),
        ("a key that is no string", br#"{model:"a"}"#, "expected a key at byte 1"),
        ("a number for a key", br#"{1:"a"}"#, "expected a key at byte 1"),
        ("single quotes", br#"{'model':'a'}"#, "expected a key at byte 1"),
        ("a comment", br#"{/**/"model":"a"}"#, "expected a key at byte 1"),
        ("white space that isn't JSON's", b"{\x0c}", "expected a key at byte 1"),
        ("a no-break space", "{\u{a0}}".as_bytes(), "expected a key at byte 1"),

        ("a leading zero", br#"{"n":01}"#, "expected `,` or `}` at byte 6"),
        ("a leading zero behind a minus", br#"{"n":-01}"#, "expected `,` or `}` at byte 7"),
        ("a plus", br#"{"n":+1}"#, "expected a value at byte 5"),
        ("two minuses", br#"{"n":--1}"#, "expected a digit at byte 6"),
        ("a minus alone", br#"{"n":-}"#, "expected a digit at byte 6"),
        ("no digit before the point", br#"{"n":.5}"#, "expected a value at byte 5"),
        ("no digit behind the point", br#"{"n":1.}"#, "expected a digit at byte 7"),
        ("no digit before the exponent", br#"{"n":1.e5}"#, "expected a digit at byte 7"),
        ("no digit in the exponent", br#"{"n":1e}"#, "expected a digit at byte 7"),
        ("no digit in the signed exponent", br#"{"n":1e+}"#, "expected a digit at byte 8"),
        ("two points", br#"{"n":1.2.3}"#, "expected `,` or `}` at byte 8"),
        ("hexadecimal", br#"{"n":0x10}"#, "expected `,` or `}` at byte 6"),
        ("not a number", br#"{"n":NaN}"#, "`NaN` is not JSON at byte 5"),
        ("not quite not a number", br#"{"n":Nan}"#, "expected a value at byte 5"),
        ("infinity", br#"{"n":-Infinity}"#, "expected a digit at byte 6"),

        ("half a literal", br#"{"a":tru}"#, "expected a value at byte 5"),
        ("more than a literal", br#"{"a":nulls}"#, "expected `,` or `}` at byte 9"),
        ("a literal in capitals", br#"{"a":True}"#, "expected a value at byte 5"),
        ("undefined", br#"{"a":undefined}"#, "expected a value at byte 5"),

        ("an unknown escape", br#"{"a":"\x41"}"#, "invalid escape at byte 6"),
        ("an escape in capitals", br#"{"a":"\N"}"#, "invalid escape at byte 6"),
        ("a long escape that is short", br#"{"a":"\u041"}"#, "invalid escape at byte 6"),
        ("a long escape without hex", br#"{"a":"\u00g0"}"#, "invalid escape at byte 6"),
        ("a long escape with a sign", br#"{"a":"\u+041"}"#, "invalid escape at byte 6"),
        ("an invalid escape behind a valid one", br#"{"a":"\n\q"}"#, "invalid escape at byte 8"),
        ("an invalid escape in a key", br#"{"mod\el":1}"#, "invalid escape at byte 5"),
        ("a line break in a string", b"{\"a\":\"b\nc\"}", "control character in a string at byte 7"),
        ("a tab in a string", b"{\"a\":\"b\tc\"}", "control character in a string at byte 7"),
        ("a NUL in a string", b"{\"a\":\"b\0c\"}", "control character in a string at byte 7"),
        ("a control character in a key", b"{\"mod\x1fel\":1}", "control character in a string at byte 5"),

        ("Latin-1", b"{\"a\":\"caf\xe9\"}", "invalid UTF-8 at byte 9"),
        ("a character cut off", b"{\"a\":\"\xe6\xa8\"}", "invalid UTF-8 at byte 6"),
        ("a spelling too long", b"{\"a\":\"b\xc0\xaf\"}", "invalid UTF-8 at byte 7"),
        ("a surrogate", b"{\"a\":\"\xed\xa0\xbd\"}", "invalid UTF-8 at byte 6"),
        ("beyond Unicode", b"{\"a\":\"\xf4\x90\x80\x80\"}", "invalid UTF-8 at byte 6"),
        ("invalid UTF-8 in a key", b"{\"model\xff\":1}", "invalid UTF-8 at byte 7"),
        ("invalid UTF-8 behind escapes", b"{\"a\":\"\\n\\u0041\xff\"}", "invalid UTF-8 at byte 14"),
        ("invalid UTF-8 outside of strings", b"{\xff}", "expected a key at byte 1"),
    ];
    for &(case, body, message) in cases {
        let text = body.escape_ascii();
        let error = splice_cut(body).expect_err(case);
        assert_eq!(error.to_string(), message, "{case}: {text}");
        assert!(!serde_accepts(body), "{case}: {text}");
    }
}

/// The text of values, and whether they are strings.
type Values<'a> = &'a [(&'a str, bool)];

fn values<'a>(document: &'a str, values: &[super::scanner::Value]) -> Vec<(&'a str, bool)> {
    let values = values.iter();
    values
        .map(|value| (&document[value.span.clone()], value.is_string))
        .collect()
}

#[test]
fn finds_models_and_keys_that_look_alike() {
    #[rustfmt::skip]
    let cases: &[(&str, Values<'_>, Values<'_>)] = &[
        (r#"{}"#, &[], &[]),
        (r#" { "model" : "a" , "n":1}"#, &[(r#""a""#, true)], &[]),
        (r#"{"model":1,"m\u006fdel":"b","model":["c"]}"#, &[("1", false), (r#""b""#, true), (r#"["c"]"#, false)], &[]),
        (r#"{"Model":"a","model":"b","MODEL":{}}"#, &[(r#""b""#, true)], &[(r#""a""#, true), ("{}", false)]),
        (r#"{"\u004dodel":null,"mode\u004C":"\""}"#, &[], &[("null", false), (r#""\"""#, true)]),
        (r#"{"models":1,"Mode":2,"model\ud800":3,"mOdel\n":4,"ⓜodel":5,"\u014d":6}"#, &[], &[]),
        (r#"{"a":{"model":"b","Model":"c"},"d":[{"model":"e"}]}"#, &[], &[]),
        (r#"[{"model":"a"},"model","b"]"#, &[], &[]),
        (r#"["Model",1]"#, &[], &[]),
    ];
    for &(document, models, look_alikes) in cases {
        let found = scan_cut(document.as_bytes()).expect(document);
        assert_eq!(values(document, &found.models), models, "{document}");
        assert_eq!(
            values(document, &found.look_alikes),
            look_alikes,
            "{document}"
        );
        assert_eq!(
            found.is_object,
            document.contains('{') && !document.starts_with('[')
        );
    }
}

#[test]
fn json_that_is_no_object_is_told_from_what_is_no_json() {
    #[rustfmt::skip]
    let cases = [
        ("[]", 0), ("\n[1, {}]", 1), (r#""text""#, 0), ("  12", 2), ("0", 0), ("-1.5e3 ", 0), ("null", 0), ("true\n", 0),
        ("\t\"\"", 1),
    ];
    for (document, start) in cases {
        let found = scan_cut(document.as_bytes()).expect(document);
        assert!(!found.is_object, "{document}");
        let error = found.require_object().expect_err(document);
        assert_eq!(error.to_string(), format!("expected `{{` at byte {start}"));
        assert!(serde_json::from_str::<IgnoredAny>(document).is_ok());
    }
    for (document, message) in [
        ("", "expected a value at byte 0"),
        ("  ", "expected a value at byte 2"),
        ("model=a", "expected a value at byte 0"),
        ("nul", "expected a value at byte 0"),
        ("-", "expected a digit at byte 1"),
        ("1.", "expected a digit at byte 2"),
        ("01", "expected the end at byte 1"),
        ("1 2", "expected the end at byte 2"),
        ("[1", "expected `,` or `]` at byte 2"),
        ("[]]", "expected the end at byte 2"),
        ("\"a", "string without an end at byte 2"),
        ("NaN", "`NaN` is not JSON at byte 0"),
        (" \u{feff}[]", "a byte order mark at byte 1"),
    ] {
        let error = scan_cut(document.as_bytes()).expect_err(document);
        assert_eq!(error.to_string(), message, "{document}");
        assert!(serde_json::from_str::<IgnoredAny>(document).is_err());
    }
}

/// It needn't read what follows, which may be large.
#[test]
fn what_is_no_object_fails_at_its_first_byte() {
    for document in ["[", "\"a", "1", "t", "x"] {
        let error = Scanner::for_object().feed(document.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "expected `{` at byte 0", "{document}");
    }
}

#[test]
fn strings_are_decoded() {
    for (json, text) in [
        (r#""""#, Some("")),
        (r#""a\"\\\u006f模\ud83d\ude00""#, Some("a\"\\o模😀")),
        (r#""a\ud83d""#, Some("a\u{fffd}\u{fffd}\u{fffd}")),
        ("1", None),
        ("null", None),
        (r#"["a"]"#, None),
    ] {
        assert_eq!(decode_string(json.as_bytes()).as_deref(), text, "{json}");
    }
}

#[test]
fn chunks_are_read_up_to_the_first_error() {
    let mut scanner = Scanner::default();
    scanner.feed(br#"{"model":"a","#).unwrap();
    let error = scanner.feed(b"}, and more").unwrap_err();
    assert_eq!(error.to_string(), "expected a key at byte 13");
}

#[test]
fn nothing_is_copied() {
    let body = Bytes::from_static(br#"{"n":1,"model":"gpt-4o","messages":[]}"#);
    let chunks: Vec<Bytes> = feed([body.clone()]).unwrap().collect();

    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[0].as_ptr(), body.as_ptr());
    assert_eq!(chunks[2].as_ptr_range().end, body.as_ptr_range().end);
}

#[test]
fn nothing_of_large_chunks_is_copied() {
    let text = "-".repeat(100_000);
    let body = Bytes::from(format!(r#"{{"a":"{text}","model":"{text}","b":"{text}"}}"#));
    let middle = body.len() / 2;
    let chunks: Vec<Bytes> = feed([body.slice(..middle), body.slice(middle..)])
        .unwrap()
        .collect();

    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[0].as_ptr(), body.as_ptr());
    assert_eq!(chunks[1], r#""x""#);
    assert_eq!(chunks[2].as_ptr_range().end, body.as_ptr_range().end);
}

#[test]
fn a_key_may_be_of_any_length() {
    let long = "model".repeat(20_000);
    let escaped = r"\u006dodel".repeat(20_000);
    for key in [&long, &escaped] {
        let body = format!(r#"{{"{key}":1,"model":2}}"#);
        let mut rest = Bytes::from(body);
        let new = format!(r#"{{"{key}":1,"model":"x"}}"#);
        let chunks = std::iter::from_fn(|| {
            let length = rest.len().min(1000);
            rest.has_remaining().then(|| rest.split_to(length))
        });
        assert_eq!(splice_chunks(chunks), Ok(new.into()));
    }
}

#[test]
fn the_name_is_escaped() {
    assert_eq!(string("gpt-4o"), r#""gpt-4o""#);
    assert_eq!(string("a\"b\\c\n模"), r#""a\"b\\c\n模""#);
}

#[test]
fn depth_costs_no_stack() {
    let deep = 1_000_000;
    for (open, close) in [("[", "]"), (r#"{"model":"#, "}")] {
        let unclosed = format!(r#"{{"model":1,"a":{}"#, open.repeat(deep));
        assert!(splice(unclosed.as_bytes()).is_err());

        let rest = format!(r#","a":{}0{}}}"#, open.repeat(deep), close.repeat(deep));
        let new = splice(format!(r#"{{"model":1{rest}"#).as_bytes()).unwrap();
        assert!(new == format!(r#"{{"model":"x"{rest}"#).as_bytes());
    }
}

/// Strings are read by blocks, words and bytes: what ends a stretch must be seen at each place.
#[test]
fn every_byte_is_seen_at_every_place_of_a_string() {
    for before in 0..=80 {
        for byte in 0..=u8::MAX {
            for after in [0, 90] {
                let mut body = br#"{"a":""#.to_vec();
                body.resize(body.len() + before, b'-');
                body.push(byte);
                body.resize(body.len() + after, b'-');
                body.extend_from_slice(br#""}"#);

                let is_plain = byte.is_ascii() && byte >= b' ' && byte != b'"' && byte != b'\\';
                assert_eq!(splice(&body).is_ok(), is_plain, "{byte} behind {before}");
            }
        }
    }
}

#[test]
fn text_of_any_length_is_accepted() {
    for length in 0..=200 {
        for last in ["", "é", r"\n", r"\\", r#"\""#, "模", "😀"] {
            let text = format!("{}{last}", "-".repeat(length));
            let body = format!(r#"{{"{text}":"{text}","model":"{text}"}}"#);
            let new = format!(r#"{{"{text}":"{text}","model":"x"}}"#);
            assert_eq!(splice(body.as_bytes()), Ok(new.into()), "{body}");
        }
    }
}

/// A document made at random, and what is to become of it.
#[derive(Clone, Debug)]
struct Document {
    old: String,
    new: String,
}

/// Text and a JSON string for it, each character as it is or escaped in one of the ways there are.
fn spelled(text: impl Strategy<Value = String>) -> impl Strategy<Value = (String, String)> {
    (text, any::<u64>()).prop_map(|(text, mut ways)| {
        let mut json = String::from("\"");
        for character in text.chars() {
            ways = ways.rotate_right(3);
            let short = match character {
                '"' => Some(r#"\""#),
                '\\' => Some(r"\\"),
                '/' => Some(r"\/"),
                '\u{8}' => Some(r"\b"),
                '\u{c}' => Some(r"\f"),
                '\n' => Some(r"\n"),
                '\r' => Some(r"\r"),
                '\t' => Some(r"\t"),
                _ => None,
            };
            let must_escape = character < ' ' || character == '"' || character == '\\';
            match (ways & 7, short) {
                (0..=4, _) if !must_escape => json.push(character),
                (0..=5, Some(short)) => json += short,
                (way, _) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        json += &match way {
                            7 => format!("\\u{unit:04x}"),
                            _ => format!("\\u{unit:04X}"),
                        };
                    }
                }
            }
        }
        json.push('"');
        (text, json)
    })
}

/// Parsed once; a pattern that stands for itself is parsed for each string.
fn regex(pattern: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(pattern).unwrap()
}

fn white_space() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => regex("[ \t\r\n]{1,3}")]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => regex(r"\PC{0,8}"),
        8 => regex(".{0,8}"),
        8 => regex("[é模😀\0\n\"\\\\/]{0,12}"),
        1 => regex("[ -~é]{0,150}"),
    ]
}

/// Keys close to `model`, each with its JSON spelling.
fn key() -> impl Strategy<Value = (String, String)> {
    spelled(prop_oneof![
        3 => Just("model".to_owned()),
        1 => regex("mode|models|[mM][oO][dD][eE][lL]|model[ -~]|[modelé]{5}"),
        2 => text(),
    ])
}

/// Members between white space, and the same with the model replaced.
fn object(value: BoxedStrategy<String>) -> impl Strategy<Value = Document> {
    let space = vec(white_space(), 4).prop_map(|s| <[_; 4]>::try_from(s).unwrap());
    (vec((key(), value, space), 0..6), white_space()).prop_map(|(members, inside)| {
        if members.is_empty() {
            return Document {
                old: format!("{{{inside}}}"),
                new: format!(r#"{{"model":"x"{inside}}}"#),
            };
        }
        let has_model = members.iter().any(|((key, _), ..)| key == "model");
        let mut old = Vec::new();
        let mut new = Vec::new();
        for ((key, json), value, [a, b, c, d]) in members {
            let replaced = if key == "model" { r#""x""# } else { &value };
            old.push(format!("{a}{json}{b}:{c}{value}{d}"));
            new.push(format!("{a}{json}{b}:{c}{replaced}{d}"));
        }
        let inserted = if has_model { "" } else { r#""model":"x","# };
        Document {
            old: format!("{{{}}}", old.join(",")),
            new: format!("{{{inserted}{}}}", new.join(",")),
        }
    })
}

fn array(value: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let element = (white_space(), value, white_space());
    let element = element.prop_map(|(a, value, b)| format!("{a}{value}{b}"));
    (vec(element, 0..6), white_space()).prop_map(|(elements, inside)| {
        if elements.is_empty() {
            format!("[{inside}]")
        } else {
            format!("[{}]", elements.join(","))
        }
    })
}

fn value() -> BoxedStrategy<String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?"),
        spelled(text()).prop_map(|(_, json)| json),
        spelled(Just("model".to_owned())).prop_map(|(_, json)| json),
    ]
    .boxed();
    // Not `prop_recursive`, which makes its strategies, and parses their patterns, for each value.
    let mut value = scalar.clone();
    for _ in 0..4 {
        value = prop_oneof![
            2 => scalar.clone(),
            1 => array(value.clone()),
            1 => object(value).prop_map(|object| object.old),
        ]
        .boxed();
    }
    value
}

fn document() -> impl Strategy<Value = Document> {
    (white_space(), object(value()), white_space()).prop_map(|(a, object, b)| Document {
        old: format!("{a}{}{b}", object.old),
        new: format!("{a}{}{b}", object.new),
    })
}

/// A change at a place (as a share of the length) in a document.
#[derive(Clone, Debug)]
enum Change {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    /// Puts a stretch of the document in at another place.
    Repeat(Index, Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = || {
        prop_oneof![
            prop::sample::select(
                &b"{}[]\",:\\/ \t\nu0123456789+-.eEabdflnrst\x80\xbf\xc3\xed\xf0"[..]
            ),
            any::<u8>(),
        ]
    };
    let snippet = prop::sample::select(
        &[
            "{}",
            "[]",
            "\"\"",
            "\"model\":",
            ",\"model\":1",
            "\\u006d",
            "\\ud83d",
            "\\ude00",
            "\\\"",
            "\\\\",
            "1e999",
            "-0",
            "0.",
            "00",
            "true",
            "null",
            "\u{feff}",
            "é",
            "\u{10ffff}",
        ][..],
    );
    let snippet = snippet.prop_map(|snippet| snippet.as_bytes().to_vec());
    let at = any::<Index>;
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (at(), vec(byte(), 1..3)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), snippet).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..4usize).prop_map(|(at, length)| Change::Delete(at, length)),
        (at(), at(), 1..20usize).prop_map(|(from, to, length)| Change::Repeat(from, to, length)),
    ]
}

fn apply(body: &mut Vec<u8>, change: Change) {
    let stretch = |body: &[u8], at: Index, length: usize| {
        let start = at.index(body.len() + 1);
        start..(start + length).min(body.len())
    };
    match change {
        Change::Replace(at, byte) => {
            let place = stretch(body, at, 1);
            body.splice(place, [byte]);
        }
        Change::Insert(at, bytes) => {
            let place = stretch(body, at, 0);
            body.splice(place, bytes);
        }
        Change::Delete(at, length) => {
            let place = stretch(body, at, length);
            body.drain(place);
        }
        Change::Repeat(from, to, length) => {
            let bytes = body[stretch(body, from, length)].to_vec();
            let place = stretch(body, to, 0);
            body.splice(place, bytes);
        }
    }
}

/// That the scan finds what `serde_json` finds in `old`, and `new` differs in its top-level models
/// only.
fn check_members(old: &[u8], new: &[u8]) -> Result<(), TestCaseError> {
    let read = serde_json::from_slice::<Members<Value>>;
    // A `Value` doesn't take everything that a backend may.
    let Ok(Members(mut expected)) = read(old) else {
        return Ok(());
    };
    let values = |values: &[super::scanner::Value]| -> Vec<Value> {
        let spans = values.iter().map(|value| &old[value.span.clone()]);
        spans
            .map(|json| serde_json::from_slice(json).unwrap())
            .collect()
    };
    let named = |is_named: fn(&[u8]) -> bool| -> Vec<Value> {
        let members = expected.iter().filter(|(key, _)| is_named(&key.0));
        members.map(|(_, value)| value.clone()).collect()
    };
    let found = scan(old).unwrap();
    prop_assert_eq!(values(&found.models), named(|key| key == b"model"));
    let is_look_alike = |key: &[u8]| key != b"model" && key.eq_ignore_ascii_case(b"model");
    prop_assert_eq!(values(&found.look_alikes), named(is_look_alike));

    let x = Value::from("x");
    let mut found = false;
    for (_, value) in expected.iter_mut().filter(|(key, _)| key.0 == b"model") {
        *value = x.clone();
        found = true;
    }
    if !found {
        expected.insert(0, (Key(b"model".to_vec()), x));
    }
    prop_assert_eq!(read(new).unwrap().0, expected);
    Ok(())
}

/// `body` in chunks, cut at these places.
fn cut(body: &[u8], at: Vec<Index>) -> Vec<Bytes> {
    let mut at: Vec<usize> = at.iter().map(|at| at.index(body.len() + 1)).collect();
    at.sort_unstable();
    at.push(body.len());
    let mut start = 0;
    at.into_iter()
        .map(|end| Bytes::copy_from_slice(&body[std::mem::replace(&mut start, end)..end]))
        .collect()
}

/// Both read `body`, and the same in it; or neither does.
fn check_against_serde(body: &[u8]) -> Result<(), TestCaseError> {
    let spliced = splice(body);
    let text = body.escape_ascii();
    prop_assert_eq!(
        spliced.is_ok(),
        serde_accepts(body),
        "{}: {:?}",
        text,
        spliced
    );
    match spliced {
        Ok(new) => check_members(body, &new),
        Err(_) => Ok(()),
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn only_the_top_level_models_change(
        document in document(),
        cuts in vec(any::<Index>(), 0..5),
    ) {
        let new = splice_chunks(cut(document.old.as_bytes(), cuts));
        let new = new.map(|new| String::from_utf8(new).unwrap());
        prop_assert_eq!(new, Ok(document.new));
        check_against_serde(document.old.as_bytes())?;
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_damaged_document_is_read_as_serde_json_reads_it(
        document in document(),
        changes in vec(change(), 1..3),
        cuts in vec(any::<Index>(), 1..5),
    ) {
        let mut body = document.old.into_bytes();
        for change in changes {
            apply(&mut body, change);
        }
        check_against_serde(&body)?;
        prop_assert_eq!(splice_chunks(cut(&body, cuts)), splice(&body));
    }

    #[test]
    fn odd_numbers_and_escapes_are_read_as_serde_json_reads_them(
        number in regex("-{0,2}[0-9]{0,3}[.]?[0-9]{0,2}([eE][+-]?[0-9]{0,3})?"),
        escapes in regex(r#"(a|é|\\|\\[bfnrtu/\\"xU]|\\u[dD][89a-fA-F][0-9]{2}|\\u[0-9a-gA-G]{3,5}){0,6}"#),
    ) {
        check_against_serde(format!(r#"{{"n":{number}}}"#).as_bytes())?;
        check_against_serde(format!(r#"{{"n":"{escapes}"}}"#).as_bytes())?;
        check_against_serde(format!(r#"{{"{escapes}":1}}"#).as_bytes())?;
    }

    /// The containers' kinds are kept 64 to a word.
    #[test]
    fn containers_are_closed_by_their_kind(
        kinds in vec(any::<bool>(), 0..300),
        wrong in any::<Index>(),
        is_wrong in any::<bool>(),
    ) {
        let mut body = r#"{"a":"#.to_owned();
        for &is_object in &kinds {
            body += if is_object { r#"{"b":0,"model":"# } else { "[0," };
        }
        body += "0";
        let wrong = is_wrong.then(|| wrong.index(kinds.len() + 1));
        for (at, is_object) in kinds.iter().enumerate().rev() {
            body += if is_object ^ (wrong == Some(at)) { "}" } else { "]" };
        }
        body += "}";
        let is_right = wrong.is_none_or(|at| at == kinds.len());
        prop_assert_eq!(splice(body.as_bytes()).is_ok(), is_right, "{}", body);
        prop_assert_eq!(serde_accepts(body.as_bytes()), is_right, "{}", body);
    }
}

// The reader of the model.

use super::ModelReader;

fn read_model(chunks: &[&[u8]]) -> Option<String> {
    let mut reader = ModelReader::default();
    for chunk in chunks {
        reader.feed(chunk);
    }
    reader.into_model()
}

#[test]
fn the_top_level_model_is_read_wherever_the_chunks_are_cut() {
    for (text, expected) in [
        (r#"{"model":"gpt-4o","messages":[]}"#, Some("gpt-4o")),
        (" \r\n{ \"model\" :\n\t\"gpt-4o\" }", Some("gpt-4o")),
        (
            r#"{"messages":[{"model":"no"}],"x":{"model":"no"},"model":"yes"}"#,
            Some("yes"),
        ),
        (
            r#"{"x":"{\"model\":\"no\"}","y":"\\","model":"yes"}"#,
            Some("yes"),
        ),
        (
            r#"{"x":"model","y":["model","no"],"models":"no","model":"yes"}"#,
            Some("yes"),
        ),
        (r#"{"model":null,"model":"yes","model":"no"}"#, Some("yes")),
        (r#"{"model":"a\"b\u00e9"}"#, Some("a\"bé")),
        (r#"{"model":""}"#, Some("")),
        (r#"{"model":"cut"#, None),
        (r#"{"mod\u0065l":"escaped"}"#, None),
        (r#"{"x":1}{"model":"no"}"#, None),
        (r#"[{"model":"no"}]"#, None),
        (r#""model":"no""#, None),
        ("", None),
    ] {
        let expected = expected.map(str::to_owned);
        let text = text.as_bytes();
        for cut in 0..=text.len() {
            let (first, rest) = text.split_at(cut);
            assert_eq!(read_model(&[first, rest]), expected, "{cut}");
        }
        let bytes: Vec<_> = text.chunks(1).collect();
        assert_eq!(read_model(&bytes), expected);
    }
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(1000));
    assert_eq!(read_model(&[long.as_bytes()]).unwrap().len(), 256);
    let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
    assert_eq!(read_model(&[deep.as_bytes()]), None);
}
