use std::collections::HashMap;

use http::Request;

use super::*;
use crate::{affinity::StableHash, backend::InFlight, route::BackendRouteLayer};

/// Backends with these further fields, called `b0`, `b1` and so on.
fn backends(fields: &[&str]) -> Vec<Backend> {
    let entries = fields.iter().enumerate().map(|(number, fields)| {
        format!(r#"{{"name":"b{number}","url":"http://10.0.0.1"{fields}}}"#)
    });
    let entries: Vec<_> = entries.collect();
    let text = format!(r#"{{"primary_backends":[{}]}}"#, entries.join(","));
    let layer = BackendRouteLayer::from_config(&text.parse().unwrap());
    layer.backends().to_vec()
}

fn select(selector: &impl Select, backends: &[Backend], value: Option<&str>) -> Vec<String> {
    let (head, ()) = Request::new(()).into_parts();
    let affinity = value.map(|value| StableHash::of(value.as_bytes()));
    let selected = selector.select(&Selection::new(&head, None, backends, affinity));
    selected.iter().map(|it| it.name().to_owned()).collect()
}

fn busy(backend: &Backend, count: usize) -> Vec<InFlight> {
    (0..count)
        .map(|_| InFlight::begin(backend.clone()).ok().unwrap())
        .collect()
}

#[test]
fn a_lower_priority_comes_first() {
    let backends = backends(&[r#","priority":1"#, "", r#","priority":-1"#, ""]);
    assert_eq!(select(&Order, &backends, None), ["b2", "b1", "b3", "b0"]);
    let busy = [busy(&backends[2], 9), busy(&backends[1], 1)];
    let order = select(&LeastBusy::new(), &backends, None);
    assert_eq!(order, ["b2", "b3", "b1", "b0"]);
    drop(busy);
    let order = select(&Affinity::new(Order), &backends, Some("value"));
    assert_eq!((&*order[0], &*order[3]), ("b2", "b0"));
}

#[test]
fn the_least_busy_is_that_by_weight() {
    let backends = backends(&["", r#","weight":4"#, r#","weight":0.5"#]);
    let _busy = [
        busy(&backends[0], 2),
        busy(&backends[1], 4),
        busy(&backends[2], 2),
    ];
    for _ in 0..20 {
        assert_eq!(
            select(&LeastBusy::new(), &backends, None),
            ["b1", "b0", "b2"]
        );
    }
}

#[test]
fn equals_are_chosen_at_random_in_proportion_to_their_weights() {
    for (weight, range) in [("1", 60..=140), ("3", 120..=180)] {
        let backends = backends(&[&format!(r#","weight":{weight}"#), ""]);
        let selector = LeastBusy::new();
        let chosen = (0..200).filter(|_| select(&selector, &backends, None)[0] == "b0");
        let count = chosen.count();
        assert!(range.contains(&count), "{count} of weight {weight}");
    }
}

#[test]
fn a_value_keeps_its_backend_and_without_one_only_its_values_move() {
    let all = backends(&[""; 4]);
    let selector = Affinity::new(Order);
    let mut counts = HashMap::new();
    for number in 0..1000 {
        let value = format!("value {number}");
        let order = select(&selector, &all, Some(&value));
        assert_eq!(order, select(&Affinity::new(Order), &all, Some(&value)));
        let without = select(&selector, &all[1..], Some(&value));
        let expected: Vec<_> = order.iter().filter(|it| *it != "b0").cloned().collect();
        assert_eq!(without, expected);
        *counts.entry(order[0].clone()).or_insert(0) += 1;
    }
    assert!(
        counts.values().all(|count| (180..320).contains(count)),
        "{counts:?}"
    );
    // The same in every process and version.
    assert_eq!(select(&selector, &all, Some("a")), GOLDEN);
    assert_eq!(select(&selector, &all, None), ["b0", "b1", "b2", "b3"]);
}

const GOLDEN: [&str; 4] = ["b3", "b2", "b0", "b1"];

#[test]
fn values_are_spread_by_weight() {
    let backends = backends(&[r#","weight":3"#, ""]);
    let heavy = (0..1000).filter(|number| {
        let value = number.to_string();
        select(&Affinity::new(Order), &backends, Some(&value))[0] == "b0"
    });
    let heavy = heavy.count();
    assert!((690..810).contains(&heavy), "{heavy}");
}

#[test]
fn a_backend_over_its_share_is_passed_over() {
    let backends = backends(&["", ""]);
    let selector = Affinity::new(Order);
    let first = select(&selector, &backends, Some("value"))[0].clone();
    let [own, other] = match &*first {
        "b0" => [&backends[0], &backends[1]],
        _ => [&backends[1], &backends[0]],
    };
    let chosen = |own_count, other_count| {
        let _busy = [busy(own, own_count), busy(other, other_count)];
        select(&selector, &backends, Some("value"))[0] == first
    };
    assert!(chosen(7, 0), "fewer than 8");
    assert!(!chosen(8, 0)); // more than 1.25 * 9 / 2
    assert!(!chosen(16, 8)); // 1.25 * 25 / 2 = 15.625
    assert!(chosen(15, 8)); // 1.25 * 24 / 2 = 15
    assert!(chosen(8, 8));
}
