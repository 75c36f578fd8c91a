use proptest::prelude::*;
use serde_json::Value;

use super::comments;

#[test]
fn comments_end_where_they_should() {
    for (text, json) in [
        ("1 # 2\n3", "1    \n3"),
        ("1 # 2\r\n3", "1     \n3"),
        ("1//2", "1   "),
        ("1/*2\n3*/4", "1   \n   4"),
        ("1/**/2/***/3/*/*/4", "1    2     3     4"),
        ("1/*é*/2", "1      2"),
        ("/ /", "/ /"),
        (r##""#" "//" "/*" "*/""##, r##""#" "//" "/*" "*/""##),
        (r##""\"#" "\\"#""##, r##""\"#" "\\"  "##),
        (r##""\\\"#" // ""##, r##""\\\"#"     "##),
        ("\"open # \n# \"", "\"open # \n   "),
        ("\"open\\", "\"open\\"),
    ] {
        assert_eq!(comments::blank(text).as_deref(), Ok(json), "{text}");
    }
    for (text, start) in [("1/*", 1), ("/*/", 0), ("é\"/*\"/*\n*", 6)] {
        assert_eq!(comments::blank(text), Err(start), "{text}");
    }
}

/// The tokens of `value` as JSON.
fn tokens(value: &Value) -> Vec<String> {
    let list = |open: &str, items: Vec<Vec<String>>, close: &str| {
        let items = items.join(&",".to_owned());
        [vec![open.to_owned()], items, vec![close.to_owned()]].concat()
    };
    match value {
        Value::Array(items) => list("[", items.iter().map(tokens).collect(), "]"),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let name = Value::from(name.as_str()).to_string();
                [vec![name, ":".to_owned()], tokens(value)].concat()
            };
            list("{", members.iter().map(member).collect(), "}")
        }
        plain => vec![plain.to_string()],
    }
}

fn any_document() -> impl Strategy<Value = Value> {
    let text = || prop_oneof![any::<String>(), r##"["#/*\\ a]{0,6}"##];
    let plain = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    plain.prop_recursive(4, 32, 5, move |inner| {
        let members = prop::collection::hash_map(text(), inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::from),
            members.prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn any_blank() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ \t\r\n]{0,2}",
        r##"(#|//)["#/*\\{é ]{0,6}"##.prop_map(|comment| comment + "\n"),
        r##"/\*["#/\\{é \n]{0,6}\*/"##,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn comments_change_nothing(
        document in any_document(),
        blanks in prop::collection::vec(any_blank(), 1..20),
    ) {
        let mut text = blanks[0].clone();
        for (token, blank) in tokens(&document).iter().zip(blanks.iter().cycle()) {
            text = text + token + blank;
        }
        let json = comments::blank(&text).unwrap();
        let lines = |text: &str| text.split('\n').map(str::len).collect::<Vec<_>>();
        prop_assert_eq!(lines(&json), lines(&text));
        prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), document);
    }
}
