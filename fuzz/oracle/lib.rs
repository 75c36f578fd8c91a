//! The proxy's HTTP/1.1 connection to backends and hyper's client read the same responses.
//!
//! Both must read a response alike, or the difference must have a name in [`rules`], which says by
//! which part of the RFC it is right. The tests make responses at random ([`generate`]), well-formed
//! ones and others, in chunks; the fuzz target `responses` makes more of them.

#[cfg(test)]
mod generate;
mod outcome;
mod rules;
#[cfg(test)]
mod tests;
mod wire;

use self::{
    outcome::{Ending, Outcome, hypers, ours},
    rules::explain,
    wire::{Case, End},
};

/// Gives the name of the difference, if there is one.
///
/// # Errors
///
/// The outcomes differ and nothing explains it, or ours depends on how the input was split.
fn compare(case: &Case) -> Result<Option<&'static str>, String> {
    let ours = ours(case);
    check_splits(case, &ours)?;
    let hypers = hypers(case);
    if ours == hypers {
        return Ok(None);
    }
    match explain(case, &ours, &hypers) {
        Some(rule) => Ok(Some(rule)),
        None => Err(format!("{case:?}\n  ours: {ours:?}\n  hyper's: {hypers:?}")),
    }
}

/// Compares them on what a fuzzer gives: a byte for the request and the end, one for the pieces, and
/// the response.
///
/// # Panics
///
/// An unexplained difference.
pub fn fuzz(input: &[u8]) {
    use self::wire::To;

    let [how, length, response @ ..] = input else {
        return;
    };
    let case = Case {
        to: [To::Get, To::Head, To::Unfinished, To::Unread][usize::from(how & 3)],
        pieces: vec![bytes::Bytes::copy_from_slice(response)],
        end: [End::Close, End::Silent, End::Reset, End::Close][usize::from(how >> 2 & 3)],
    };
    let case = case.split_by(usize::from(*length).max(1));
    compare(&case).unwrap_or_else(|difference| panic!("{difference}"));
}

/// However the input comes, it is read the same, up to the end of the response and not further; and
/// what is cut before that end has none.
fn check_splits(case: &Case, outcome: &Outcome) -> Result<(), String> {
    let differs = |what: &str, other: &Case, seen: &Outcome| {
        let text = format!("{what}\n{case:?}\n  {outcome:?}\n{other:?}\n  {seen:?}");
        if seen == outcome { Ok(()) } else { Err(text) }
    };
    let whole = case.split_by(usize::MAX);
    differs("read as a whole", &whole, &ours(&whole))?;
    // A head is parsed anew with each piece, so a large one in single bytes takes its time.
    if case.input().len() > 600 {
        let pieces = case.split_by(case.input().len() / 20);
        return differs("read in pieces", &pieces, &ours(&pieces));
    }
    let bytes = case.split_by(1);
    differs("read byte by byte", &bytes, &ours(&bytes))?;

    // Where it ends without the connection's end, byte by byte shows how far it was read.
    let silent = |case: Case| Case {
        end: End::Silent,
        ..case
    };
    let seen = ours(&silent(bytes));
    if seen.ending != Ending::Clean {
        return Ok(());
    }
    let alone = silent(case.cut(seen.read));
    let is_alone = case.end == End::Silent && case.input().len() == seen.read;
    let reusable = is_alone && ours(&alone).reusable;
    if outcome.reusable != reusable {
        return Err(format!("behind its end\n{case:?}\n  {outcome:?}"));
    }
    for cut in (0..seen.read).rev().take(4).chain([seen.read / 2]) {
        let cut = Case {
            end: End::Close,
            ..case.cut(cut)
        };
        let seen = ours(&cut);
        if seen.ending != Ending::Failed {
            return Err(format!("cut off\n{cut:?}\n  {seen:?}"));
        }
    }
    Ok(())
}
