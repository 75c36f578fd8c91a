use super::*;

fn pattern(text: &str) -> ModelPattern {
    ModelPattern::parse(text).unwrap_or_else(|| panic!("{text}"))
}

fn map(rules: &[(&str, &str)]) -> ModelMap {
    ModelMap::new(rules.iter().map(|(text, name)| (pattern(text), *name)))
}

#[test]
fn a_wildcard_stands_for_anything() {
    for (text, model, captured) in [
        ("gpt-*", "gpt-4o", Some("4o")),
        ("gpt-*", "gpt-", Some("")),
        ("gpt-*", "gpt", None),
        ("gpt-*", "GPT-4o", None),
        ("*", "", Some("")),
        ("*", "a/b", Some("a/b")),
        ("*-mini", "gpt-mini", Some("gpt")),
        ("o*-mini", "o-mini", Some("")),
        ("ab*bc", "abc", None),
        ("é*", "éa", Some("a")),
        ("gpt-4o", "gpt-4o", Some("")),
        ("gpt-4o", "gpt-4o-mini", None),
    ] {
        assert_eq!(pattern(text).capture(model), captured, "{text} {model}");
    }
}

#[test]
fn patterns_that_are_not_allowed() {
    for text in ["", "**", "a*b*", "a\n", "\u{7f}*", "a\u{fffd}"] {
        assert_eq!(ModelPattern::parse(text), None, "{text:?}");
    }
}

#[test]
fn names_come_before_patterns_and_more_characters_before_fewer() {
    let order = ["a", "ab*cd", "äöü*", "ab*", "*"];
    let ranks = order.map(|text| pattern(text).specificity());
    assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
    assert_eq!(pattern("abc").specificity(), pattern("z").specificity());
    assert_eq!(pattern("a*b").specificity(), pattern("ab*").specificity());
    assert_eq!(pattern("é*").specificity(), pattern("e*").specificity());
    assert_eq!(pattern("*").specificity(), Specificity::LEAST);
}

#[test]
fn the_most_specific_rule_names_a_model() {
    let map = map(&[
        ("*", ""),
        ("openai/*", "*"),
        ("openai/o*", "reasoning-*-*"),
        ("fast", "gpt-4o-mini"),
        ("gpt-*", "llama"),
    ]);
    for (model, name) in [
        ("fast", Some("gpt-4o-mini")),
        ("openai/gpt-4o", Some("gpt-4o")),
        ("openai/", Some("")),
        ("openai/o3", Some("reasoning-3-3")),
        ("gpt-5", Some("llama")),
        ("other", None),
    ] {
        assert_eq!(map.rename(model).as_deref(), name, "{model}");
        assert!(map.specificity(model).is_some());
    }
    assert!(map.renames());
    let plain = self::map(&[("gpt-*", ""), ("o3", "")]);
    assert!(!plain.renames());
    assert_eq!(plain.rename("o3"), None);
    assert_eq!(plain.specificity("o3"), Some(Specificity::Exact));
    assert_eq!(plain.specificity("o4"), None);
}

#[test]
fn aliases_are_the_names_that_lead_to_a_model() {
    for (rules, name, aliases) in [
        (&[("gpt-*", "")][..], "gpt-4o", &["gpt-4o"][..]),
        (&[("gpt-*", "")], "o3", &[]),
        (&[("b", "m"), ("a", "m")], "m", &["b", "a"]),
        (&[("b", "m"), ("m", "")], "m", &["m", "b"]),
        (&[("openai/*", "*")], "m", &["openai/m"]),
        (&[("*", "x-*")], "x-m", &["m"]),
        (&[("*", "x-*"), ("m", "y")], "x-m", &[]),
        (&[("*", "llama")], "llama", &["llama"]),
        (&[("*", "llama")], "other", &[]),
    ] {
        assert_eq!(map(rules).aliases(name), aliases, "{rules:?} {name}");
    }
}

#[test]
fn names_are_the_patterns_without_a_wildcard() {
    let map = map(&[("z", ""), ("*", ""), ("fast", "m")]);
    assert_eq!(map.names().collect::<Vec<_>>(), ["z", "fast"]);
}
