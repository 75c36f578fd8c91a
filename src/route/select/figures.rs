//! What the choices are worth, by simulation. `cargo test --lib route::select::figures --
//! --nocapture` prints the figures.

use std::{
    collections::{BinaryHeap, HashMap},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http::{Request, request::Parts};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    affinity::mix,
    backend::{Admission, InFlight},
    route::BackendRouteLayer,
};

fn backends(count: usize, settings: &str) -> Vec<Backend> {
    let entry = |number| format!(r#"{{"name":"b{number}","url":"http://10.0.0.1"}}"#);
    let entries: Vec<_> = (0..count).map(entry).collect();
    let entries = entries.join(",");
    let text = format!(r#"{{"primary_backends":[{entries}],"settings":{{{settings}}}}}"#);
    let layer = BackendRouteLayer::from_config(&text.parse().unwrap());
    layer.backends().to_vec()
}

fn head() -> Parts {
    Request::new(()).into_parts().0
}

fn choose(selector: &dyn Select, backends: &[Backend], value: Option<u64>) -> Backend {
    let head = head();
    let value = value.map(|value| StableHash::of(&value.to_le_bytes()));
    let selection = Selection::new(&head, None, backends, value);
    selector.select(&selection).swap_remove(0)
}

fn number(backend: &Backend) -> usize {
    backend.name()[1..].parse().unwrap()
}

/// Pseudorandom numbers from 0 to 1, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ends of requests, the earliest first.
#[derive(Default)]
struct Ends(
    BinaryHeap<(std::cmp::Reverse<u64>, usize)>,
    Vec<Option<InFlight>>,
);

impl Ends {
    fn push(&mut self, at: u64, in_flight: InFlight) {
        self.0.push((std::cmp::Reverse(at), self.1.len()));
        self.1.push(Some(in_flight));
    }

    fn until(&mut self, now: u64) {
        while self.0.peek().is_some_and(|(at, _)| at.0 <= now) {
            let (_, index) = self.0.pop().unwrap();
            self.1[index] = None;
        }
    }
}

/// 4 servers of 8 slots each, one of which takes three times as long: p50, p99 and the requests that
/// each got.
fn one_slow(selector: &dyn Select) -> (u64, u64, [usize; 4]) {
    let backends = backends(4, "");
    let mut slots = [[0u64; 8]; 4];
    let (mut ends, mut random) = (Ends::default(), Random(1));
    let (mut times, mut counts) = (Vec::new(), [0; 4]);
    let mut now = 0;
    for _ in 0..20_000 {
        now += (random.next() * 12_000.0) as u64; // microseconds: 167 requests a second
        ends.until(now);
        let chosen = choose(selector, &backends, None);
        let server = number(&chosen);
        let slow = if server == 3 { 3 } else { 1 };
        let work = (50_000.0 + random.next() * 100_000.0) as u64 * slow;
        let slot = slots[server].iter_mut().min().unwrap();
        let end = now.max(*slot) + work;
        *slot = end;
        ends.push(end, InFlight::begin(chosen.clone()).ok().unwrap());
        times.push(end - now);
        counts[server] += 1;
    }
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize] / 1000;
    (at(0.5), at(0.99), counts)
}

#[test]
fn a_slow_server_gets_less() {
    let turn = AtomicUsize::new(0);
    let round_robin = select_fn(move |request| {
        let mut order = request.backends().to_vec();
        order.rotate_left(turn.fetch_add(1, Relaxed) % 4);
        order
    });
    let order = one_slow(&Order);
    let least_busy = one_slow(&LeastBusy::new());
    let round_robin = one_slow(&round_robin);
    println!("(p50 ms, p99 ms, requests): order {order:?}");
    println!("least_busy {least_busy:?}, round robin {round_robin:?}");
    assert!(least_busy.1 < round_robin.1 && least_busy.1 < order.1);
    assert!(least_busy.2[3] < 4000);
}

/// The share of turns that reach the server of the turn before, and the greatest in flight against
/// the mean.
fn conversations(selector: &dyn Select, leaves: bool) -> (f64, f64) {
    const TURNS: u64 = 40_000;
    let all = backends(8, "");
    let weights: Vec<f64> = (1..=2000).map(|rank| 1.0 / f64::from(rank)).collect();
    let total: f64 = weights.iter().sum();
    let (mut ends, mut random) = (Ends::default(), Random(2));
    let mut last = HashMap::new();
    let (mut same, mut turns, mut greatest, mut sum) = (0u64, 0u64, 0, 0);
    for turn in 0..TURNS {
        let now = turn * 1000;
        ends.until(now);
        let mut left = random.next() * total;
        let picked = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let conversation = picked.unwrap_or(0) as u64;
        let is_away = leaves && (TURNS / 3..TURNS * 2 / 3).contains(&turn);
        let backends = if is_away { &all[1..] } else { &all[..] };
        let chosen = choose(selector, backends, Some(conversation));
        if let Some(before) = last.insert(conversation, number(&chosen)) {
            turns += 1;
            same += u64::from(before == number(&chosen));
        }
        ends.push(now + 200_000, InFlight::begin(chosen.clone()).ok().unwrap());
        if turn > 1000 && !is_away {
            let counts = all.iter().map(Backend::in_flight);
            greatest = greatest.max(counts.clone().max().unwrap());
            sum += counts.sum::<usize>() as u64;
        }
    }
    let mean = sum as f64
        / if leaves {
            TURNS as f64 * 2.0 / 3.0
        } else {
            TURNS as f64
        }
        / 8.0;
    (same as f64 / turns as f64, greatest as f64 / mean)
}

#[test]
fn affinity_keeps_conversations_and_bounds_the_load() {
    let with = conversations(&Affinity::new(Order), false);
    let without = conversations(&LeastBusy::new(), false);
    let leaving = conversations(&Affinity::new(Order), true);
    println!("(same server, greatest / mean in flight): affinity {with:?}");
    println!("without {without:?}, one server leaves and comes back {leaving:?}");
    assert!(with.0 > 0.8 && without.0 < 0.3 && leaving.0 > 0.75);
    assert!(with.1 < 1.5, "1.25 and rounding");
}

/// A backend fails for 10 s under 500 requests a second.
#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_gets_few_probes() {
    let backends = backends(2, r#""cooldown":1,"failures":3"#);
    let [failing, other] = &backends[..] else {
        unreachable!()
    };
    let started = Instant::now();
    let (mut asked, mut probes, mut others) = (0, 0, 0);
    while started.elapsed() < Duration::from_secs(20) {
        let is_down = started.elapsed() < Duration::from_secs(10);
        let probe = match failing.admit() {
            Admission::Cooling => {
                others += 1;
                other.record_success();
                sleep(Duration::from_millis(2)).await;
                continue;
            }
            Admission::Probe(probe) => {
                probes += 1;
                Some(probe)
            }
            Admission::Up => None,
        };
        asked += 1;
        if is_down {
            failing.record_failure(None);
        } else {
            failing.record_success();
        }
        drop(probe);
        sleep(Duration::from_millis(2)).await;
    }
    println!("asked {asked} times, {probes} of them probes; {others} went to the other");
    assert!(probes <= 4, "after 1, 3, 7 and 15 s");
    assert!(failing.is_available());
}
